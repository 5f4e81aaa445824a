"""Boxes that are too small to be found, or as large as their picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from finetune.errors import format_count, listed
from finetune.task_parts.rows import Finding

_TINY = 8  # pixels of the shorter side, half the stride of the finest features of most detectors
_WHOLE = 0.95  # share of the picture
_SHOWN = 5


class BoxedPicture(NamedTuple):
    """The number of a row, the size (H, W) of its picture, and its boxes: xyxy in pixels."""

    number: int
    size: tuple[int, int]
    boxes: Sequence[tuple[float, float, float, float]]


def box_findings(split: str, pictures: Sequence[BoxedPicture]) -> Iterator[Finding]:
    """Yield findings on the boxes of a split, and on pictures without any."""
    total = sum(len(picture.boxes) for picture in pictures)
    tiny, whole = dict[int, int](), dict[int, int]()
    for number, (height, width), boxes in pictures:
        sides = [(right - left, bottom - top) for left, top, right, bottom in boxes]
        small = sum(min(side) < _TINY for side in sides)
        large = sum(across * down >= _WHOLE * height * width for across, down in sides)
        tiny |= {number: small} if small else {}
        whole |= {number: large} if large else {}
    for rows, what, remedy in (
        (tiny, f"shorter than {_TINY} pixels", "task.tile=SIDE cuts large pictures into parts"),
        (whole, "as large as their picture", "check them; they teach nothing about the place"),
    ):
        count = sum(rows.values())
        if count:
            yield Finding(
                2 if count > total / 10 else 1,
                "boxes",
                f"{count} of {format_count(total, 'box', 'es')} of {split} are {what}: rows "
                f"{listed(rows, _SHOWN)}",
                remedy,
                count / total,
                {split: list(rows)},
            )
    empty = [picture.number for picture in pictures if not picture.boxes]
    if len(empty) > len(pictures) / 2:
        text = f"{len(empty)} of {len(pictures)} {split} pictures have no box"
        remedy = "check that their annotations were read; pictures without objects are background"
        yield Finding(2, "boxes", text, remedy, len(empty) / len(pictures), {split: empty})
