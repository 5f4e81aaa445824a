"""The rows that are used: the readable ones, at most data.limit, data.per_class of each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.mapping import map_rows
from finetune.data.roles import Role, Roles
from finetune.data.splits import draw_per_class
from finetune.errors import DataError
from finetune.tables.faults import drop_unreadable, take_places
from finetune.task_parts import Rows


def keep_numbers(config: DataConfig) -> DataConfig:
    """Return the config to read with: what is skipped keeps its place, for the rows' numbers."""
    keep = {"on_error": "keep"}
    return config.model_copy(update=keep) if config.on_error == "skip" else config


def select_rows(
    rows: Dataset, where: str, config: DataConfig, *, keeps_unreadable: bool = False
) -> tuple[Dataset, list[str], Sequence[int]]:
    """Drop unreadable rows unless they are kept, and apply data.limit and data.map.

    Returns the rows, notes, and the numbers of the rows in their table, from 1.
    """
    if keeps_unreadable:
        (readable, kept), notes = take_places(rows), list[str]()
    else:
        readable, kept, notes = drop_unreadable(rows, where)
    sampled, numbers = _sample(readable, config, kept)
    if len(sampled) < len(readable):
        notes.append(f"sampled {len(sampled)} of {len(readable)} rows (data.limit)")
    if config.map is not None:
        sampled, numbers, map_notes = map_rows("rows", sampled, config.map, numbers)
        notes += map_notes
    return sampled, notes, numbers or range(1, len(sampled) + 1)


def limit_split(roles: Roles, role: Role, config: DataConfig) -> None:
    """Sample a split down to `data.limit` readable rows."""
    rows = roles.tables[role]
    if not len(rows):
        remedy = "" if role == "train" else f", or skip it with data.{role}=0"
        raise DataError(f"{role}: has no rows; add rows{remedy}")
    readable, kept, notes = drop_unreadable(rows, role)
    roles.notes += notes
    roles.tables[role], numbers = _sample(readable, config, kept)
    size = len(roles.tables[role])
    if size < len(readable):
        roles.notes.append(f"{role}: sampled {size} of {len(readable)} rows (data.limit)")
    if numbers is not None:
        roles.numbers[role] = numbers


def limit_classes(roles: Roles, count: int, seed: int, task_rows: Rows) -> None:
    """Reduce train to `count` rows of each class. Raises DataError for classes with fewer."""
    rows = roles.tables["train"]
    labels = [task_rows.labels(row) for row in rows]
    if any(len(row_labels) != 1 for row_labels in labels):
        raise DataError(
            f"data.per_class={count}: train has rows without exactly one class; use data.limit"
        )
    classes = [label for (label,) in labels]
    rare = {name: size for name, size in Counter(classes).items() if size < count}
    if rare:
        least = min(rare.values())
        sizes = ", ".join(f"{name!r} has {size}" for name, size in list(rare.items())[:10])
        raise DataError(
            f"data.per_class={count}: train has fewer rows of {len(rare)} classes: {sizes}; "
            f"set data.per_class to at most {least}, or add rows of these classes"
        )
    kept = draw_per_class(classes, count, seed)
    roles.select("train", kept)
    roles.notes.append(
        f"train: sampled {len(kept)} of {len(rows)} rows, {count} of each of"
        f" {len(kept) // count} classes (data.per_class, data.split_seed={seed})"
    )


def _sample(
    rows: Dataset, config: DataConfig, numbers: Sequence[int] | None
) -> tuple[Dataset, Sequence[int] | None]:
    """Return at most `data.limit` rows in their order, and their numbers from 1; None for all.

    `numbers` are those of the given rows. Sampled at random, since the first rows of a file sorted
    by class are all of one class.
    """
    if config.limit is None or len(rows) <= config.limit:
        return rows, numbers
    order = np.random.default_rng(config.split_seed).permutation(len(rows))
    indices = sorted(order[: config.limit].tolist())
    return rows.select(indices), [
        index + 1 if numbers is None else numbers[index] for index in indices
    ]
