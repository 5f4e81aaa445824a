"""Pictures on disk -> rows that name them: class folders, patterns, tables with a column of paths.

Nothing is decoded here: whether a file holds a picture, the task finds out.

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
_LOOKED_AT = 100  # first values of a column


def is_picture(name: str | Path) -> bool:
    """Whether the ending of a name is that of a picture."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def count_pictures(folder: Path) -> int:
    """How many pictures a folder and the class folders in it hold."""
    children = visible(folder)
    inside = (path for child in children if child.is_dir() for path in child.rglob("*"))
    return sum(map(is_picture, children)) + sum(map(is_picture, inside))


def read_pictures(folder: Path) -> tuple[Dataset, list[Path]]:
    """Class folders as columns image, label (the folder) and file, and what is no picture.

    Pictures that stand in no class folder have no label, and the table then no column for it.
    """
    labelled: list[tuple[Path, str]] = []
    loose, unread = [], []
    for child in visible(folder):
        if child.is_dir():
            inside = [path for path in sorted(child.rglob("*")) if path.is_file()]
            labelled += [(path, child.name) for path in inside if is_picture(path)]
            unread += [path for path in inside if not is_picture(path)]
        elif is_picture(child):
            loose.append(child)
        else:
            unread.append(child)
    if labelled and loose:
        raise DataError(
            f"{folder}: {len(loose)} pictures stand beside the class folders, {loose[0].name} for"
            " one; move each into the folder of its class"
        )
    labels = [label for _, label in labelled]
    return _table([path for path, _ in labelled] or loose, folder, labels or None), unread


def is_pattern(reference: str) -> bool:
    """Whether a reference is a pattern, photos/*.jpg, and no name: news[1].csv may be a file."""
    return glob.has_magic(reference) and not Path(reference).expanduser().exists()


def read_picture_files(pattern: str) -> Dataset | None:
    """The pictures that a pattern (photos/*.jpg) or a file's name means; None: it is neither.

    Raises DataError for a pattern that no picture fits.
    """
    if not is_pattern(pattern):
        path = Path(pattern).expanduser()
        return _table([path], path.parent) if is_picture(path) and path.is_file() else None
    found = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    paths = [Path(name) for name in found if is_picture(name)]
    if not paths:
        raise DataError(f"{pattern}: no picture fits this pattern ({len(found)} other files do)")
    return _table(paths, Path(os.path.commonpath([path.parent for path in paths])))


def complete_paths(rows: Dataset, folder: Path) -> Dataset:
    """The rows of a table in `folder`, with the columns of picture files led to where those are.

    Only columns whose first values all end like pictures; a path counts from the table's folder,
    unless the first one is found from the working folder alone.
    """
    for column, kind in zip(rows.column_names, rows.data.schema.types, strict=True):
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        first = [value for value in rows[:_LOOKED_AT][column] if value]
        if not first or not all(map(is_picture, first)):
            continue
        if not (folder / first[0]).is_file() and Path(first[0]).is_file():
            continue
        paths = [_lead(value, folder) for value in rows[column]]
        order = rows.column_names
        rows = rows.remove_columns(column).add_column(column, pa.array(paths, pa.string()))
        rows = rows.select_columns(order)
    return rows


def undecoded(rows: Dataset) -> Dataset:
    """The rows with pictures as {"bytes", "path"}: a broken one then is a fault of its row."""
    for column, feature in rows.features.items():
        if isinstance(feature, Image) and feature.decode:
            rows = rows.cast_column(column, Image(mode=feature.mode, decode=False))
    return rows


def _lead(value: str | None, folder: Path) -> str | None:
    return value if not value or value.startswith(_ADDRESS) else (folder / value).as_posix()


def _table(paths: Sequence[Path], root: Path, labels: Sequence[str] | None = None) -> Dataset:
    columns: dict[str, Sequence[str]] = {"image": [path.as_posix() for path in paths]}
    if labels is not None:
        columns["label"] = labels
    columns["file"] = [path.relative_to(root).as_posix() for path in paths]
    return Dataset.from_dict(columns)


def visible(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files."""
    children = (child for child in folder.iterdir() if not child.name.startswith((".", "__")))
    return sorted(children, key=lambda child: child.name)  # Paths compare otherwise on Windows
