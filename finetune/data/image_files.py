"""Rows that refer to image files: class folders, glob patterns, tables with a column of paths.

Nothing is decoded here; the task finds out if a file is a valid image.

A row: {"image": "flowers/train/daisy/1.jpg", "label": "daisy", "file": "train/daisy/1.jpg"}
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Image

from finetune.config.schema import DataConfig
from finetune.errors import DataError, format_count, listed
from finetune.io.references import is_pattern, locate
from finetune.listing.class_folders import IMAGE_FOLDERS
from finetune.listing.image_paths import (
    SAMPLE,
    ImageFinder,
    Located,
    Root,
    is_image_file,
    is_image_path,
    is_local,
    is_readable_file,
    locate_images,
)
from finetune.listing.split_names import splits_of_siblings
from finetune.listing.walking import is_stray, list_readable, walk_visible

_ID_NAMES = frozenset(
    [
        "id",
        "image",
        "image_id",
        "imageid",
        "img",
        "img_id",
        "image_name",
        "imagename",
        "file",
        "filename",
        "file_name",
        "fname",
        "name",
        "path",
        "picture",
        "photo",
        "id_code",
        "isic_id",
    ]
)
NO_IMAGES = ""
"""A value of data.images: no cell is the path or the id of an image."""
_LONGEST_ID = 100  # characters
_MOST_ROOTS = 100
_FEWEST_FOUND = 0.9  # share of the values that are images, for a column of any name
_NAMED = 3


def read_image_files(pattern: str) -> Dataset | None:
    """Return the images that a glob pattern or the name of an image file refers to, else None.

    Raises DataError for a pattern that matches no image.
    """
    if not is_pattern(pattern):
        path = Path(pattern).expanduser()
        return image_rows([path], path.parent) if is_image_file(path) and path.is_file() else None
    matches = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    paths = [path for path in map(Path, matches) if is_image_file(path) and not is_stray(path.name)]
    if not paths:
        raise DataError(
            f"{pattern}: no image matches this pattern (other files that do: {len(matches)})"
        )
    return image_rows(paths, Path(os.path.commonpath([path.parent for path in paths])))


def image_rows(paths: Sequence[Path], root: Path, labels: Sequence[str] | None = None) -> Dataset:
    """Return the columns image, label if there are labels, and file, relative to `root`."""
    columns: dict[str, Sequence[str]] = {"image": [path.as_posix() for path in paths]}
    if labels is not None:
        columns["label"] = labels
    columns["file"] = [path.relative_to(root).as_posix() for path in paths]
    return Dataset.from_dict(columns)


def read_split_in_classes(
    classes: Mapping[str, Mapping[str, Sequence[Path]]], root: Path
) -> dict[str, Dataset]:
    """Return the splits of class folders that contain split folders: {class: {split: folders}}."""
    paths: dict[str, list[tuple[Path, str]]] = {}
    for label, splits in classes.items():
        for split, folders in splits.items():
            images = [path for each in folders for path in walk_visible(each)]
            paths.setdefault(split, []).extend((p, label) for p in images if is_image_file(p))
    return {
        split: image_rows([path for path, _ in found], root, [label for _, label in found])
        for split, found in paths.items()
        if found
    }


def disable_image_decoding(rows: Dataset) -> Dataset:
    """Return the rows with images as {"bytes", "path"}, so that a broken one fails its row only."""
    for column, feature in rows.features.items():
        if isinstance(feature, Image) and feature.decode:
            rows = rows.cast_column(column, Image(mode=feature.mode, decode=False))
    return rows


# ---- tables


def complete_paths(
    rows: Dataset, table: Path, config: DataConfig, folders: Sequence[Path] = ()
) -> tuple[Dataset, list[str]]:
    """Resolve the image paths and ids in the columns of a table; also return notes about them.

    A column whose first values all end like images holds paths; without one, a column may hold ids
    whose files end in .jpg or the like. They are relative to data.images, to the table's folder, to
    one of `folders`, to the working directory, or to a folder of images beside the table. Raises
    DataError if data.images has none of them.
    """
    if config.images == NO_IMAGES:
        return rows, []
    names = [name for name in rows.column_names if _may_name(rows, name)]
    texts = rows.select_columns(names)[:SAMPLE] if names else {}
    named = [name for name, values in texts.items() if _all_end_like_images(values)]
    found = {name: _locate(rows, name, texts[name], table, config, folders) for name in named}
    if not any(found.values()):
        others = {name: texts[name] for name in texts if name not in named}
        ids = {name: values for name, values in others.items() if _may_be_ids(name, values)}
        found |= _locate_ids(rows, ids, table, config, folders)
    if config.images is not None and not any(found.values()):
        first = next((value for name in named for value in texts[name] if value), None)
        seen = f"{first!r} of column {named[0]!r} is not there" if first else "no column names them"
        raise DataError(
            f"data.images={config.images}: none of the images that {table} names is in this folder"
            f" ({seen}); correct the folder, or set task.image=COLUMN"
        )
    notes: list[str] = []
    for column in texts:
        located = found.get(column)
        if located is None and column not in found:
            continue
        paths = located.paths if located else [_relative(v, table.parent) for v in rows[column]]
        if located is not None:
            notes += _describe(located, rows[column], column, table, folders)
        # Added before the old one is removed: a table needs a column to keep its length.
        new, order = f"{column} ", rows.column_names
        rows = rows.add_column(new, pa.array(paths, pa.string())).remove_columns(column)
        rows = rows.rename_column(new, column).select_columns(order)
    return rows, notes


def _may_name(rows: Dataset, column: str) -> bool:
    kind = rows.data.schema.field(column).type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return any(matches(kind) for matches in kinds)


def _all_end_like_images(values: Sequence[Any]) -> bool:
    first = [value for value in values if value and value != 0]
    return bool(first) and all(map(is_image_path, first))


def _may_be_ids(column: str, values: Sequence[Any]) -> bool:
    """True for a column that has the name of an id, or of which no value repeats."""
    first = [str(value) for value in values if value is not None and value != ""]
    if not first or any(len(value) > _LONGEST_ID or "\n" in value for value in first):
        return False
    is_unique = len(first) > 1 and len(set(first)) == len(first)
    return column.lower() in _ID_NAMES or (is_unique and not any(" " in value for value in first))


def _locate(
    rows: Dataset,
    column: str,
    first: Sequence[Any],
    table: Path,
    config: DataConfig,
    folders: Sequence[Path],
) -> Located | None:
    finder = _finder(column, table, config, folders)
    by_ends = _all_end_like_images(first) or config.images is not None

    def locate_all(values: Iterable[Any]) -> Located | None:
        texts = [value if value is None else str(value) for value in values]
        return locate_images(texts, finder, f"{table}: column {column!r}", finder.below, by_ends)

    # The first values decide; reading a whole column of a table of 800 columns is slow.
    return locate_all(rows[column]) if locate_all(first) is not None else None


def _locate_ids(
    rows: Dataset,
    columns: Mapping[str, Sequence[Any]],
    table: Path,
    config: DataConfig,
    folders: Sequence[Path],
) -> dict[str, Located | None]:
    """Find the column whose values name most images without their ending; {} if there is none."""
    found: dict[str, Located | None] = {}
    sizes = {}
    for column, first in columns.items():
        located = _locate(rows, column, first, table, config, folders)
        if located is not None and located.foreign == "":
            count = len(_existing(located.paths[:SAMPLE]))
            # A text of one word may be called like an image by chance.
            if column.lower() in _ID_NAMES or count >= _FEWEST_FOUND * len(located.paths[:SAMPLE]):
                found[column], sizes[column] = located, count
    if not sizes or not max(sizes.values()):
        return {}
    best = max(sizes, key=lambda column: (sizes[column], column.lower() in _ID_NAMES))
    return {best: found[best]}


def _existing(paths: Iterable[str | None]) -> set[str]:
    return {
        str(path) for path in paths if is_image_path(path) and is_readable_file(Path(str(path)))
    }


def _finder(column: str, table: Path, config: DataConfig, folders: Sequence[Path]) -> ImageFinder:
    """Return the lookup of a column's images: in data.images, or in the folders near the table."""
    if config.images is not None:
        folder = _configured(config.images, table)
        return ImageFinder([Root(folder)], folder)
    here = table.parent
    children = [child for child in list_readable(here) if child.is_dir()]
    splits = splits_of_siblings([child.name for child in children])
    own = splits_of_siblings([table.stem, *splits]).get(table.stem)
    others = {child for child in children if own and splits.get(child.name, own) != own}
    others -= set(folders)
    roots = [Root(here), *(Root(folder) for folder in folders), Root(Path())]
    for child in (child for child in children if child not in others):
        matches = child.name.lower() in (column.lower(), f"{column.lower()}s")
        rank = 1 if matches or (own and splits.get(child.name) == own) else 3
        rank = min(rank, 2 if child.name.lower() in IMAGE_FOLDERS else 3)
        inner = [each for each in list_readable(child) if each.is_dir()]
        roots += [Root(child, rank), *(Root(each, rank + 3) for each in inner)]
    roots.append(Root(here.parent, 7))
    roots += [Root(here.parent / name, 8) for name in sorted(IMAGE_FOLDERS)]
    near = sorted((root for root in roots if root.folder.is_dir()), key=lambda root: root.rank)
    return ImageFinder(near[:_MOST_ROOTS], here, frozenset(others))


