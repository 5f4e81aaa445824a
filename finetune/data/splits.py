"""Splits by share without leakage: choose the rows that are held out from training.

Duplicates and rows of one group form a component, and a component is never divided between splits.
A table may also name the split of each row in a column, such as split or subset.

A row: {"text": "Shares fell", "label": "business", "split": "train"}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset

from finetune.data.readers import Tables
from finetune.errors import format_count
from finetune.listing.split_names import split_name

Component = list[int]
SPLIT_COLUMNS = ("split", "splits", "subset", "partition", "set", "dataset_split", "data_split")


def split_by_share(
    shares: Mapping[str, float],
    seed: int,
    identity: Sequence[Hashable],
    strata: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
) -> dict[str, list[int]]:
    """Return sorted row indices of "train" and of each split in `shares`: a pure function.

    Rows of equal identity stay together, as do rows of a group (None: no group), and all rows
    linked by these two. Every stratum occurs in train; each other split gets its share of every
    stratum, to within the size of one component.
    """
    names = sorted(name for name in shares if shares[name] > 0)
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    # Carry rounding errors over to the next stratum; otherwise 1000 classes of 4 rows would give
    # no row to a split of 0.1.
    carried = dict.fromkeys(names, 0.0)
    components = _components(identity, groups)
    for order, members in enumerate(_by_stratum(components, strata).values()):
        rng = np.random.default_rng([seed, order])
        members = [members[place] for place in rng.permutation(len(members))]
        rows = sum(map(len, members))
        missing = {name: shares[name] * rows + carried[name] for name in names}
        parts["train"] += members[0]  # so that train has every class
        for component in members[1:]:
            name = max(names, key=lambda name: missing[name], default="train")
            # Assign the component only if that brings the split closer to its share.
            if name != "train" and missing[name] > len(component) / 2:
                missing[name] -= len(component)
            else:
                name = "train"
            parts[name] += component
        most = max(map(len, members)) / 2
        carried = {name: min(max(missing[name], -most), most) for name in names}
    return {name: sorted(indices) for name, indices in parts.items()}


def strata_of(labels: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the stratum of each row: its label, the rarest of several, "" for none.

    Combinations of labels would make strata of one or two rows each, and all would go to train.
    """
    counts = Counter(label for row in labels for label in row)
    rarest = {
        row: min(row, key=lambda label: (counts[label], label), default="") for row in set(labels)
    }
    return [rarest[row] for row in labels]


def draw_per_class(classes: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Return sorted indices of `count` rows of each class: a pure function.

    With the same seed, a smaller count draws a subset of the rows of a larger one.
    """
    members: dict[Hashable, list[int]] = {}
    for row, name in enumerate(classes):
        members.setdefault(name, []).append(row)
    drawn: list[int] = []
    for order, rows in enumerate(members.values()):
        assert len(rows) >= count, "the caller must check the sizes of the classes"
        drawn += np.random.default_rng([seed, order, 0xFE]).permutation(rows)[:count].tolist()
    return sorted(drawn)


def count_duplicates(identity: Sequence[Hashable]) -> int:
    """Count the rows that deduplication would remove."""
    return len(identity) - len(set(identity))


def _components(identity: Sequence[Hashable], groups: Sequence[Hashable] | None) -> list[Component]:
    """Return rows linked by identity or group, transitively, in the order of their first row."""
    components: dict[Hashable, Component] = {}
    if groups is None:
        for row, key in enumerate(identity):
            components.setdefault(key, []).append(row)
        return list(components.values())
    parent = list(range(len(identity)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for keys in (identity, groups):
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            if key is None and keys is groups:
                continue
            one, other = root(first.setdefault(key, row)), root(row)
            # The first row is the root, whatever the order of the links.
            parent[max(one, other)] = min(one, other)
    for row in range(len(identity)):
        components.setdefault(root(row), []).append(row)
    return list(components.values())


def _by_stratum(
    components: Sequence[Component], strata: Sequence[Hashable]
) -> dict[Hashable, list[Component]]:
    """Group the components by the most common stratum of their rows."""
    by_stratum: dict[Hashable, list[Component]] = {}
    for component in components:
        stratum = strata[component[0]]
        if len(component) > 1:
            stratum = Counter(strata[row] for row in component).most_common(1)[0][0]
        by_stratum.setdefault(stratum, []).append(component)
    return by_stratum


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
