"""Pictures: their sizes, and sizes that give the label away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from finetune.checks.checked_rows import CheckedRows, list_rows
from finetune.checks.column_checks import predicted_share
from finetune.task_parts.rows import Finding

_SMALL = 32  # pixels of the shorter side
_LONG = 4  # ratio of the sides


def size_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield findings on the sizes of pictures."""
    for split in splits:
        known = [(place, size) for place, size in enumerate(split.sizes) if size is not None]
        if not known:
            continue
        places, sides = [place for place, _ in known], np.array([size for _, size in known])
        yield from _unusual(split, places, sides)
    train = splits[0]
    share = predicted_share(train.sizes, train.labels)
    if share is not None:
        text = f"the size of the picture gives away the label of {share:.0%} of the rows"
        remedy = "bring all pictures to one size before training: the source may be recognized"
        yield Finding(2, "label given away", text, remedy, share)


def _unusual(split: CheckedRows, places: Sequence[int], sides: np.ndarray) -> Iterator[Finding]:
    shorter, longer = sides.min(1), sides.max(1)
    height, width = np.median(sides, axis=0).astype(int)
    about = f"(median {width} x {height}, shorter side {shorter.min()} to {shorter.max()})"
    kinds = {
        f"smaller than {_SMALL} pixels": (
            shorter < _SMALL,
            "networks see them enlarged; task.image_size sets how much",
        ),
        f"more than {_LONG} times as long as wide": (
            longer > _LONG * shorter,
            "resizing distorts or crops them; cut them into parts",
        ),
    }
    for what, (mask, remedy) in kinds.items():
        (found,) = np.nonzero(mask)
        numbers = split.numbers_at(places[index] for index in found.tolist())
        if numbers:
            yield Finding(
                1,
                "sizes",
                f"{len(numbers)} of {len(split)} {split.name} pictures are {what} {about}: "
                f"{list_rows(numbers)}",
                remedy,
                len(numbers) / len(split),
                {split.name: numbers},
            )
