"""Assignment of tables to train, validation and test, by config keys and split names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Dataset

from finetune.config.formats import DataFormat
from finetune.config.schema import DataConfig
from finetune.data.readers import (
    Tables,
    check_usable,
    from_object,
    only_split,
    read_reference,
)
from finetune.data.source import check_given
from finetune.data.splits import divide_by_column
from finetune.errors import DataError, format_count, nearest
from finetune.io.references import locate
from finetune.listing.split_names import split_name

Role = Literal["train", "validation", "test"]
HELD_OUT: tuple[Role, ...] = ("validation", "test")

SMALL = 10_000
SHARE_OF_SMALL, SHARE_OF_LARGE = 0.2, 0.1


@dataclass
class Roles:
    """The tables of a run as read, and the shares of train that are still to be held out."""

    tables: dict[Role, Dataset]
    shares: dict[Role, float] = field(default_factory=dict)
    reasons: dict[Role, str] = field(default_factory=dict)
    """Reasons for shares that no key asks for; noted once rows are held out."""
    inferred: set[Role] = field(default_factory=set)
    """Splits taken because of their names alone; no key names them, so they may be dropped."""
    notes: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    """Task keys that the sources define."""
    numbers: dict[Role, Sequence[int]] = field(default_factory=dict)
    """Number of each row in the table that it was read from, from 1; absent: consecutive."""

    def numbers_of(self, role: Role) -> Sequence[int]:
        return self.numbers.get(role) or range(1, len(self.tables[role]) + 1)

    def select(self, role: Role, positions: Sequence[int], source: Role | None = None) -> None:
        """Give a role the rows at these positions of its own table, or of that of another role."""
        numbers, rows = self.numbers_of(source or role), self.tables[source or role]
        self.numbers[role] = [numbers[position] for position in positions]
        self.tables[role] = rows.select(positions)


def assign_roles(config: DataConfig, data: Any = None, formats: Sequence[DataFormat] = ()) -> Roles:
    """Read all tables that the config names; `data`, made in Python, replaces data.source."""
    where = str(config.source) if data is None else "the data passed"
    source = divide_by_column(_read_source(config, data, formats), where)
    search = _Search(config, source, where, formats)
    roles = Roles({"train": search.train()}, notes=search.notes, keys=search.keys)
    for role in HELD_OUT:
        wanted = getattr(config, role)
        if isinstance(wanted, str):
            roles.tables[role] = search.named(role, wanted)
        elif wanted:
            roles.shares[role] = wanted
    for role in HELD_OUT:
        if getattr(config, role) is None:
            search.check_inferred(role)
        name = find_split(search.source.splits, role) if getattr(config, role) is None else None
        used = [id(rows) for rows in roles.tables.values()]
        if name is not None and id(search.source.splits[name]) not in used:
            roles.tables[role] = search.take(role, name)
            roles.inferred.add(role)
    used = [id(rows) for rows in roles.tables.values()]
    unread = [name for name, rows in search.source.splits.items() if id(rows) not in used]
    if unread:
        roles.notes.append(
            f"not read: {'split' if len(unread) == 1 else 'splits'} {', '.join(unread)}"
        )
    if sum(roles.shares.values()) >= 1:
        keys = " + ".join(f"data.{role}={share}" for role, share in roles.shares.items())
        raise DataError(f"{keys}: no rows left for training; the sum must be less than 1")
    return roles


def train_rows(
    config: DataConfig, source: Tables, where: str, formats: Sequence[DataFormat]
) -> tuple[Dataset, list[str]]:
    """Return the rows of a source to train on, as a run chooses them, and notes on them."""
    search = _Search(config, source, where, formats)
    return search.train(), search.notes


def settle_validation(roles: Roles, config: DataConfig) -> None:
    """Choose a share of train for validation if the data have no held-out split."""
    if config.validation is not None or "validation" in roles.tables:
        return
    if "test" in roles.tables or roles.shares:
        roles.notes.append("validation: none; data.validation=0.1 would hold out a share of train")
        return
    rows = len(roles.tables["train"])
    if rows == 1:
        roles.notes.append("validation: none, since there is a single row")
        return
    share = SHARE_OF_SMALL if rows < SMALL else SHARE_OF_LARGE
    size = f"fewer than {SMALL}" if rows < SMALL else f"{SMALL} or more"
    roles.shares["validation"] = share
    roles.reasons["validation"] = (
        f"validation: the data have no validation or test split, so a share of {share} of train is"
        f" held out (default for {size} rows; change it with data.validation=SHARE, or 0 for none)"
    )


def find_split(splits: Iterable[str], role: str | None) -> str | None:
    """Return the name among `splits` that stands for a role; exact names win over dev, val, ..."""
    names = list(splits)
    if role in names:
        return role
    return next((name for name in names if role is not None and split_name(name) == role), None)


@dataclass
class _Search:
    """Lookup of tables in the splits of the source, or at other references."""

    config: DataConfig
    source: Tables
    where: str
    formats: Sequence[DataFormat]
    notes: list[str] = field(init=False)
    keys: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.notes, self.keys = list(self.source.notes), dict(self.source.keys)

    def take(self, role: str, split: str) -> Dataset:
        rows = self.source.splits[split]
        self.notes.append(
            f"{role}: split {split!r} of {self.where}, {format_count(len(rows), 'row')}"
        )
        return rows

    def train(self) -> Dataset:
        if self.config.train is not None:
            return self.named("train", self.config.train)
        splits = self.source.splits
        check_usable(self.source, "train")
        only = next(iter(splits)) if len(splits) == 1 else None
        is_held_out = only is not None and split_name(only) in HELD_OUT
        name = find_split(splits, "train") if only is None or is_held_out else only
        if name is None:
            why = ", and held-out splits are not trained on unless a key says so" * is_held_out
            names = ", ".join(splits)
            raise DataError(
                f"{self.where}: no split is called train{why}; choose one with data.train=NAME:"
                f" {names}"
            )
        return self.take("train", name)

    def check_inferred(self, role: Role) -> None:
        """Refuse a held-out split that the source names but that cannot be used.

        An absent test split only gives a note.
        """
        fault = self.source.unusable.get(role)
        if fault is None:
            return
        if not (fault.is_absent and role == "test"):
            share = "data.validation=0.1 holds out a share of train, " * (role == "validation")
            raise DataError(f"{fault.reason} ({share}data.{role}=0 leaves the split out)")
        self.notes.append(f"not read: split {role}: {fault.reason}")

    def named(self, role: str, name: str) -> Dataset:
        """Return the rows of data.<role>=name: a split of the source, else a path or a hub id."""
        splits = self.source.splits
        split = name if name in splits else find_split(splits, split_name(name))
        if split is None:
            check_usable(self.source, split_name(name) or name)
        if split is not None:
            return self.take(role, split)
        if splits and locate(name) is None:
            raise DataError(
                f"data.{role}: {name!r} is neither a file nor a split of {self.where};"
                f" {nearest(name, splits)}"
            )
        tables = read_reference(name, self.config, self.formats)
        # If the path has several splits itself, take the one named after this role.
        inside = find_split(tables.splits, role)
        if inside is None or len(tables.splits) == 1:
            rows = only_split(tables, f"data.{role}={name}")
        else:
            rows = tables.splits[inside]
        self.keys = {**tables.keys, **self.keys}
        self.notes += [*tables.notes, f"{role}: {name}, {format_count(len(rows), 'row')}"]
        return rows


def _read_source(config: DataConfig, data: Any, formats: Sequence[DataFormat]) -> Tables:
    if data is not None:
        return from_object(data, config, formats)
    if config.source is not None:
        return read_reference(config.source, config, formats)
    check_given(config)
    return Tables({})
