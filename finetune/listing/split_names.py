"""Names of splits as folders and files have them: train, Test, training_set, val2017, seg_train."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

_SPLITS = {
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
# Words beside the split that say what is in it.
_CONTENTS = frozenset(
    [
        "set",
        "data",
        "dataset",
        "split",
        "images",
        "image",
        "imgs",
        "img",
        "pictures",
        "photos",
        "pics",
        "jpg",
        "jpeg",
        "png",
        "tif",
        "files",
    ]
)
_YEAR = re.compile(r"(?<=[a-z])(20\d\d|1)$")  # val2017 of COCO, test1 of Kaggle
_BORDER = re.compile(r"(?<=[a-z])(?=[A-Z])|[-_. ]+")


class SplitName(NamedTuple):
    """The split in a name, and the other words of the name."""

    split: str
    rest: tuple[str, ...] = ()


def split_name(name: str) -> str | None:
    """Return the split that a name stands for: train, validation or test; None if unknown.

    All words of the name must be about the split: "training_set", "test-images", but not
    "seg_train".
    """
    found = parse_split_name(name)
    return found.split if found is not None and not found.rest else None


def parse_split_name(name: str) -> SplitName | None:
    """Return the split that the first or last word of a name stands for, and the other words."""
    words = [word for word in map(_plain, _BORDER.split(name)) if word]
    rest = [word for word in words if word not in _CONTENTS]
    places = [index for index, word in enumerate(rest) if word in _SPLITS]
    if len(places) != 1 or places[0] not in (0, len(rest) - 1):
        return None
    split = _SPLITS[rest.pop(places[0])]
    return SplitName(split, tuple(rest))


def split_of(name: str) -> str | None:
    """Return the split that any word of a name stands for: train for instances_train2017.

    None if there is none. For files of annotations, whose names have other words: `split_name`
    decides for folders.
    """
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((found for word in words if (found := split_name(word.rstrip("0123456789")))), None)


def splits_of_siblings(names: Sequence[str]) -> dict[str, str]:
    """Return {name: split} of the sibling folders that are splits.

    Names with other words, such as seg_train, count only if several have the same ones and train
    is among them: train_station is not a split.
    """
    plain = {name: split for name in names if (split := split_name(name))}
    if plain:
        return plain
    groups: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        if found := parse_split_name(name):
            groups.setdefault(found.rest, {})[name] = found.split
    return next(
        (group for group in groups.values() if "train" in group.values() and len(group) > 1), {}
    )


def _plain(word: str) -> str:
    """Return a word in lower case, without a year and without "set"."""
    word = _YEAR.sub("", word.lower())
    shorter = word.removesuffix("set")
    return shorter if shorter in _SPLITS else word
