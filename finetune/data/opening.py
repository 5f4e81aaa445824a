"""From the config to the splits of a run: read, limit, resolve columns, check rows, split by share.

The steps are those of `open_splits`, in order; `open_rows` reads one table, such as for prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from finetune.config.formats import DataFormat
from finetune.config.schema import DataConfig
from finetune.data.image_files import NO_IMAGES
from finetune.data.mapping import map_rows
from finetune.data.readers import add_lookup, from_object, only_split
from finetune.data.reviewed import apply_reviewed
from finetune.data.roles import (
    HELD_OUT,
    SHARE_OF_SMALL,
    Role,
    Roles,
    assign_roles,
    settle_validation,
)
from finetune.data.selection import (
    add_answers,
    keep_numbers,
    limit_classes,
    limit_split,
    read_unlabeled,
    select_rows,
)
from finetune.data.splits import count_duplicates, divide_by_column, split_by_share, strata_of
from finetune.data.validation import find_valid
from finetune.errors import DataError, format_count, nearest
from finetune.io.references import locate
from finetune.tables.records import from_records
from finetune.task import Task
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import Row, take_rows

FIRST_VALUES = 100


@dataclass(frozen=True)
class Splits:
    """The rows of a run, and one sentence for each choice made while opening them."""

    train: Dataset
    validation: Dataset | None
    test: Dataset | None
    notes: list[str]
    numbers: Mapping[str, Sequence[int]]
    """Number of each row of a split in the table that it was read from, from 1."""
    unlabeled: Dataset | None = None
    """The rows of data.unlabeled, with the columns that the network reads."""
    leaked: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Numbers of held-out rows that occur in train, as far as that was looked for."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the rows of each split, their inputs and their labels, once they are computed."""

    @property
    def named(self) -> dict[str, Dataset]:
        """The existing splits, by name."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in splits.items() if rows is not None}

    @property
    def sizes(self) -> str:
        """One line with the number of rows in each split."""
        return "rows: " + ", ".join(f"{len(rows)} {name}" for name, rows in self.named.items())


def open_splits(config: DataConfig, task: Task, data: Any = None) -> Splits:
    """Open and check the splits that the config names, or those of `data`, made in Python.

    Raises DataError for unreadable data, invalid rows and empty splits.
    """
    config = for_task(config, task)
    roles = assign_roles(keep_numbers(config), data, task.config.formats)
    task.settle({k: v for k, v in roles.keys.items() if getattr(task.config, k) is None})
    tables = roles.tables
    for role in tables:
        limit_split(roles, role, config)
    if config.map is not None:
        for role in tables:
            tables[role], roles.numbers[role], notes = map_rows(
                role, tables[role], config.map, roles.numbers_of(role)
            )
            roles.notes += notes
    names = tables["train"].column_names
    if config.group is not None and config.group not in names:
        raise DataError(f"data.group: no column {config.group!r}; {nearest(config.group, names)}")
    try:
        resolved = task.rows.resolve(tables["train"][:FIRST_VALUES])
    except DataError as error:
        path = None if data is not None or config.source is None else locate(config.source)
        add_lookup(error, path, task.config.formats)
        raise
    task.settle(resolved.keys)
    task_rows = task.rows
    apply_reviewed(roles, config, task_rows)
    roles.notes += [*resolved.notes, *unread_columns(tables["train"], task_rows, config)]
    for role, rows in list(tables.items()):
        if role != "train" and not _is_usable(roles, role, task_rows):
            del tables[role]
            continue
        valid, notes = find_valid(
            role,
            rows,
            task_rows.validate_many,
            config.on_error,
            roles.numbers_of(role),
            doubtful=task_rows.doubtful(rows),
        )
        roles.notes += notes
        if len(valid) < len(rows):
            roles.select(role, valid)
    _divide_single_row(roles, config, task_rows)
    settle_validation(roles, config)
    roles.notes.append(f"first row: {task_rows.describe(tables['train'][0])}")
    identity = task_rows.content_keys(tables["train"])
    _note_duplicates(roles, identity, task_rows, config)
    if roles.shares:
        _split_by_share(roles, identity, config, task_rows)
    if config.per_class is not None:
        limit_classes(roles, config.per_class, config.split_seed, task_rows)
    add_answers(roles, config, task_rows)
    unlabeled = read_unlabeled(roles, config, task_rows, task.config.formats)
    held_out = tables.get("validation"), tables.get("test")
    numbers = {str(role): roles.numbers_of(role) for role in tables}
    splits = Splits(tables["train"], *held_out, roles.notes, numbers, unlabeled)
    completed = task_rows.complete(splits.named)
    task.settle(completed.keys)
    splits.notes.extend(completed.notes)
    return splits


def for_task(config: DataConfig, task: Task) -> DataConfig:
    """Return the config to read with: a task without images has all cells as they are."""
    if task.config.reads_images or config.images is not None:
        return config
    return config.model_copy(update={"images": NO_IMAGES})


def open_rows(
    reference_or_object: Any,
    config: DataConfig,
    split: str | None = None,
    formats: Sequence[DataFormat] = (),
) -> tuple[Dataset, list[str]]:
    """Return one table of rows, such as for prediction, and notes on how it was read.

    `split` chooses one of several splits.
    """
    rows, notes, _ = open_numbered_rows(reference_or_object, config, split, formats)
    return rows, notes


def open_numbered_rows(
    reference_or_object: Any,
    config: DataConfig,
    split: str | None = None,
    formats: Sequence[DataFormat] = (),
    *,
    keeps_unreadable: bool = False,
) -> tuple[Dataset, list[str], Sequence[int]]:
    """Return what `open_rows` does, and the numbers of the rows in their table, from 1.

    With `keeps_unreadable`, what a file holds in place of a row keeps its place, with the reason in
    the column UNREADABLE.
    """
    reading = config.model_copy(update={"on_error": "keep"}) if keeps_unreadable else config
    tables = from_object(reference_or_object, keep_numbers(reading), formats)
    where = reference_or_object if isinstance(reference_or_object, str) else "data"
    if split is not None and split not in tables.splits:
        tables = divide_by_column(tables, where)
    rows = only_split(tables, where, split, takes_split=True)
    selected, notes, numbers = select_rows(rows, where, config, keeps_unreadable=keeps_unreadable)
    return selected, [*tables.notes, *notes], numbers


def unread_columns(rows: Dataset, task_rows: Rows, config: DataConfig) -> list[str]:
    """Note the columns that neither the task nor data.group reads."""
    read = {*task_rows.inputs, *task_rows.targets, config.group, "file"}
    unread = [name for name in rows.column_names if name not in read]
    if not unread or not task_rows.inputs:
        return []
    return [f"not read: {'column' if len(unread) == 1 else 'columns'} {', '.join(unread)}"]


def _divide_single_row(roles: Roles, config: DataConfig, task_rows: Rows) -> None:
    """Hold out a part of the only row, if the task can divide it and no other rows are held out."""
    rows = roles.tables["train"]
    if len(rows) != 1 or len(roles.tables) > 1:
        return
    default = {} if config.validation is not None else {"validation": SHARE_OF_SMALL}
    shares = {str(role): share for role, share in roles.shares.items()} or default
    parts = task_rows.divide(take_rows(rows, [0])[0], shares) if shares else None
    if parts is None:
        return
    roles.shares.clear()
    roles.tables["train"], _ = from_records([parts["train"]], "train")
    for role in HELD_OUT:
        if role in parts:
            roles.tables[role], _ = from_records([parts[role]], role)
    sizes = ", ".join(f"{share} {role}" for role, share in shares.items())
    roles.notes.append(
        f"the only row is divided: {1 - sum(shares.values()):.2g} train, {sizes}"
        " (data.validation=0 for none)"
    )


def _is_usable(roles: Roles, role: Role, task_rows: Rows) -> bool:
    """True if a held-out split can be evaluated on. Raises DataError for a missing column.

    A split without labels that the config does not name is skipped with a note.
    """
    rows, row = roles.tables[role], roles.tables["train"][0]
    missing = [
        name for name in row if name not in rows.column_names and _reads(task_rows, row, name)
    ]
    if role in roles.inferred and _lacks_labels(rows, row, task_rows, missing):
        names = ", ".join(map(repr, set(missing) & set(task_rows.targets)))
        roles.notes.append(
            f"{role}: not used for evaluation, since its {len(rows)} rows have no labels (no column"
            f" {names}); `finetune predict` reads them"
        )
        return False
    if missing:
        raise DataError(
            f"{role}: has no column {', '.join(map(repr, missing))}, which train has;"
            f" {nearest(missing[0], rows.column_names)} (data.{role}=0 skips the split)"
        )
    if role not in roles.inferred:
        return True
    shared = [name for name in rows.column_names if name in row]
    empty = [name for name in shared if _is_empty(rows, name) and _reads(task_rows, row, name)]
    if empty:
        names = ", ".join(map(repr, empty))
        count = format_count(len(rows), "row")
        roles.notes.append(f"{role}: skipped, since {names} is empty in every row ({count})")
    return not empty


def _lacks_labels(rows: Dataset, row: Row, task_rows: Rows, missing: Sequence[str]) -> bool:
    """True if a split has no target column, not even one that may be the target by another name."""
    targets = [name for name in missing if name in task_rows.targets]
    others = [name for name in rows.column_names if name not in row]
    return bool(targets) and not any(nearest(name, others).startswith("did") for name in targets)


def _reads(task_rows: Rows, row: Row, column: str) -> bool:
    """True if a valid row is invalid without this column: only the task knows what it reads."""
    try:
        return any(True for _ in task_rows.validate({**row, column: None}))
    except (KeyError, TypeError, AttributeError, ValueError):
        return True


def _is_empty(rows: Dataset, column: str) -> bool:
    """True if every value is None, "" or -1, by which benchmarks hide the labels of a split."""
    return all(
        value is None or (isinstance(value, str | int) and value in ("", -1))
        for value in rows[column]
    )


def _note_duplicates(
    roles: Roles, identity: Sequence[Hashable], task_rows: Rows, config: DataConfig
) -> None:
    """Note duplicates within train, and leakage of train into splits that were not made here,
    unless it ends the run or leaves train.
    """
    duplicates = count_duplicates(identity)
    if duplicates:
        fate = "duplicates stay in one split" if roles.shares else "they are kept"
        roles.notes.append(
            f"train: {duplicates} of {len(identity)} rows are exact duplicates of another row;"
            f" {fate}"
        )
    if duplicates and (differing := _differing_labels(roles.tables["train"], identity, task_rows)):
        roles.notes.append(
            f"warning: train: {differing} rows differ from another row in nothing but their label;"
            " if these are several labels of one row, give them in one row, as a list"
        )
    known = set(identity)
    for role in HELD_OUT if config.on_leak == "say" else ():
        if role not in roles.tables:
            continue
        rows = roles.tables[role]
        keys = task_rows.content_keys(rows)
        leaked = [place for place, key in enumerate(keys) if key in known]
        if leaked:
            # Kept, so that results on a published split stay comparable.
            roles.notes.append(
                f"warning: leakage: {len(leaked)} of {len(rows)} {role} rows also occur in train,"
                f" so {role} metrics are optimistically biased"
            )
            pairs = set(zip(identity, task_rows.labels_of(roles.tables["train"]), strict=True))
            labels = list(task_rows.labels_of(rows))
            others = [place for place in leaked if (keys[place], labels[place]) not in pairs]
            roles.notes[-1] += f"; {len(others)} of them have another label there" * bool(others)


def _differing_labels(rows: Dataset, identity: Sequence[Hashable], task_rows: Rows) -> int:
    """Count the rows that are equal to another one but for their label."""
    repeated = {key for key, count in Counter(identity).items() if count > 1}
    labels: dict[Hashable, Counter[Hashable]] = {}
    for key, row_labels in zip(identity, task_rows.labels_of(rows), strict=True):
        if key in repeated:
            labels.setdefault(key, Counter())[row_labels] += 1
    return sum(counts.total() for counts in labels.values() if len(counts) > 1)


def _split_by_share(
    roles: Roles, identity: Sequence[Hashable], config: DataConfig, task_rows: Rows
) -> None:
    """Hold out the shares of train. Raises DataError if one of them gets no row."""
    rows, groups = roles.tables["train"], None
    if config.group is not None:
        groups = rows[config.group][:]
    strata = strata_of(list(task_rows.labels_of(rows)))
    shares = {str(role): share for role, share in roles.shares.items()}
    parts = split_by_share(shares, config.split_seed, identity, strata, groups)
    for role, share in roles.shares.items():
        if not parts[role] and getattr(config, role) is None:  # chosen, not asked for
            roles.notes.append(
                f"{role}: none, since no row of {len(rows)} can be held out: every class keeps one"
                " in train, and duplicates and groups stay together"
            )
            continue
        if not parts[role]:
            raise DataError(
                f"data.{role}={share}: none of {len(rows)} rows can be held out: every class"
                " keeps at least one row in train, and duplicates and groups stay together; add"
                f" rows, set a larger share, or set data.{role}=0"
            )
        roles.select(role, parts[role], "train")
        roles.notes += [roles.reasons[role]] if role in roles.reasons else []
        roles.notes.append(
            f"{role}: {len(parts[role])} of {len(rows)} train rows held out, a share of {share}"
            f" (data.split_seed={config.split_seed})"
        )
    roles.select("train", parts["train"])
