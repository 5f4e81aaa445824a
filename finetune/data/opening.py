"""From the config to the splits of a run: read, limit, settle columns, check rows, cut by share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from finetune.config.formats import DataFormat
from finetune.config.schema import DataConfig
from finetune.data.mapping import map_rows
from finetune.data.readers import from_object, only_split
from finetune.data.roles import HELD_OUT, Role, Roles, assign_roles, settle_validation
from finetune.data.splits import count_copies, draw_per_class, split_by_share, strata_of
from finetune.data.validation import check_rows
from finetune.errors import DataError, nearest
from finetune.task import Task
from finetune.task_parts import Row, Rows

FIRST_VALUES = 100


@dataclass(frozen=True)
class Splits:
    """The rows of a run, and a sentence for each thing that was settled on the way to them."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    notes: list[str]

    @property
    def named(self) -> dict[str, Dataset]:
        """Those that there are, by name."""
        found = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in found.items() if rows is not None}

    @property
    def sizes(self) -> str:
        """The sentence on how many rows each split has."""
        return "rows: " + ", ".join(f"{len(rows)} {name}" for name, rows in self.named.items())


def open_splits(config: DataConfig, task: Task, given: Any = None) -> Splits:
    """The checked splits that the config names, or those of `given`: data made in Python.

    Raises DataError for data that cannot be read, rows that cannot be used, an empty split.
    """
    roles = assign_roles(config, given, task.config.formats)
    task.settle({k: v for k, v in roles.keys.items() if getattr(task.config, k) is None})
    tables = roles.tables
    numbers = {role: _limit(roles, role, config) for role in tables}
    if config.map is not None:
        for role in tables:
            tables[role], numbers[role], notes = map_rows(
                role, tables[role], config.map, numbers[role]
            )
            roles.notes += notes
    resolved = task.rows.resolve(tables["train"][:FIRST_VALUES])
    task.settle(resolved.keys)
    roles.notes += resolved.notes
    task_rows = task.rows
    for role, rows in list(tables.items()):
        if role != "train" and not _has_what_task_reads(roles, role, task_rows):
            del tables[role]
            continue
        tables[role], notes = check_rows(
            role, rows, task_rows.validate_many, config.on_error, numbers[role]
        )
        roles.notes += notes
    settle_validation(roles, config)
    identity = [task_rows.identity(row) for row in tables["train"]]
    _note_copies(roles, identity, task_rows)
    if roles.shares:
        _cut(roles, identity, config, task_rows)
    if config.per_class is not None:
        _draw_per_class(roles, config.per_class, config.split_seed, task_rows)
    return Splits(tables["train"], tables.get("validation"), tables.get("test"), roles.notes)


def open_rows(
    reference_or_object: Any,
    config: DataConfig,
    split: str | None = None,
    formats: Sequence[DataFormat] = (),
) -> tuple[Dataset, list[str]]:
    """One table of rows, as for a prediction, and notes on how it was read.

    `split` chooses one of several.
    """
    tables = from_object(reference_or_object, config, formats)
    is_named = isinstance(reference_or_object, str)
    rows = only_split(tables.splits, reference_or_object if is_named else "data", split)
    drawn, numbers = _draw(rows, config)
    notes = [f"{len(drawn)} of {len(rows)} rows are drawn (data.limit)"] if numbers else []
    if config.map is not None:
        drawn, _, said = map_rows("rows", drawn, config.map, numbers)
        notes += said
    return drawn, [*tables.notes, *notes]


def _limit(roles: Roles, role: Role, config: DataConfig) -> Sequence[int] | None:
    """Cut a split to `data.limit` rows, and give the numbers of its rows; None: all are there."""
    rows = roles.tables[role]
    if not len(rows):
        remedy = "" if role == "train" else f", or leave it out with data.{role}=0"
        raise DataError(f"{role}: has no rows; give it rows{remedy}")
    roles.tables[role], numbers = _draw(rows, config)
    if numbers is not None:
        roles.notes.append(f"{role}: {len(numbers)} of {len(rows)} rows are drawn (data.limit)")
    return numbers


def _draw(rows: Dataset, config: DataConfig) -> tuple[Dataset, Sequence[int] | None]:
    """At most `data.limit` rows in their order, and their numbers from 1.

    Drawn from everywhere: the head of a file that is sorted by class holds one class.
    """
    if config.limit is None or len(rows) <= config.limit:
        return rows, None
    order = np.random.default_rng(config.split_seed).permutation(len(rows))
    indices = sorted(order[: config.limit].tolist())
    return rows.select(indices), [index + 1 for index in indices]


