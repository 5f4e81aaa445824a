"""Splits of a table by a column that names the split of each row, such as split or subset.

A row: {"text": "Shares fell", "label": "business", "split": "train"}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from datasets import Dataset

from finetune.data.readers import Tables
from finetune.errors import format_count
from finetune.listing.split_names import split_name

SPLIT_COLUMNS = ("split", "splits", "subset", "partition", "set", "dataset_split", "data_split")


def divide_by_column(tables: Tables, where: str) -> Tables:
    """Divide the only split of a source by a column of split names; else return `tables`.

    The column has a usual name, and all of its values name splits, train among them. It is not a
    column of the parts. Rows without a value are in no split; a note counts them.
    """
    if len(tables.splits) != 1:
        return tables
    (rows,) = tables.splits.values()
    column = next((name for name in rows.column_names if name.lower() in SPLIT_COLUMNS), None)
    splits = None if column is None else _splits_of_values(rows.unique(column))
    if column is None or splits is None:
        return tables
    positions: dict[str, list[int]] = {split: [] for split in dict.fromkeys(splits.values())}
    for index, value in enumerate(rows[column]):
        if value in splits:
            positions[splits[value]].append(index)
    note = f"splits: column {column!r} of {where} names the split of each row"
    lost = len(rows) - sum(map(len, positions.values()))
    if lost:
        note += f"; not read: {format_count(lost, 'row')} without a value"
    rest = rows.remove_columns(column)
    parts: dict[str, Dataset] = {split: rest.select(kept) for split, kept in positions.items()}
    return replace(tables, splits=parts, notes=[*tables.notes, note])


def _splits_of_values(values: Iterable[object]) -> dict[object, str] | None:
    """Return {value: split} if all values name splits, several, and train is one; else None."""
    named = [value for value in values if value is not None and value != ""]
    splits = {value: split_name(value) if isinstance(value, str) else None for value in named}
    known = {value: split for value, split in splits.items() if split is not None}
    several = len(set(known.values())) > 1 and "train" in known.values()
    return known if several and len(known) == len(named) else None
