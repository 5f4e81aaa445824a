"""A folder -> named splits.

It holds class folders of .txt files or of pictures, folders or files named after splits, or a saved
data set.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.data.encodings import Decoder
from finetune.data.image_files import complete_paths, count_pictures, read_pictures, visible
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
    """The split that a name means: train, validation or test; None for any other name."""
    return _SPLIT_NAMES.get(name.lower())


def read_folder(
    folder: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    """The splits of a folder, and notes on how they were read; without splits it is "train"."""
    if config.format == "text-folder" or _is_saved(folder):
        return _read_unsplit(folder, config, decoder)
    children = visible(folder)
    by_split: dict[str, list[Path]] = {}
    for child in children:
        name = split_name(child.name) if child.is_dir() else _split_of_file(child, config)
        if name:
            by_split.setdefault(name, []).append(child)
    used = [path for paths in by_split.values() for path in paths]
    folders = [child for child in children if child.is_dir()]
    # A class may be called "test" as well: believed only beside train, or if all names are splits.
    if by_split and ("train" in by_split or set(folders) <= set(used)):
        splits, notes = {}, _unread(folder, [child for child in children if child not in used])
        for name, paths in by_split.items():
            splits[name], said = _read_split(name, paths, config, decoder)
            notes += said
        return splits, notes
    if not _data_files(children, config) and [child.name for child in folders] == ["data"]:
        return read_folder(folders[0], config, decoder)  # the layout of a hub data set
    return _read_unsplit(folder, config, decoder)


def _read_split(
    name: str, paths: Sequence[Path], config: DataConfig, decoder: Decoder
) -> tuple[Dataset, list[str]]:
    """One split from its files, its folder, or both."""
    parts, notes = [], []
    for path in paths:
        if path.is_dir():
            splits, said = _read_unsplit(path, config, decoder, is_split=True)
            parts.append((path, splits["train"]))
        else:
            rows, said = read_table(path, config, decoder)
            parts.append((path, complete_paths(rows, path.parent)))
        notes += said
    return _join(name, parts), notes


def _read_unsplit(
    folder: Path, config: DataConfig, decoder: Decoder, is_split: bool = False
) -> tuple[dict[str, Dataset], list[str]]:
    """A folder without names of splits: a saved data set, one file (in a split: any), classes."""
    if _is_saved(folder):
        return _read_saved(folder), []
    children = visible(folder)
    files = [] if config.format.endswith("-folder") else _data_files(children, config)
    if len(files) == 1 or (files and is_split):
        parts, notes = [], _unread(folder, [child for child in children if child not in files])
        for file in files:
            rows, said = read_table(file, config, decoder)
            parts.append((file, complete_paths(rows, file.parent)))
            notes += said
        return {"train": _join(folder.name, parts)}, notes
    if files:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{folder}: none of its files is named after a split ({names}); name one with"
            f" data.source={files[0]}, or call them train, validation and test"
        )
    if _means_pictures(folder, config):
        rows, unread = read_pictures(folder)
        return {"train": rows}, _unread(folder, unread)
    rows, notes = _read_texts(folder, children, decoder)
    return {"train": rows}, notes


def _means_pictures(folder: Path, config: DataConfig) -> bool:
    """Whether the class folders are of pictures and not of texts: by the format, or what is more.

    Raises DataError where neither is.
    """
    pictures = 0 if config.format == "text-folder" else count_pictures(folder)
    if config.format == "image-folder" or not pictures:
        return bool(pictures)
    texts = sum(1 for _ in folder.glob("*/*.txt"))
    if texts == pictures:  # a picture and its caption each
        raise DataError(
            f"{folder}: holds {texts} texts and as many pictures; choose with"
            " data.format=text-folder or data.format=image-folder"
        )
    return pictures > texts


def _read_texts(
    folder: Path, children: Sequence[Path], decoder: Decoder
) -> tuple[Dataset, list[str]]:
    """Class folders as columns text, label (the folder) and file, in the order of their names."""
    columns: dict[str, list[str]] = {"text": [], "label": [], "file": []}
    unread = [child for child in children if not child.is_dir()]
    for label in (child for child in children if child.is_dir()):
        for path in visible(label):
            if path.suffix.lower() != ".txt" or not path.is_file():
                unread.append(path)
                continue
            name = path.relative_to(folder).as_posix()
            columns["text"].append(decoder.text(path, name))
            columns["label"].append(label.name)
            columns["file"].append(name)
    if not columns["text"]:
        held = ", ".join(child.name for child in children[:12]) or "nothing"
        raise DataError(
            f"{folder}: holds no data that can be read (it holds {held}); a folder holds class"
            " folders of .txt files or of pictures, folders or files called train, validation and"
            " test"
            f" ({', '.join(TABLES)}), or a saved Dataset"
        )
    return Dataset.from_dict(columns), _unread(folder, unread)


def _read_saved(folder: Path) -> dict[str, Dataset]:
    """What Dataset.save_to_disk or DatasetDict.save_to_disk wrote, memory-mapped."""
    try:
        # No copy: a data set may be larger than memory, and a package's folder is never written to.
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder}: is not a whole saved data set: {error}; save it again"
        ) from error
    return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}


def _join(name: str, parts: Sequence[tuple[Path, Dataset]]) -> Dataset:
    """Several files of one split as one table."""
    first, rows = parts[0]
    for path, other in parts[1:]:
        differing = sorted(set(rows.column_names) ^ set(other.column_names))
        if differing:
            raise DataError(
                f"{path}: has other columns than {first} ({', '.join(differing)}), but both are"
                f" of split {name}; name one of them in data.{name}"
            )
    try:
        return concatenate_datasets([part for _, part in parts]) if len(parts) > 1 else rows
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{first.parent}: the files of split {name} have columns of different types: {error}"
        ) from error


def _is_saved(folder: Path) -> bool:
    has = {child.name for child in folder.iterdir()}
    return "dataset_dict.json" in has or {"state.json", "dataset_info.json"} <= has


def _data_files(children: Sequence[Path], config: DataConfig) -> list[Path]:
    files = [child for child in children if child.is_file()]
    known = [file for file in files if table_format(file)]
    # With a format given, a file whose name tells none is taken at the config's word.
    return known or (files if config.format in TABLES else [])


def _split_of_file(path: Path, config: DataConfig) -> str | None:
    """train for train.csv, train-00000-of-00002.parquet and news_train.csv."""
    if config.format not in TABLES and not table_format(path):
        return None
    words = re.split(r"[-_. ]", path.name.partition(".")[0])
    return split_name(words[0]) or split_name(words[-1])


def _unread(folder: Path, paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    names = listed((path.relative_to(folder).as_posix() for path in paths), _NAMED)
    return [f"{folder}: {len(paths)} files or folders are not data and were not read: {names}"]
