"""Reading of folders into named splits.

A folder holds class folders of .txt files or of images, folders or files named after splits, or a
saved dataset.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets, load_from_disk

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.data.image_files import complete_paths, image_rows, read_split_in_classes
from finetune.data.text_folders import read_text_folder
from finetune.errors import DataError, listed
from finetune.listing.class_folders import (
    ClassFolders,
    are_classes,
    check_not_masks,
    count_image_files,
    find_splits_in_classes,
    holds_only_images,
)
from finetune.listing.image_paths import SAMPLE, is_image_file, is_image_path
from finetune.listing.split_names import split_name, splits_of_siblings
from finetune.listing.walking import is_stray, list_visible, note_strays
from finetune.tables.encodings import Decoder
from finetune.tables.faults import HIDDEN, with_places
from finetune.tables.table_files import read_table, table_format

_NAMED = 3


def read_folder(
    folder: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    """Return the splits of a folder, and notes on how it was read.

    A folder without splits gives one, "train".
    """
    if config.format == "text-folder" or _is_saved(folder):
        return _read_unsplit(folder, config, decoder)
    splits, notes = _read_tree(folder, config, decoder)
    return splits, [*note_strays(folder), *notes, *_compare_classes(splits)]


def _read_tree(
    folder: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    children = list_visible(folder)
    folders = [child for child in children if child.is_dir()]
    names = splits_of_siblings([child.name for child in folders])
    by_split: dict[str, list[Path]] = {}
    for child in children:
        name = names.get(child.name) if child.is_dir() else split_of_file(child, config)
        if name:
            by_split.setdefault(name, []).append(child)
    used = [path for paths in by_split.values() for path in paths]
    # A class may be called "test" too, so split names count only if there is a train split or if
    # all folders have split names.
    if by_split and ("train" in by_split or set(folders) <= set(used)):
        if not are_classes(folder, used, folders, config.class_level):
            return _read_splits(folder, by_split, children, config, decoder)
    elif classes := find_splits_in_classes(folder, folders):
        unread = [child for child in children if child not in folders]
        return read_split_in_classes(classes, folder), _unread(folder, unread)
    inner = _only_folder(folder, children, config)
    if inner is not None:
        splits, notes = _read_tree(inner, config, decoder)
        return splits, [*_unread(folder, [c for c in children if c != inner]), *notes]
    return _read_unsplit(folder, config, decoder)


def _read_splits(
    folder: Path,
    by_split: Mapping[str, list[Path]],
    children: Sequence[Path],
    config: DataConfig,
    decoder: Decoder,
) -> tuple[dict[str, Dataset], list[str]]:
    """Read each split from its folders and files."""
    splits, notes = {}, list[str]()
    used = [path for paths in by_split.values() for path in paths]
    if table := _table_of_train(by_split.get("train", []), children, used, config, decoder):
        by_split = {**by_split, "train": [*by_split["train"], table]}
        used.append(table)
    for name, paths in by_split.items():
        splits[name], split_notes = _read_split(name, paths, config, decoder)
        notes += split_notes
    read = {*used, *(place for rows in splits.values() for place in _image_places(rows))}
    return splits, [*_unread(folder, [child for child in children if child not in read]), *notes]


def _image_places(rows: Dataset) -> set[Path]:
    """Return the images that the rows name, and the folders above them."""
    first = rows[:SAMPLE]
    columns = [name for name in first if any(map(is_image_path, first[name]))]
    images = {Path(value) for name in columns for value in rows[name] if is_image_path(value)}
    folders = {image.parent for image in images}
    return images | folders | {above for each in folders for above in each.parents}


def _only_folder(folder: Path, children: Sequence[Path], config: DataConfig) -> Path | None:
    """Return the only folder in a folder if that one holds the data: archive/archive/train.

    A single class folder is not one: it holds images and no folders, and has another name.
    """
    folders = [child for child in children if child.is_dir()]
    if len(folders) != 1 or _data_files(children, config) or any(map(is_image_file, children)):
        return None
    inside = list_visible(folders[0])
    if folders[0].name == "data" or any(child.is_dir() for child in inside):
        return folders[0]  # "data": the layout of a dataset on the hub
    holds_data = folders[0].name == folder.name or _data_files(inside, config)
    return folders[0] if holds_data else None


def _table_of_train(
    train: Sequence[Path],
    children: Sequence[Path],
    used: Sequence[Path],
    config: DataConfig,
    decoder: Decoder,
) -> Path | None:
    """Return the table that labels the images of train/, such as labels.csv beside it.

    Raises DataError if several tables name images that are there.
    """
    if len(train) != 1 or not train[0].is_dir() or not holds_only_images(train[0]):
        return None
    tables = [child for child in _data_files(children, config) if child not in used]
    names = {path.stem for path in list_visible(train[0]) if is_image_file(path)}
    matching = []
    for table in tables:
        rows, _ = read_table(table, config, decoder)
        values = {str(value) for column in rows[:100].values() for value in column}
        if names.intersection(Path(value).stem for value in values):
            matching.append(table)
    if len(matching) > 1:
        raise DataError(
            f"{train[0]}: its images are named by {listed((t.name for t in matching), _NAMED)};"
            f" choose the table with data.train={matching[0]}"
        )
    return matching[0] if matching else None


def _compare_classes(splits: Mapping[str, Dataset]) -> list[str]:
    """Return a note for each held-out split whose class folders differ from those of train."""
    if not all({"label", "file"} <= set(rows.column_names) for rows in splits.values()):
        return []
    classes = {name: set(rows["label"]) for name, rows in splits.items()}
    notes = []
    for name in classes.keys() - {"train"} if "train" in classes else ():
        only = {"train": classes["train"] - classes[name], name: classes[name] - classes["train"]}
        texts = [
            f"only in {place}: {listed(sorted(labels), _NAMED)}"
            for place, labels in only.items()
            if labels
        ]
        if texts:
            notes.append(f"class folders of train and {name} differ: {'; '.join(texts)}")
    return notes


def _read_split(
    name: str, paths: Sequence[Path], config: DataConfig, decoder: Decoder
) -> tuple[Dataset, list[str]]:
    """Read one split from its files, its folders, or both: a table and the images that it names."""
    parts, notes = [], []
    folders = [path for path in paths if path.is_dir()]
    files = [path for path in paths if path.is_file()]
    if files and all(
        count_image_files(path) and not _holds_tables(path, config) for path in folders
    ):
        paths = files
    for path in paths:
        if path.is_dir():
            splits, part_notes = _read_unsplit(_data_folder(path, config), config, decoder, True)
            parts.append((path, splits["train"]))
        else:
            rows, part_notes = _read_with_images(path, config, decoder, folders)
            parts.append((path, rows))
        notes += part_notes
    joined, joined_notes = _join(name, parts)
    return joined, [*joined_notes, *notes]


def _data_folder(folder: Path, config: DataConfig) -> Path:
    """Return the folder of a split, or the only one in it that holds its data: train/train."""
    inner = _only_folder(folder, list_visible(folder), config)
    return folder if inner is None else _data_folder(inner, config)


def _holds_tables(folder: Path, config: DataConfig) -> bool:
    return bool(_data_files(list_visible(folder), config))


def _read_with_images(
    file: Path, config: DataConfig, decoder: Decoder, folders: Sequence[Path] = ()
) -> tuple[Dataset, list[str]]:
    """Read a table, and resolve the images that it names."""
    rows, notes = read_table(file, config, decoder)
    rows, image_notes = complete_paths(rows, file, config, folders)
    return rows, [*notes, *image_notes]


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
        parts, notes = [], list[str]()
        for file in files:
            rows, file_notes = _read_with_images(file, config, decoder)
            parts.append((file, rows))
            notes += file_notes
        joined, joined_notes = _join(folder.name, parts)
        read = {*files, *_image_places(joined)}
        unread = [child for child in children if child not in read]
        return {"train": joined}, [*joined_notes, *_unread(folder, unread), *notes]
    if files:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{folder}: no file is named after a split ({names}); give the"
            f" path of one, such as {files[0]}, or rename them to train, validation and test"
        )
    if _holds_images(folder, config):
        if config.images:
            raise DataError(
                f"data.images={config.images}: {folder} is not a table; the key is the folder of"
                " the images that a table names, so remove it, or give the table as data.source"
            )
        if config.format != "image-folder":
            check_not_masks(folder, children)
        found = ClassFolders(folder, config.class_level)
        rows = image_rows(found.paths, folder, found.labels)
        return {"train": rows}, [*_unread(folder, found.unread), *found.notes]
    texts = read_text_folder(folder, config, decoder, is_split=is_split)
    return texts.splits, [*_unread(folder, texts.unread), *texts.notes]


def _holds_images(folder: Path, config: DataConfig) -> bool:
    """True if the class folders hold images and not texts: by data.format, else by their counts.

    Raises DataError if there are as many images as texts.
    """
    images = 0 if config.format == "text-folder" else count_image_files(folder)
    if config.format == "image-folder" or not images:
        return bool(images)
    texts = sum(not is_stray(path.name) for path in folder.glob("*/*.txt"))
    if texts == images:  # probably images with captions
        raise DataError(
            f"{folder}: contains {texts} text files and as many images; choose with"
            " data.format=text-folder or data.format=image-folder"
        )
    return images > texts


def _read_saved(folder: Path) -> dict[str, Dataset]:
    """Read what Dataset.save_to_disk or DatasetDict.save_to_disk wrote, memory-mapped."""
    try:
        # Not copied: a dataset may exceed memory, and an installed package must not be written to.
        saved = load_from_disk(str(folder))
        for rows in saved.values() if isinstance(saved, DatasetDict) else [saved]:
            rows.data.table.validate(full=True)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(
            f"{folder}: the saved dataset is incomplete: {error}; save it again"
        ) from error
    return dict(saved) if isinstance(saved, DatasetDict) else {"train": saved}


def _join(name: str, parts: Sequence[tuple[Path, Dataset]]) -> tuple[Dataset, list[str]]:
    """Concatenate the files of one split, and name them: "train (1).csv" may be a copy of one.

    Raises DataError if their columns differ.
    """
    first, rows = parts[0]
    if len(parts) == 1:
        return rows, []
    for path, other in parts[1:]:
        differing = sorted((set(rows.column_names) ^ set(other.column_names)) - {*HIDDEN})
        if differing:
            raise DataError(
                f"{path}: its columns differ from those of {first} ({', '.join(differing)}), but"
                f" both belong to split {name}; choose one of them with data.{name}=FILE, or give"
                " the file itself"
            )
    try:
        joined = concatenate_datasets([with_places(part, path.name) for path, part in parts])
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{first.parent}: the files of split {name} have columns of different types: {error}"
        ) from error
    names = listed((path.name for path, _ in parts), _NAMED)
    return joined, [f"{name}: {len(parts)} files in one: {names}"]


def _is_saved(folder: Path) -> bool:
    names = {child.name for child in folder.iterdir()}
    return "dataset_dict.json" in names or {"state.json", "dataset_info.json"} <= names


def _data_files(children: Sequence[Path], config: DataConfig) -> list[Path]:
    files = [child for child in children if child.is_file()]
    known = [file for file in files if table_format(file)]
    # With an explicit data.format, files of unknown endings are read in that format.
    return known or (files if config.format in TABLES and config.format != "text" else [])


def split_of_file(path: Path, config: DataConfig) -> str | None:
    """Return the split that a file is named after: train-00000-of-00002.csv, news_train.csv."""
    if config.format not in TABLES and not table_format(path):
        return None
    words = re.split(r"[-_. ]", path.name.partition(".")[0])
    return split_name(words[0]) or split_name(words[-1])


def _unread(folder: Path, paths: Sequence[Path]) -> list[str]:
    if not paths:
        return []
    names = listed((path.relative_to(folder).as_posix() for path in paths), _NAMED)
    return [f"{folder}: files and folders that are not data, ignored: {len(paths)} ({names})"]
