"""Text files that list the items of each split by name: ImageSets/Main/train.txt and its like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from finetune.config.formats import Unusable
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file
from finetune.listing.split_names import split_name
from tasks.image.image_search import clean_path

Item = TypeVar("Item")
_LISTS = ("train", "val", "valid", "validation", "test", "trainval", "default")
_ENDINGS = (".xml", ".txt", ".json")
_FLAGS = ("1", "0", "-1")
_SHOWN = 3


@dataclass
class ListedItems(Generic[Item]):
    """The items that lists name, by split; {} if there is no list.

    Attributes:
        splits: the items in the order of their list.
        notes: sentences about entries, lists and items that are not read.
        unusable: the held-out splits whose entries name no item, as the test sets of Pascal VOC,
            which were published without annotations.
    """

    splits: dict[str, list[Item]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unusable: dict[str, Unusable] = field(default_factory=dict)


def split_by_lists(folder: Path, items: Mapping[str, Item], what: str) -> ListedItems[Item]:
    """Return the items that train.txt etc. in a folder list; trainval only without train.

    `items` are named by their stems, and called `what` in messages. Raises DataError for a list of
    train of which no entry is an item.
    """
    lists = {file.stem.lower(): file for file in sorted(folder.glob("*.txt"))}
    names: set[str] = set()
    read = ListedItems[Item]()
    splits, notes = read.splits, read.notes
    for name in _LISTS:
        split = split_name(name) or "train"
        if name in lists and split not in splits:
            names.add(name)
            found, lost = _look_up(read_entries(lists[name]), items)
            if lost and not found and split != "train":
                reason = _no_entry(lists[name], lost, items, what)
                read.unusable[split] = Unusable(reason, is_absent=True)
                continue
            notes += _check_lost(lists[name], lost, len(lost) + len(found), items, what)
            if found:
                splits[split] = [items[key] for key in found]
                names.update(found)
                read.unusable.pop(split, None)
    if not splits:
        return read
    if unread := [file.name for name, file in lists.items() if name not in names]:
        notes.append(f"{folder}: lists not read: {len(unread)} ({listed(unread, _SHOWN)})")
    if rest := [key for key in items if key not in names]:
        shown = f"{len(rest)} ({listed(rest, _SHOWN)})"
        notes.append(f"{folder}: {what}s in no list, not read: {shown}")
    return read


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


def _no_entry(file: Path, lost: Sequence[str], items: Mapping[str, object], what: str) -> str:
    """Say that no entry of a list is an item."""
    return (
        f"{file}: {len(lost)} of {len(lost)} entries have no {what}"
        f" ({listed(map(repr, lost), _SHOWN)}); there are {listed(items, _SHOWN)}"
    )


def _check_lost(
    file: Path, lost: Sequence[str], total: int, items: Mapping[str, object], what: str
) -> list[str]:
    if not lost:
        return []
    if len(lost) == total:
        raise DataError(
            f"{_no_entry(file, lost, items, what)}: correct the list, or remove it to read all of"
            " them"
        )
    shown = listed(map(repr, lost), _SHOWN)
    return [f"warning: {file}: {len(lost)} of {total} entries have no {what} ({shown})"]
