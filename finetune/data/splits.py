"""Splits by share: which rows are held out, so that no split knows a row of another.

Rows that are alike, or of one group, form a component, and a component stands whole in one split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

Component = list[int]


def split_by_share(
    shares: Mapping[str, float],
    seed: int,
    identity: Sequence[Hashable],
    strata: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
) -> dict[str, list[int]]:
    """Sorted row indices of "train" and of each split in `shares`: a pure function.

    Rows of equal identity stay together, so do rows of a group (None: of no group), and whatever
    these two link. Every stratum stands in train; of each other split it makes its share, to
    within the size of one component.
    """
    names = sorted(name for name in shares if shares[name] > 0)
    parts: dict[str, list[int]] = {"train": [], **{name: [] for name in shares}}
    # What rounding left over in one stratum is owed by the next, or 1000 classes of 4 rows would
    # give no row to a split of 0.1.
    owed = dict.fromkeys(names, 0.0)
    components = _components(identity, groups)
    for order, members in enumerate(_by_stratum(components, strata).values()):
        rng = np.random.default_rng([seed, order])
        members = [members[place] for place in rng.permutation(len(members))]
        rows = sum(map(len, members))
        missing = {name: shares[name] * rows + owed[name] for name in names}
        parts["train"] += members[0]  # a class that training never sees could not be learned
        for component in members[1:]:
            name = max(names, key=lambda name: missing[name], default="train")
            # Taken only if that brings the split nearer to its share.
            if name != "train" and missing[name] > len(component) / 2:
                missing[name] -= len(component)
            else:
                name = "train"
            parts[name] += component
        most = max(map(len, members)) / 2
        owed = {name: min(max(missing[name], -most), most) for name in names}
    return {name: sorted(indices) for name, indices in parts.items()}


def strata_of(labels: Sequence[tuple[str, ...]]) -> list[str]:
    """The stratum of each row: its label, the rarest of several, "" for none.

    Combinations of labels would be strata of a row or two each, all of which training would get.
    """
    counts = Counter(label for own in labels for label in own)
    return [min(own, key=lambda label: (counts[label], label), default="") for own in labels]


def draw_per_class(classes: Sequence[Hashable], count: int, seed: int) -> list[int]:
    """Sorted indices of `count` rows of each class, which must have so many: a pure function.

    Of one seed, a smaller count draws a part of what a larger one does.
    """
    members: dict[Hashable, list[int]] = {}
    for row, own in enumerate(classes):
        members.setdefault(own, []).append(row)
    drawn: list[int] = []
    for order, rows in enumerate(members.values()):
        assert len(rows) >= count, "the caller says which classes are too small"
        drawn += np.random.default_rng([seed, order, 0xFE]).permutation(rows)[:count].tolist()
    return sorted(drawn)


def count_copies(identity: Sequence[Hashable]) -> int:
    """How many rows would go if each was kept once."""
    return len(identity) - len(set(identity))


def _components(identity: Sequence[Hashable], groups: Sequence[Hashable] | None) -> list[Component]:
    """Rows linked by identity or group, also through others, in the order of their first row."""
    parent = list(range(len(identity)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for keys in (identity, groups or []):
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            if key is None and keys is groups:
                continue
            one, other = root(first.setdefault(key, row)), root(row)
            # The earlier row leads, whatever the order of links.
            parent[max(one, other)] = min(one, other)
    components: dict[int, Component] = {}
    for row in range(len(identity)):
        components.setdefault(root(row), []).append(row)
    return list(components.values())


def _by_stratum(
    components: Sequence[Component], strata: Sequence[Hashable]
) -> dict[Hashable, list[Component]]:
    """Components by the stratum of most of their rows."""
    by_stratum: dict[Hashable, list[Component]] = {}
    for component in components:
        stratum = strata[component[0]]
        if len(component) > 1:
            stratum = Counter(strata[row] for row in component).most_common(1)[0][0]
        by_stratum.setdefault(stratum, []).append(component)
    return by_stratum
