"""Near duplicates of texts: MinHash of pairs of neighboring words, then the overlap of those pairs.

The signatures of similar texts agree in a band with high probability (Broder 1997; bands as in
Leskovec et al., Mining of Massive Datasets, chapter 3); candidates are compared exactly.

Shapes: N texts, S word pairs of all texts, H hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR = 0.7
"""Share of the word pairs of two texts that both have (Jaccard), from which they are duplicates."""
# Scripts without spaces between words: each character is a word.
_WORD = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\\w+")
_BANDS, _ROWS = 20, 4  # of texts with an overlap of 0.7, 99.6 % share a band
_CROWD = 50  # texts in a band, from which only neighbors in it are compared
_AT_ONCE = 2**22
_Hashes = NDArray[np.uint64]


class NearPair(NamedTuple):
    """Two rows, first < second, and how similar they are, from 0 to 1."""

    first: int
    second: int
    similarity: float


def near_texts(texts: Sequence[Sequence[str]], near: float = NEAR) -> list[NearPair]:
    """Return the pairs of rows whose texts are all nearly equal: a pure function.

    A row has one text or several, such as a question and a passage, which must all be similar.
    """
    known: dict[str, int] = {}
    rows = [[_word_pairs(part, known) for part in parts] for parts in texts]
    joined = [np.concatenate(parts) if parts else np.empty(0, np.uint64) for parts in rows]
    found = []
    for first, second in sorted(_candidates(joined)):
        similarity = _overlap(rows[first], rows[second])
        if similarity >= near:
            found.append(NearPair(first, second, similarity))
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


def _word_pairs(text: str, known: dict[str, int]) -> _Hashes:
    """Return a hash of each pair of neighboring words, without repetition; of a single word, its.

    `known` numbers the words in the order in which they are first seen.
    """
    words = words_of(text)
    numbers = np.fromiter(
        (known.setdefault(word, len(known) + 1) for word in words), np.uint64, len(words)
    )
    if len(numbers) < 2:
        return _mixed(numbers)
    return np.unique(_mixed(_mixed(numbers[:-1]) + numbers[1:]))


def _mixed(values: _Hashes) -> _Hashes:
    """Spread values over 64 bits (the finalizer of SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(rows: Sequence[_Hashes]) -> set[tuple[int, int]]:
    """Return pairs of rows whose signatures agree in a band."""
    filled = np.array([index for index, row in enumerate(rows) if len(row)], dtype=np.int64)
    if len(filled) < 2:
        return set()
    signatures = _signatures([rows[index] for index in filled])
    pairs = set[tuple[int, int]]()
    for start in range(0, signatures.shape[1], _ROWS):
        band = signatures[:, start]
        for column in range(start + 1, start + _ROWS):
            band = _mixed(band) + signatures[:, column]
        order = np.argsort(band, kind="stable")
        edges = np.flatnonzero(np.diff(band[order])) + 1
        for group in np.split(order, edges):
            if len(group) > 1:
                members = filled[group].tolist()
                pairs.update(_linked(members))
    return pairs


def _linked(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    return combinations(members, 2) if len(members) <= _CROWD else pairwise(members)


def _signatures(rows: Sequence[_Hashes]) -> _Hashes:
    """Return the least value of each of H hash functions over the word pairs of a row, [N, H]."""
    rng = np.random.default_rng(0)
    hashes = _BANDS * _ROWS
    factors = rng.integers(0, 2**63, hashes, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 2**63, hashes, dtype=np.uint64)
    signatures = np.empty((len(rows), hashes), np.uint64)
    ends = np.cumsum([len(row) for row in rows])
    start = 0
    while start < len(rows):  # blocks that stay in the processor's cache
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _AT_ONCE // hashes)), start + 1)
        values = np.concatenate(rows[start:stop])
        starts = np.concatenate([[0], ends[start : stop - 1] - before])
        for index in range(hashes):
            hashed = values * factors[index] + offsets[index]
            signatures[start:stop, index] = np.minimum.reduceat(hashed, starts)
        start = stop
    return signatures


def _overlap(first: Sequence[_Hashes], second: Sequence[_Hashes]) -> float:
    """Return the least overlap (Jaccard) of the texts of two rows."""
    if len(first) != len(second):
        return 0.0
    shares = [1.0]
    for one, other in zip(first, second, strict=True):
        shared = len(np.intersect1d(one, other, assume_unique=True))
        whole = len(one) + len(other) - shared
        shares.append(shared / whole if whole else 1.0)
    return min(shares)
