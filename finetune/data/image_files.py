"""Rows that refer to image files: class folders, glob patterns, tables with a column of paths.

Nothing is decoded here; the task finds out if a file is a valid image.

A row: {"image": "flowers/train/daisy/1.jpg", "label": "daisy", "file": "train/daisy/1.jpg"}
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Image

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import DataError

_ADDRESS = ("http://", "https://", "s3://", "gs://", "hf://", "file://", "/", "~", "\\")
_INSPECTED = 100  # first values of a column


def is_image_file(name: str | Path) -> bool:
    """True if the name has the ending of an image format."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def count_image_files(folder: Path) -> int:
    """Count the images in a folder and in its class folders."""
    children = list_visible(folder)
    inside = (path for child in children if child.is_dir() for path in child.rglob("*"))
    return sum(map(is_image_file, children)) + sum(map(is_image_file, inside))


def read_class_folders(folder: Path) -> tuple[Dataset, list[Path]]:
    """Read class folders into the columns image, label (the folder) and file; return other files.

    Without class folders, images directly in `folder` give rows without a label column. Raises
    DataError if there are both.
    """
    labeled: list[tuple[Path, str]] = []
    loose, unread = [], []
    for child in list_visible(folder):
        if child.is_dir():
            inside = [path for path in sorted(child.rglob("*")) if path.is_file()]
            labeled += [(path, child.name) for path in inside if is_image_file(path)]
            unread += [path for path in inside if not is_image_file(path)]
        elif is_image_file(child):
            loose.append(child)
        else:
            unread.append(child)
    if labeled and loose:
        raise DataError(
            f"{folder}: images outside the class folders: {len(loose)}, such as"
            f" {loose[0].name}; move each into the folder of its class"
        )
    labels = [label for _, label in labeled]
    return _table([path for path, _ in labeled] or loose, folder, labels or None), unread


def is_pattern(reference: str) -> bool:
    """True for a glob pattern such as photos/*.jpg, unless it is a file: news[1].csv may exist."""
    return glob.has_magic(reference) and not Path(reference).expanduser().exists()


def read_image_files(pattern: str) -> Dataset | None:
    """Return the images that a glob pattern or the name of an image file refers to, else None.

    Raises DataError for a pattern that matches no image.
    """
    if not is_pattern(pattern):
        path = Path(pattern).expanduser()
        return _table([path], path.parent) if is_image_file(path) and path.is_file() else None
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    paths = [Path(name) for name in matches if is_image_file(name)]
    if not paths:
        raise DataError(f"{pattern}: no image matches this pattern ({len(matches)} other files do)")
    return _table(paths, Path(os.path.commonpath([path.parent for path in paths])))


def complete_paths(rows: Dataset, folder: Path) -> Dataset:
    """Resolve the image paths in the columns of a table that lies in `folder`.

    Only for columns whose first values all end like images. Paths are relative to the table's
    folder, unless the first one exists only relative to the working directory.
    """
    for column, kind in zip(rows.column_names, rows.data.schema.types, strict=True):
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        first = [value for value in rows[:_INSPECTED][column] if value]
        if not first or not all(map(is_image_file, first)):
            continue
        if not (folder / first[0]).is_file() and Path(first[0]).is_file():
            continue
        paths = [_resolve(value, folder) for value in rows[column]]
        order = rows.column_names
        rows = rows.remove_columns(column).add_column(column, pa.array(paths, pa.string()))
        rows = rows.select_columns(order)
    return rows


def disable_image_decoding(rows: Dataset) -> Dataset:
    """Return the rows with images as {"bytes", "path"}, so that a broken one fails its row only."""
    for column, feature in rows.features.items():
        if isinstance(feature, Image) and feature.decode:
            rows = rows.cast_column(column, Image(mode=feature.mode, decode=False))
    return rows


def _resolve(value: str | None, folder: Path) -> str | None:
    return value if not value or value.startswith(_ADDRESS) else (folder / value).as_posix()


def _table(paths: Sequence[Path], root: Path, labels: Sequence[str] | None = None) -> Dataset:
    columns: dict[str, Sequence[str]] = {"image": [path.as_posix() for path in paths]}
    if labels is not None:
        columns["label"] = labels
    columns["file"] = [path.relative_to(root).as_posix() for path in paths]
    return Dataset.from_dict(columns)


def list_visible(folder: Path) -> list[Path]:
    """Return the children of a folder sorted by name, without hidden ones."""
    children = (child for child in folder.iterdir() if not child.name.startswith((".", "__")))
    return sorted(children, key=lambda child: child.name)  # paths sort differently on Windows
