"""The rows that are used: the readable ones, at most data.limit, data.per_class of each class.

Answers are rows with labels that people have filled in since; they join the training rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, List, concatenate_datasets
from datasets.exceptions import DatasetsError

from finetune.config.formats import DataFormat
from finetune.config.schema import DataConfig
from finetune.data.mapping import map_rows
from finetune.data.readers import from_object, only_split
from finetune.data.roles import Role, Roles
from finetune.data.splits import draw_per_class
from finetune.data.validation import find_valid
from finetune.errors import DataError, format_count, listed, nearest
from finetune.tables.faults import RowNumber, drop_unreadable, take_places
from finetune.task_parts.rows import Rows, content_key
from finetune.task_parts.samples import Row


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
    labels = list(task_rows.labels_of(rows))
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


def add_answers(roles: Roles, config: DataConfig, task_rows: Rows) -> None:
    """Join the rows of data.answers that have a label to train, but no row that a split has.

    The other columns of the file are not read. Raises DataError for invalid rows.
    """
    given = config.answers or []
    for path in [given] if isinstance(given, str) else given:
        _join_sheet(roles, path, config.images, task_rows)


def _join_sheet(roles: Roles, path: str, images: str | None, task_rows: Rows) -> None:
    place, train = f"data.answers={path}", roles.tables["train"]
    columns = {*task_rows.inputs, *task_rows.targets}
    read = [name for name in train.column_names if name in columns]
    sheet = only_split(from_object(path, DataConfig(images=images)), place, None)
    for name in read:
        if name not in sheet.column_names:
            raise DataError(f"{place}: has no column {name!r}; {nearest(name, sheet.column_names)}")
    known = {key for rows in roles.tables.values() for key in task_rows.content_keys(rows)}
    filled, added = 0, dict[int, Row]()
    for number, line in enumerate(sheet.select_columns(read), start=1):
        if has_value(line, task_rows.targets):
            filled += 1
            if (key := content_key(task_rows.identity(line))) not in known:
                added[number] = line
                known.add(key)
    last = max(max(roles.numbers_of(role), default=0) for role in roles.tables)
    numbers = [RowNumber(last + number, f"{path} row {number}") for number in added]
    answers = _like(train, list(added.values()), task_rows, place)
    find_valid("answers", answers, task_rows.validate_many, "stop", numbers)
    roles.numbers["train"] = [*roles.numbers_of("train"), *numbers]
    roles.tables["train"] = concatenate_datasets([train, answers])
    left_out = {"without a label": len(sheet) - filled, "that a split has": filled - len(added)}
    rest = ", ".join(f"{count} {why}" for why, count in left_out.items() if count)
    joined_note = f"train: {format_count(len(added), 'row')} of {place} joined"
    roles.notes.append(joined_note + (f"; left out: {rest}" if rest else ""))
    roles.notes += _new_labels(train, answers, task_rows, place)


def has_value(row: Row, columns: Iterable[str]) -> bool:
    """True if one of the columns is not blank, such as the label of a line that is filled in."""
    values = (row.get(name) for name in columns)
    return any(
        bool(value.strip()) if isinstance(value, str) else value is not None and value != []
        for value in values
    )


def read_unlabeled(
    roles: Roles, config: DataConfig, task_rows: Rows, formats: Sequence[DataFormat]
) -> Dataset | None:
    """Return the rows of data.unlabeled that no split has, with the columns that are read.

    Raises DataError if there are none.
    """
    if config.unlabeled is None:
        return None
    place = f"data.unlabeled={config.unlabeled}"
    table = only_split(from_object(config.unlabeled, keep_numbers(config), formats), place)
    rows, notes, numbers = select_rows(table, place, config)
    for name in task_rows.inputs:
        if name not in rows.column_names:
            raise DataError(f"{place}: has no column {name!r}; {nearest(name, rows.column_names)}")
    unread = [name for name in rows.column_names if name not in task_rows.inputs]
    rows = rows.select_columns(task_rows.inputs)
    validate = task_rows.validate_many
    doubtful = task_rows.doubtful(rows)
    valid, faults = find_valid(
        "unlabeled", rows, validate, config.on_error, numbers, doubtful=doubtful
    )
    known = {key for table in roles.tables.values() for key in task_rows.content_keys(table)}
    kept = []
    for index, key in zip(valid, task_rows.content_keys(rows.select(valid)), strict=True):
        if key not in known:
            known.add(key)
            kept.append(index)
    if not kept:
        raise DataError(f"{place}: every row is in a split already; give other rows")
    equal = len(valid) - len(kept)
    rest = f", {equal} left out that equal another row or one of a split" if equal else ""
    count = format_count(len(kept), "row")
    columns = f"; columns not read: {listed(unread, 8)}" if unread else ""
    roles.notes += [*notes, *faults, f"unlabeled: {count} of {config.unlabeled}{rest}{columns}"]
    return rows.select(kept)


def _new_labels(train: Dataset, answers: Dataset, task_rows: Rows, place: str) -> list[str]:
    """Return a warning if answers have a label that no row of train has, maybe a misspelled one."""
    known, named = (
        {label for labels in task_rows.labels_of(table) for label in labels}
        for table in (each.select_columns(task_rows.targets) for each in (train, answers))
    )
    new = sorted(named - known)
    if not (known and new):
        return []
    return [
        f"warning: {place}: no other row has the label {listed(map(repr, new), 8)}; correct the "
        f"file if it is misspelled ({nearest(new[0], known)})"
    ]


def _like(train: Dataset, lines: Sequence[Row], task_rows: Rows, place: str) -> Dataset:
    """Return lines of a sheet as rows with the columns and the types of train."""
    targets = task_rows.targets
    labels = list(task_rows.labels_of(train.select_columns(targets)))
    cells: dict[str, Any] = {}
    if len(targets) == 1:
        pairs = zip(labels, train[targets[0]], strict=True)
        cells = {label[0]: cell for label, cell in pairs if len(label) == 1}
    columns: dict[str, list[Any]] = {}
    for name, feature in train.features.items():
        values = [line.get(name) for line in lines]
        if name in targets and isinstance(feature, List):
            values = [[part.strip() for part in str(value).split(";")] for value in values]
        elif name in targets:
            values = [cells.get(str(value).strip(), value) for value in values]
        elif isinstance(feature, dict):  # an image, whose file the sheet names
            values = [{"bytes": None, "path": v} if isinstance(v, str) else v for v in values]
        columns[name] = values
    try:
        return Dataset.from_dict(columns, features=train.features)
    except (ValueError, TypeError, DatasetsError, pa.ArrowException) as error:
        raise DataError(f"{place}: a value is not of the type that train has: {error}") from error
