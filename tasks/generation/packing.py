"""Packing: several rows of a micro-batch share a row of tokens, so that less padding is computed.

Best-fit decreasing (Johnson 1973): each row, the longest first, goes where it leaves least room.
Shapes: B rows, K bins, T tokens of a bin.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

Bins = list[list[int]]
"""The numbers of the rows that each bin holds."""

# Lengths of a bin that are tried, as multiples of the longest row.
STRETCHES = (1.0, 1.125, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0)
# A token costs 1 + T / QUADRATIC: attention grows with the bin. On two CPU cores SmolLM2-135M took
# 3.94 s for 1 x 2048 tokens and 2.65 s for 4 x 512.
QUADRATIC = 2600


def pack(lengths: Sequence[int], longest: int) -> Bins:
    """Rows in bins of at most `longest` tokens, of the length that costs the network least.

    That is the longest row or somewhat more: several bins of middle length are computed faster than
    a long one.
    """
    floor = max(lengths)
    sizes = {min(max(int(floor * stretch), floor), max(longest, floor)) for stretch in STRETCHES}
    found = (best_fit(lengths, size) for size in sorted(sizes))
    return min(found, key=lambda bins: _cost(lengths, bins))


def best_fit(lengths: Sequence[int], size: int) -> Bins:
    """Rows in bins of `size` tokens by best-fit decreasing; no row is longer than that."""
    bins: Bins = []
    rooms: list[tuple[int, int]] = []  # (room left, bin), sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect_left(rooms, (lengths[row], -1))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = size, len(bins)
            bins.append([])
        bins[number].append(row)
        insort(rooms, (room - lengths[row], number))
    return bins


def computed(lengths: Sequence[int], bins: Bins) -> int:
    """Tokens that a network computes for the bins: each is padded to the fullest."""
    return len(bins) * max(sum(lengths[row] for row in members) for members in bins)


def _cost(lengths: Sequence[int], bins: Bins) -> float:
    tokens = computed(lengths, bins)
    return tokens * (1 + tokens / len(bins) / QUADRATIC)
