"""The checks before every training, in seconds: what will make the results wrong or useless.

What opening the data says already, such as equal rows, is not repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from finetune.checks.checked_rows import CheckedRows, checked_splits
from finetune.checks.column_checks import column_findings
from finetune.checks.duplicates import TRAIN, Duplicates, leak_findings
from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_splits
from finetune.errors import DataError, format_count
from finetune.task import Task

MOST_CHARACTERS = 10_000_000
"""Length of all texts up to which near duplicates are searched unasked: 2 s of a processor."""
MOST_PIXELS, MOST_PICTURES = 50_000_000, 5_000
"""Size and number of all pictures, likewise."""
_SEVERE = 3


def open_checked_splits(config: DataConfig, task: Task, data: Any = None) -> Splits:
    """Open the splits of a run, check them, and treat leaks as data.on_leak says.

    Raises DataError as `open_splits` does, and for leaks with data.on_leak=stop.
    """
    splits = open_splits(config, task, data)
    checked = checked_splits(splits, task.rows)
    too_many = too_many_to_compare(checked)
    if checked[0].has_texts or not too_many:
        found = [each for each in column_findings(checked[0]) if each.harm >= _SEVERE]
        splits.notes.extend(f"warning: {each.topic}: {each.text}; {each.remedy}" for each in found)
    if len(checked) == 1:
        return splits
    if config.on_leak == "say":
        if too_many:
            splits.notes.append(f"near duplicates: not searched, {too_many}; `finetune check` does")
            return splits
        duplicates = Duplicates(checked)
        splits.notes.extend(_near_leaks(duplicates))
        return replace(
            splits, leaked={split.name: _numbers(duplicates, split.name) for split in checked[1:]}
        )
    duplicates = Duplicates(checked)
    leaking = duplicates.leaking()
    if leaking and config.on_leak == "stop":
        lines = [f"  {finding.text}" for finding in leak_findings(duplicates)]
        remedy = "remove them, or leave them out of train with data.on_leak=drop"
        raise DataError("\n".join(["data.on_leak=stop: leakage:", *lines, remedy]))
    return _without(splits, leaking) if leaking else splits


def _near_leaks(duplicates: Duplicates) -> list[str]:
    """Return a note for each held-out split with rows that nearly occur in train."""
    notes = []
    for split in duplicates.splits[1:]:
        near = [each for each in duplicates.leaked(split.name).values() if not each.is_equal]
        if near:
            others = duplicates.relabeled(near)
            notes.append(
                f"warning: leakage: {len(near)} of {len(split)} {split.name} rows are nearly equal "
                f"to one of train{f', {others} of them with another label' if others else ''}; "
                "`finetune check` lists them, data.on_leak=drop leaves them out of train"
            )
    return notes


def _numbers(duplicates: Duplicates, split: str) -> set[int]:
    return {duplicates.numbers[index] for index in duplicates.leaked(split)}


def _without(splits: Splits, leaking: Sequence[int]) -> Splits:
    """Return the splits without these rows of train. Raises DataError if none is left."""
    count, dropped = len(splits.train), set(leaking)
    kept = [place for place in range(count) if place not in dropped]
    if not kept:
        raise DataError(
            f"data.on_leak=drop: all {count} train rows occur in a held-out split; hold out a "
            "share of train instead, such as data.validation=0.2 and data.test=0.2"
        )
    splits.notes.append(
        f"train: {len(dropped)} of {count} rows left out, which occur in a held-out split equal or "
        "nearly equal (data.on_leak=drop)"
    )
    numbers = [splits.numbers[TRAIN][place] for place in kept]
    return replace(
        splits, train=splits.train.select(kept), numbers={**splits.numbers, TRAIN: numbers}
    )


def too_many_to_compare(splits: Sequence[CheckedRows]) -> str:
    """Return what takes more than seconds to compare; "" if nothing does."""
    rows = sum(map(len, splits))
    if any(split.has_texts for split in splits):
        counts = (len(text) for split in splits for texts in split.each_texts() for text in texts)
        is_more = any(count > MOST_CHARACTERS for count in accumulate(counts))
        return f"more than {MOST_CHARACTERS:,} characters of text" if is_more else ""
    if not any(split.has_pictures for split in splits):
        return ""
    if rows > MOST_PICTURES:
        return format_count(rows, "picture")
    sizes = [size for split in splits for size in split.sizes if size is not None]
    pixels = sum(height * width for height, width in sizes)
    return format_count(rows, "picture") if pixels > MOST_PIXELS else ""
