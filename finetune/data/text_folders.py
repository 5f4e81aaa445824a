"""Reading of folders of .txt files: class folders, splits by file name, or loose documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets import Dataset

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError, listed
from finetune.listing.split_names import split_name
from finetune.listing.walking import list_visible
from finetune.tables.encodings import Decoder
from finetune.tables.plain_text import check_not_json, check_not_table, looks_like_list
from finetune.tables.table_files import is_text_file, read_table

_ABOUT = frozenset({"readme", "license", "licence", "changelog", "requirements", "notes", "source"})
"""Names of files that are about the data."""
_UNLABELED = frozenset({"unsup", "unlabeled", "unlabelled"})
"""Names of folders that are no class, such as that of the IMDB reviews."""
_NAMED = 3
_FEW = 10  # files of lines that are lists rather than documents
_FEWEST = 6  # files whose names may begin with a label
_NUMBERED = re.compile(r"(.*?[^\W\d_])[\W_]*\d+")
_AS_DOCUMENTS = "write data.format=text to read each file as a document without a label"


class TextFolder(NamedTuple):
    """The splits of a folder of texts, the files that were not read, and notes."""

    splits: dict[str, Dataset]
    unread: list[Path]
    notes: list[str]


def read_text_folder(
    folder: Path, config: DataConfig, decoder: Decoder, *, is_split: bool = False
) -> TextFolder:
    """Read the .txt files of a folder: those in class folders, else those directly in it."""
    children = list_visible(folder)
    classes = [child for child in children if child.is_dir()]
    files = [child for child in children if not child.is_dir()]
    if any(is_text_file(path) for label in classes for path in list_visible(label)):
        return _read_classes(folder, classes, files, config, decoder)
    texts = [path for path in files if is_text_file(path) and path.stem.lower() not in _ABOUT]
    unread = [child for child in children if child not in texts]
    if not texts:
        names = ", ".join(child.name for child in children[:12])
        contents = f"contains {names}" if names else "is empty"
        formats = ", ".join(name for name, each in TABLES.items() if each.endings)
        raise DataError(
            f"{folder}: no readable data found (the folder {contents}); expected .txt"
            " files, class folders of .txt files or of images, folders or files called train,"
            f" validation and test ({formats}, txt), or a saved Dataset"
        )
    if not is_split and any(split_name(path.stem) == "train" for path in texts):
        return _read_named_splits(texts, unread, config, decoder)
    columns: dict[str, list[str]] = {"text": [], "file": []}
    lists: dict[str, int] = {}
    for path in texts:
        columns["text"].append(decoder.text(path))
        columns["file"].append(path.name)
        lines = columns["text"][-1].splitlines()
        if config.format == "auto":
            check_not_table(path, lines)
        if looks_like_list(lines):
            lists[path.name] = len(lines)
    if config.format == "auto":
        _refuse_lists(folder, lists, len(texts))
        _refuse_labeled_names(folder, texts)
    notes = [f"{folder}: {len(texts)} text files, each read as one document (no class folders)"]
    if lists:
        notes[0] += f"; the lines of {listed(lists, _NAMED)} may be rows of their own"
    return TextFolder({"train": Dataset.from_dict(columns)}, unread, notes)


def _refuse_lists(folder: Path, lists: Mapping[str, int], files: int) -> None:
    """Raise AmbiguityError for a few files of lines, which are columns or classes of one table.

    pos.txt and neg.txt; train.en.txt and train.de.txt; train_text.txt and train_labels.txt.
    """
    is_parallel = len({*lists.values()}) < len(lists)
    if len(lists) > 1 and (is_parallel or len(lists) == files) and files <= _FEW:
        kind = "have as many lines as another" if is_parallel else "hold short lines"
        raise AmbiguityError(
            f"{folder}: {listed(lists, _NAMED)} {kind}, so a line may be a row, and the files its"
            " label, its translation or its split; make one table of them with a column each, give"
            f" a single file with data.format=lines, or {_AS_DOCUMENTS}"
        )


def _refuse_labeled_names(folder: Path, texts: Sequence[Path]) -> None:
    """Raise AmbiguityError if the files are numbered after several words: pos_1.txt, neg_1.txt."""
    matches = [_NUMBERED.fullmatch(path.name.partition(".")[0]) for path in texts]
    words = Counter(match[1] for match in matches if match)
    if len(texts) < _FEWEST or None in matches or len(words) < 2 or min(words.values()) < 2:
        return
    shown = listed((f"{word} ({count})" for word, count in words.most_common()), _NAMED)
    raise AmbiguityError(
        f"{folder}: the names of the {len(texts)} text files begin with one of {len(words)} words,"
        f" which may be labels: {shown}; move the files of each label to a folder of its name, or"
        f" {_AS_DOCUMENTS}"
    )


def _read_named_splits(
    texts: Sequence[Path], unread: list[Path], config: DataConfig, decoder: Decoder
) -> TextFolder:
    """Read train.txt, valid.txt and test.txt, each as a file of its own."""
    splits, notes = {}, []
    for path in texts:
        split = split_name(path.stem)
        if split is None or split in splits:
            unread.append(path)
            continue
        splits[split], file_notes = read_table(path, config, decoder)
        notes += file_notes
    return TextFolder(splits, unread, notes)


def _read_classes(
    folder: Path,
    classes: Sequence[Path],
    unread: list[Path],
    config: DataConfig,
    decoder: Decoder,
) -> TextFolder:
    """Read class folders into the columns text, label (the folder) and file, by name."""
    columns: dict[str, list[str]] = {"text": [], "label": [], "file": []}
    unlabeled = [each for each in classes if each.name.lower() in _UNLABELED]
    unlabeled = unlabeled if len(unlabeled) < len(classes) else []
    for label in classes:
        if label in unlabeled:
            continue
        for path in list_visible(label):
            if path.suffix.lower() != ".txt" or not path.is_file():
                unread.append(path)
                continue
            name = path.relative_to(folder).as_posix()
            columns["text"].append(decoder.text(path, name))
            if config.format == "auto":
                check_not_json(path, columns["text"][-1].splitlines())
            columns["label"].append(label.name)
            columns["file"].append(name)
    notes = [f"not read: {each}, a folder of texts without labels" for each in unlabeled]
    return TextFolder({"train": Dataset.from_dict(columns)}, unread, notes)