def _configured(images: str, table: Path) -> Path:
    """Return the folder of data.images: as given, or relative to the table."""
    folder = locate(images) or table.parent / images
    if not folder.is_dir():
        raise DataError(
            f"data.images={images}: no such folder, neither here nor beside {table}; give the"
            " folder that the image paths of the table are relative to"
        )
    return folder


def _relative(value: Any, folder: Path) -> str | None:
    if not isinstance(value, str) or not is_local(value) or value.startswith(("/", "\\")):
        return value if value is None else str(value)
    return (folder / value).as_posix()


def _describe(
    located: Located, values: Sequence[Any], column: str, table: Path, folders: Sequence[Path]
) -> list[str]:
    """Return notes on where the images of a column are, unless they are where the column says."""
    found = _existing(located.paths)
    named = sum(is_local(value if value is None else str(value)) for value in values)
    hits = sum(path in found for path in located.paths if path)
    places = sorted({Path(path).parent for path in found})
    is_bare = not all(is_image_file(str(value)) for value in values if value is not None)
    count = f"{hits} of {named}"
    if located.foreign:
        return [
            f"{table}: the paths in column {column!r} begin with {located.foreign}, which is not"
            f" here; {count} images found by the ends of their paths, in {_folders(places)}"
        ]
    if located.root in (table.parent, Path()) and not is_bare:
        return []
    how = "without their file endings, " if is_bare else ""
    notes = [f"{table}: images of column {column!r}, {how}in {_folders(places)}: {count} found"]
    unread = [
        path.name
        for place in places
        if place != table.parent or place in folders
        for path in list_readable(place)
        if is_image_file(path) and path.as_posix() not in found
    ]
    if unread:
        images = format_count(len(unread), "image")
        notes.append(
            f"not read: {images} in {_folders(places)} that {table.name} does not name:"
            f" {listed(unread, _NAMED)}"
        )
    return notes


def _folders(places: Sequence[Path]) -> str:
    return listed(places, _NAMED)