def _has_what_task_reads(roles: Roles, role: Role, task_rows: Rows) -> bool:
    """Whether a held-out split can be measured on.

    One that was found by its name and has no labels is not asked for, so it is left out with a
    note. Raises DataError for a missing column.
    """
    rows, row = roles.tables[role], roles.tables["train"][0]
    missing = [
        name for name in row if name not in rows.column_names and _reads(task_rows, row, name)
    ]
    if missing:
        raise DataError(
            f"{role}: has no column {', '.join(map(repr, missing))}, which train has;"
            f" {nearest(missing[0], rows.column_names)} (data.{role}=0 leaves the split out)"
        )
    if role not in roles.found:
        return True
    shared = [name for name in rows.column_names if name in row]
    empty = [name for name in shared if _is_empty(rows, name) and _reads(task_rows, row, name)]
    if empty:
        names = ", ".join(map(repr, empty))
        roles.notes.append(f"{role}: not used, since {names} is empty in all {len(rows)} rows")
    return not empty


def _reads(task_rows: Rows, row: Row, column: str) -> bool:
    """Whether a good row without this column is a bad row: only the task knows what it reads."""
    try:
        return any(True for _ in task_rows.validate({**row, column: None}))
    except (KeyError, TypeError, AttributeError, ValueError):
        return True


def _is_empty(rows: Dataset, column: str) -> bool:
    """Whether no row has a value: None, "", or the -1 by which benchmarks hide their labels."""
    return all(
        value is None or (isinstance(value, str | int) and value in ("", -1))
        for value in rows[column]
    )


def _note_copies(roles: Roles, identity: Sequence[Hashable], task_rows: Rows) -> None:
    """Count rows that are alike, within train and between train and splits that came ready-made."""
    copies = count_copies(identity)
    if copies:
        fate = "copies stay in one split" if roles.shares else "they are kept"
        roles.notes.append(
            f"train: {copies} of {len(identity)} rows are exact copies of another row; {fate}"
        )
    known = set(identity)
    for role in HELD_OUT:
        rows = roles.tables.get(role, [])
        twins = sum(task_rows.identity(row) in known for row in rows)
        if twins:
            # Kept: a published split is not ours to change.
            roles.notes.append(
                f"warning: {twins} of {len(rows)} rows of {role} stand in train as well, so what"
                " is measured on them is too good"
            )


def _cut(roles: Roles, identity: Sequence[Hashable], config: DataConfig, task_rows: Rows) -> None:
    """Cut the shares off train."""
    rows, groups = roles.tables["train"], None
    if config.group is not None:
        if config.group not in rows.column_names:
            hint = nearest(config.group, rows.column_names)
            raise DataError(f"data.group: there is no column {config.group!r}; {hint}")
        groups = rows[config.group]
    strata = strata_of([task_rows.labels(row) for row in rows])
    shares = {str(role): share for role, share in roles.shares.items()}
    parts = split_by_share(shares, config.split_seed, identity, strata, groups)
    for role, share in roles.shares.items():
        if not parts[role]:
            raise DataError(
                f"data.{role}={share}: is no row of {len(rows)}, since every class keeps one in"
                " train, and copies and groups stay together; give more rows, a larger share, or"
                f" data.{role}=0"
            )
        roles.tables[role] = rows.select(parts[role])
        roles.notes.append(
            f"{role}: {len(parts[role])} of {len(rows)} rows of train, the share {share}"
            f" (data.split_seed={config.split_seed})"
        )
    roles.tables["train"] = rows.select(parts["train"])


def _draw_per_class(roles: Roles, count: int, seed: int, task_rows: Rows) -> None:
    """Leave `count` rows of each class in train."""
    rows = roles.tables["train"]
    labels = [task_rows.labels(row) for row in rows]
    if any(len(own) != 1 for own in labels):
        raise DataError(
            f"data.per_class={count}: rows of train do not have one class each, by which they could"
            " be drawn; use data.limit"
        )
    strata = [own for (own,) in labels]
    few = {name: size for name, size in Counter(strata).items() if size < count}
    if few:
        least = min(few.values())
        named = ", ".join(f"{name!r} has {size}" for name, size in list(few.items())[:10])
        raise DataError(
            f"data.per_class={count}: train has fewer rows of {len(few)} classes: {named}; "
            f"set data.per_class to at most {least}, or give more rows of them"
        )
    kept = draw_per_class(strata, count, seed)
    roles.tables["train"] = rows.select(kept)
    roles.notes.append(
        f"train: {len(kept)} of {len(rows)} rows are drawn, {count} of each of"
        f" {len(kept) // count} classes (data.per_class, data.split_seed={seed})"
    )
