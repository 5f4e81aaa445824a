"""Text files that list the items of each split by name: ImageSets/Main/train.txt and its like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from finetune.errors import DataError, listed
from finetune.io.image_paths import is_image_file
from finetune.io.split_names import split_name
from tasks.image.image_search import clean_path

Item = TypeVar("Item")
_LISTS = ("train", "val", "valid", "validation", "test", "trainval", "default")
_ENDINGS = (".xml", ".txt", ".json")
_FLAGS = ("1", "0", "-1")
_SHOWN = 3


def split_by_lists(
    folder: Path, items: Mapping[str, Item], what: str
) -> tuple[dict[str, list[Item]], list[str]]:
    """Return the items that train.txt etc. in a folder list, by split, and notes; trainval only
    without train. {} if there is no such list.

    `items` are named by their stems, and called `what` in messages. Raises DataError for a list of
    which no entry is an item.
    """
    lists = {file.stem.lower(): file for file in sorted(folder.glob("*.txt"))}
    splits: dict[str, list[Item]] = {}
    names: set[str] = set()
    notes: list[str] = []
    for name in _LISTS:
        split = split_name(name) or "train"
        if name in lists and split not in splits:
            names.add(name)
            found, lost = _look_up(read_entries(lists[name]), items)
            notes += _check_lost(lists[name], lost, len(lost) + len(found), items, what)
            if found:
                splits[split] = [items[key] for key in found]
                names.update(found)
    if not splits:
        return {}, notes
    if unread := [file.name for name, file in lists.items() if name not in names]:
        notes.append(f"{folder}: lists not read: {len(unread)} ({listed(unread, _SHOWN)})")
    if rest := [key for key in items if key not in names]:
        shown = f"{len(rest)} ({listed(rest, _SHOWN)})"
        notes.append(f"{folder}: {what}s in no list, not read: {shown}")
    return splits, notes


def read_entries(file: Path) -> list[str]:
    """Return the lines of a list, without blank ones."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _look_up(entries: Iterable[str], items: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Return the keys of the items that entries name, and the entries that name none."""
    found: list[str] = []
    lost: list[str] = []
    for entry in entries:
        key = next((each for each in _readings(entry) if each in items), None)
        if key is None:
            lost.append(entry)
        else:
            found.append(key)
    return found, lost


def _readings(entry: str) -> list[str]:
    """Return what an entry may name: a stem, with an ending or a path, perhaps with a flag."""
    name = clean_path(entry).rpartition("/")[2]
    first = clean_path(entry.split()[0]).rpartition("/")[2]
    bare, _, flag = name.rpartition(" ")
    flagged = [bare.strip()] if flag in _FLAGS else []
    return [stem for each in (name, *flagged, first) for stem in (each, _stem(each))]


def _stem(name: str) -> str:
    """Return a name without the ending of an image or an annotation; others may be part of it."""
    return Path(name).stem if is_image_file(name) or name.endswith(_ENDINGS) else name


def _check_lost(
    file: Path, lost: Sequence[str], total: int, items: Mapping[str, object], what: str
) -> list[str]:
    if not lost:
        return []
    shown = listed(map(repr, lost), _SHOWN)
    fault = f"{file}: {len(lost)} of {total} entries have no {what} ({shown})"
    if len(lost) == total:
        raise DataError(
            f"{fault}; there are {listed(items, _SHOWN)}: correct the list, or remove it to read"
            " all of them"
        )
    return [f"warning: {fault}"]
