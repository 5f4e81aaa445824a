"""Reading of folders into named splits.

A folder holds class folders of .txt files or of images, folders or files named after splits, or a
saved dataset.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.data.encodings import Decoder
from finetune.data.image_files import (
    complete_paths,
    count_image_files,
    list_visible,
    read_class_folders,
)
from finetune.data.tables import read_table, table_format
from finetune.errors import DataError, listed

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
    "testing": "test",
}
_NAMED = 3


def split_name(name: str) -> str | None:
    """Return the split that a name stands for: train, validation or test; None if unknown."""
    return _SPLIT_NAMES.get(name.lower())


def read_folder(
    folder: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    """Return the splits of a folder, and notes on how it was read.

    A folder without splits gives one, "train".
    """
    if config.format == "text-folder" or _is_saved(folder):
        return _read_unsplit(folder, config, decoder)
    children = list_visible(folder)
    by_split: dict[str, list[Path]] = {}
    for child in children:
        name = split_name(child.name) if child.is_dir() else _split_of_file(child, config)
        if name:
            by_split.setdefault(name, []).append(child)
    used = [path for paths in by_split.values() for path in paths]
    folders = [child for child in children if child.is_dir()]
    # A class may be called "test" too, so split names count only if there is a train split or if
    # all folders have split names.
    if by_split and ("train" in by_split or set(folders) <= set(used)):
        splits, notes = {}, _unread(folder, [child for child in children if child not in used])
        for name, paths in by_split.items():
            splits[name], split_notes = _read_split(name, paths, config, decoder)
            notes += split_notes
        return splits, notes
    if not _data_files(children, config) and [child.name for child in folders] == ["data"]:
        return read_folder(folders[0], config, decoder)  # layout of a dataset on the hub
    return _read_unsplit(folder, config, decoder)


def _read_split(
    name: str, paths: Sequence[Path], config: DataConfig, decoder: Decoder
) -> tuple[Dataset, list[str]]:
    """Read one split from its files, its folder, or both."""
    parts, notes = [], []
    for path in paths:
        if path.is_dir():
            splits, part_notes = _read_unsplit(path, config, decoder, is_split=True)
            parts.append((path, splits["train"]))
        else:
            rows, part_notes = read_table(path, config, decoder)
            parts.append((path, complete_paths(rows, path.parent)))
        notes += part_notes
    return _join(name, parts), notes


def _read_unsplit(
    folder: Path, config: DataConfig, decoder: Decoder, is_split: bool = False
) -> tuple[dict[str, Dataset], list[str]]:
    """Read a folder without split names: a saved dataset, one data file, or class folders.

    The folder of a split may hold several data files.
    """
    if _is_saved(folder):
        return _read_saved(folder), []
    children = list_visible(folder)
    files = [] if config.format.endswith("-folder") else _data_files(children, config)
    if len(files) == 1 or (files and is_split):
        parts, notes = [], _unread(folder, [child for child in children if child not in files])
        for file in files:
            rows, file_notes = read_table(file, config, decoder)
            parts.append((file, complete_paths(rows, file.parent)))
            notes += file_notes
        return {"train": _join(folder.name, parts)}, notes
    if files:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{folder}: no file is named after a split ({names}); choose one with"
            f" data.source={files[0]}, or rename them to train, validation and test"
        )
    if _holds_images(folder, config):
        rows, unread = read_class_folders(folder)
        return {"train": rows}, _unread(folder, unread)
    rows, notes = _read_texts(folder, children, decoder)
    return {"train": rows}, notes


def _holds_images(folder: Path, config: DataConfig) -> bool:
    """True if the class folders hold images and not texts: by data.format, else by their counts.

    Raises DataError if there are as many images as texts.
    """
    images = 0 if config.format == "text-folder" else count_image_files(folder)
    if config.format == "image-folder" or not images:
        return bool(images)
    texts = sum(1 for _ in folder.glob("*/*.txt"))
    if texts == images:  # probably images with captions
        raise DataError(
            f"{folder}: contains {texts} text files and as many images; choose with"
            " data.format=text-folder or data.format=image-folder"
        )
    return images > texts


def _read_texts(
    folder: Path, children: Sequence[Path], decoder: Decoder
) -> tuple[Dataset, list[str]]:
    """Read class folders of texts into the columns text, label (the folder) and file, by name."""
    columns: dict[str, list[str]] = {"text": [], "label": [], "file": []}
    unread = [child for child in children if not child.is_dir()]
    for label in (child for child in children if child.is_dir()):
        for path in list_visible(label):
            if path.suffix.lower() != ".txt" or not path.is_file():
                unread.append(path)
                continue
            name = path.relative_to(folder).as_posix()
            columns["text"].append(decoder.text(path, name))
            columns["label"].append(label.name)
            columns["file"].append(name)
    if not columns["text"]:
        names = ", ".join(child.name for child in children[:12])
        contents = f"contains {names}" if names else "is empty"
        raise DataError(
            f"{folder}: no readable data found (the folder {contents}); expected class"
            " folders of .txt files or of images, folders or files called train, validation and"
            f" test ({', '.join(TABLES)}), or a saved Dataset"
        )
    return Dataset.from_dict(columns), _unread(folder, unread)


def _read_saved(folder: Path) -> dict[str, Dataset]:
    """Read what Dataset.save_to_disk or DatasetDict.save_to_disk wrote, memory-mapped."""
    try:
        # Not copied: a dataset may exceed memory, and an installed package must not be written to.
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: the saved dataset is incomplete: {error}; save it again"
        ) from error
    return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}


def _join(name: str, parts: Sequence[tuple[Path, Dataset]]) -> Dataset:
    """Concatenate the files of one split. Raises DataError if their columns differ."""
    first, rows = parts[0]
    for path, other in parts[1:]:
        differing = sorted(set(rows.column_names) ^ set(other.column_names))
        if differing:
            raise DataError(
                f"{path}: its columns differ from those of {first} ({', '.join(differing)}), but"
                f" both belong to split {name}; choose one of them with data.{name}"
            )
    try:
        return concatenate_datasets([part for _, part in parts]) if len(parts) > 1 else rows
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{first.parent}: the files of split {name} have columns of different types: {error}"
        ) from error


def _is_saved(folder: Path) -> bool:
    names = {child.name for child in folder.iterdir()}
    return "dataset_dict.json" in names or {"state.json", "dataset_info.json"} <= names


def _data_files(children: Sequence[Path], config: DataConfig) -> list[Path]:
    files = [child for child in children if child.is_file()]
    known = [file for file in files if table_format(file)]
    # With an explicit data.format, files of unknown endings are read in that format.
    return known or (files if config.format in TABLES else [])


def _split_of_file(path: Path, config: DataConfig) -> str | None:
    """Return the split that a file is named after: train-00000-of-00002.csv, news_train.csv."""
    if config.format not in TABLES and not table_format(path):
        return None
    words = re.split(r"[-_. ]", path.name.partition(".")[0])
    return split_name(words[0]) or split_name(words[-1])


def _unread(folder: Path, paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    names = listed((path.relative_to(folder).as_posix() for path in paths), _NAMED)
    return [f"{folder}: ignored {len(paths)} files or folders that are not data: {names}"]
