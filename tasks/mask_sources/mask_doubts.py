"""Values of masks that have several readings: refused, with the keys that choose one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median

from finetune.errors import DataError, listed
from tasks.mask_sources.mask_files import MaskFacts

_WHITE = 255
_SHOWN = 12
_FIRST_SPREAD = 31  # above it, the first class is not numbered but spread over 0 to 255
_MANY_VALUES = 10  # values in a mask from which they may be numbers of objects
_FEWEST_MASKS = 4  # masks from which that is told
_BLURRED = 40  # values in half of the masks or more, from which they are no classes
_NO_CLASS = frozenset({"background", "bg", "unlabeled", "unlabelled", "void", "none", "other"})


def check_not_instances(facts: Sequence[MaskFacts]) -> None:
    """Raise DataError for masks that most likely number objects and not classes.

    Their values are 0, 1, 2, ... without gaps in every mask, as many as the mask has objects.
    """
    counts = [len(one.counts) for one in facts]
    gapless = (set(one.counts) == set(range(len(one.counts))) for one in facts)
    is_varied = len(facts) >= _FEWEST_MASKS and len(set(counts)) > 2
    if is_varied and max(counts) > _MANY_VALUES and all(gapless):
        raise DataError(
            f"masks: each has the values 0, 1, 2, ... without gaps, up to {max(counts) - 1}, like"
            " numbers of objects: task.encoding=instance makes all objects one class,"
            " task.encoding=index reads each value as a class"
        )


def check_not_blurred(facts: Sequence[MaskFacts]) -> None:
    """Raise DataError for masks of so many values that most are mixtures of the values of classes.

    Lossy compression leaves them, and resizing that interpolates.
    """
    usual = median(len(one.counts) for one in facts)
    if usual > _BLURRED:
        raise DataError(
            f"masks: half of them have {usual:.0f} values or more, as lossy compression or resizing"
            " leaves them: save the masks without loss and resize them with nearest neighbor;"
            " task.encoding=index|color reads each value as a class, task.encoding=instance all"
            " values but 0 as one class"
        )


def check_ignored_white(masks: Sequence[Collection[int]]) -> None:
    """Raise DataError if 255, which is ignored by default, may be a class.

    It may be the last of values that are spread up to it, or the foreground of some masks, which is
    1 in the others. `masks` are the values of each mask.
    """
    seen = sorted(set().union(*masks))
    others = [value for value in seen if value not in (0, _WHITE)]
    if _WHITE not in seen:
        return
    if others and min(others) > _FIRST_SPREAD:
        raise DataError(
            f"masks: have the values {listed(map(str, seen), _SHOWN)}: 255 usually marks pixels to"
            " ignore, but here it may be a class like the others; task.ignore=[] makes it one,"
            " task.ignore=255 ignores it"
        )
    if others == [1] and not any(1 in values and _WHITE in values for values in masks):
        white = sum(_WHITE in values for values in masks)
        raise DataError(
            f"masks: {white} of {len(masks)} have 255 where the others have 1, so both may be the"
            " same class: task.encoding=instance reads all values but 0 as one class,"
            " task.ignore=255 ignores the pixels of 255"
        )


def check_negative(seen: Sequence[int]) -> None:
    """Raise DataError for negative values, which usually mark pixels without a class."""
    negative = [value for value in seen if value < 0]
    if negative:
        raise DataError(
            f"masks: have the values {listed(map(str, negative), _SHOWN)}, which usually mark"
            f" pixels without a class: task.ignore={negative} ignores them; to make one a class,"
            " name it in task.labels={name: value}"
        )


def check_first_value(seen: Sequence[int], labels: Sequence[str]) -> None:
    """Raise DataError if names can be counted from 0 or from 1, as neither end occurs."""
    if not seen or min(seen) != 1 or max(seen) >= len(labels) or labels[0].lower() in _NO_CLASS:
        return
    raise DataError(
        f"masks: have the values {listed(map(str, seen), _SHOWN)}, and task.labels has"
        f" {len(labels)} names: 1 may be {labels[0]!r} (task.encoding=one-based) or {labels[1]!r}"
        " (task.encoding=index)"
    )
