"""Equal and nearly equal rows, within a split and across splits.

Rows are numbered here by their index among the rows of all splits, train first.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from finetune.analysis.near_pictures import near_pictures
from finetune.analysis.near_texts import NearPair, near_texts
from finetune.checks.checked_rows import CheckedRows, list_rows
from finetune.task_parts.rows import Finding

TRAIN = "train"


class Repeat(NamedTuple):
    """A row that repeats an earlier one: their indices, and how similar they are; equal ones 1."""

    first: int
    second: int
    similarity: float
    is_equal: bool


class Duplicates:
    """The duplicates among the rows of all splits.

    Without `near`, only equal rows are searched.

    Attributes:
        names, numbers, labels: of each row: its split, its number in its table, its labels.
    """

    def __init__(self, splits: Sequence[CheckedRows], *, near: bool = True) -> None:
        self.splits = splits
        self.near = near
        self.names = [split.name for split in splits for _ in range(len(split))]
        self.numbers = [int(number) for split in splits for number in split.numbers]
        self.labels = [labels for split in splits for labels in split.labels]
        self._keys = [key for split in splits for key in split.identities]

    @cached_property
    def repeats(self) -> list[Repeat]:
        """Each row with the first equal one of its split and of train, and near duplicates."""
        near = self._near() if self.near else ()
        found = chain.from_iterable(map(self._spread, filter(self._differ, near)))
        return [*self._equal(), *found]

    def within(self, split: str) -> dict[int, Repeat]:
        """Return the rows of a split that repeat an earlier row of it."""
        return self._between(split, split)

    def leaked(self, split: str) -> dict[int, Repeat]:
        """Return the rows of a held-out split that also occur in train."""
        return self._between(TRAIN, split)

    def leaking(self) -> list[int]:
        """Return the rows of train that also occur in a held-out split, in order."""
        held_out = {key for key, name in zip(self._keys, self.names, strict=True) if name != TRAIN}
        equal = (index for index, key in enumerate(self._keys) if key in held_out)
        near = (each.first for each in self.repeats if self.names[each.second] != TRAIN)
        return sorted({index for index in chain(equal, near) if self.names[index] == TRAIN})

    def relabeled(self, repeats: Sequence[Repeat]) -> int:
        """Count the repeats that have another label than the row that they repeat."""
        return sum(self.labels[each.first] != self.labels[each.second] for each in repeats)

    def _between(self, earlier: str, later: str) -> dict[int, Repeat]:
        found: dict[int, Repeat] = {}
        for repeat in self.repeats:
            if (self.names[repeat.first], self.names[repeat.second]) == (earlier, later):
                found.setdefault(repeat.second, repeat)
        return dict(sorted(found.items()))

    def _equal(self) -> Iterator[Repeat]:
        first: dict[tuple[str, Hashable], int] = {}
        for index, (name, key) in enumerate(zip(self.names, self._keys, strict=True)):
            own = first.setdefault((name, key), index)
            trained = first.get((TRAIN, key), index)
            yield from (Repeat(each, index, 1.0, True) for each in {own, trained} if each != index)

    @cached_property
    def _copies(self) -> dict[tuple[str, Hashable], list[int]]:
        """The equal rows of each split, which are compared with others once."""
        copies = dict[tuple[str, Hashable], list[int]]()
        for index, place in enumerate(zip(self.names, self._keys, strict=True)):
            copies.setdefault(place, []).append(index)
        return copies

    def _near(self) -> list[NearPair]:
        rows = [copies[0] for copies in self._copies.values()]
        if any(split.has_texts for split in self.splits):
            texts = [each for split in self.splits for each in split.texts]
            found = near_texts([texts[row] for row in rows])
        else:
            pictures = [picture for split in self.splits for picture in split.thumbnails]
            rows = [row for row in rows if pictures[row] is not None]
            known = [picture for row in rows if (picture := pictures[row]) is not None]
            found = near_pictures(np.stack(known)) if len(known) > 1 else []
        return [NearPair(rows[pair.first], rows[pair.second], pair.similarity) for pair in found]

    def _spread(self, pair: NearPair) -> Iterator[Repeat]:
        """Yield the pair, and across splits the copies of each of its rows with the other one."""
        first, second, similarity = pair
        yield Repeat(first, second, similarity, False)
        if self.names[first] != self.names[second]:
            for each in self._copies[self.names[second], self._keys[second]][1:]:
                yield Repeat(first, each, similarity, False)
            for each in self._copies[self.names[first], self._keys[first]][1:]:
                yield Repeat(each, second, similarity, False)

    def _differ(self, pair: NearPair) -> bool:
        return self._keys[pair.first] != self._keys[pair.second]


def leak_findings(duplicates: Duplicates) -> Iterator[Finding]:
    """Yield a finding for each held-out split with rows that occur in train."""
    nothing_left = len(duplicates.leaking()) == len(duplicates.splits[0])
    for split in duplicates.splits:
        if split.name == TRAIN or not (leaked := duplicates.leaked(split.name)):
            continue
        rows = [duplicates.numbers[index] for index in leaked]
        trained = [duplicates.numbers[repeat.first] for repeat in leaked.values()]
        yield Finding(
            3,
            "leakage",
            f"{len(leaked)} of {len(split)} {split.name} rows also occur in train"
            f"{_describe(duplicates, leaked)}: {list_rows(rows)}; {split.name} metrics are "
            "optimistically biased",
            f"data.{split.name}=0.2 holds out a share of train instead; all rows of train leak"
            if nothing_left
            else "data.on_leak=drop leaves such rows out of train",
            len(leaked) / len(split),
            {split.name: rows, TRAIN: trained},
        )


def repeat_findings(duplicates: Duplicates) -> Iterator[Finding]:
    """Yield a finding for each split in which rows repeat others."""
    for split in duplicates.splits:
        if not (repeated := duplicates.within(split.name)):
            continue
        rows, share = [duplicates.numbers[index] for index in repeated], len(repeated) / len(split)
        yield Finding(
            2 if share > 0.05 else 1,
            "duplicates",
            f"{len(repeated)} of {len(split)} {split.name} rows repeat another one"
            f"{_describe(duplicates, repeated)}: {list_rows(rows)}",
            "data.drop=FILE with the file drop.csv that -o writes"
            if split.name == TRAIN
            else "remove them; the metrics count each as often as it occurs",
            share,
            {split.name: rows},
        )


def _describe(duplicates: Duplicates, repeats: dict[int, Repeat]) -> str:
    """Say how many repeats are equal, nearly equal, and of another label."""
    equal = sum(repeat.is_equal for repeat in repeats.values())
    others = duplicates.relabeled(list(repeats.values()))
    kinds = f"{equal} equal, {len(repeats) - equal} nearly"
    return f" ({kinds}{f', {others} with another label' if others else ''})"
