"""Near duplicates of texts: MinHash of pairs of neighboring words, then the overlap of those pairs.

The signatures of similar texts agree in a band with high probability (Broder 1997; bands as in
Leskovec et al., Mining of Massive Datasets, chapter 3); candidates are compared exactly.

Shapes: N texts, S word pairs of all texts, H hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain, combinations, islice, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NEAR = 0.7
"""Share of the word pairs of two texts that both have (Jaccard), from which they are duplicates."""
# Scripts without spaces between words: each character is a word.
_WORD = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|\\w+")
_BANDS, _ROWS = 20, 4  # of texts with an overlap of 0.7, 99.6 % share a band
_CROWD = 50  # texts in a band, from which only neighbors in it are compared
_LIKELY = 0.45  # share of equal hashes; with an overlap of 0.7, of a million pairs one has fewer
_AT_ONCE, _TEXTS_AT_ONCE, _PAIRS_AT_ONCE = 2**22, 10_000, 2**14
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
    hashes, ends = _hash_word_pairs([part for parts in texts for part in parts])
    parts_of_rows = np.cumsum([0, *map(len, texts)])
    known = dict[int, list[_Hashes]]()

    def distinct(row: int) -> list[_Hashes]:
        if row not in known:
            parts = range(parts_of_rows[row], parts_of_rows[row + 1])
            known[row] = [np.unique(hashes[ends[part] : ends[part + 1]]) for part in parts]
        return known[row]

    found = []
    for first, second in sorted(_candidates(hashes, ends[parts_of_rows])):
        similarity = _overlap(distinct(first), distinct(second))
        if similarity >= near:
            found.append(NearPair(first, second, similarity))
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


class _Numbers(dict[str, int]):
    """Numbers of words, from 1 in the order in which they are first asked for."""

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self) + 1
        return number


def _hash_word_pairs(texts: Sequence[str]) -> tuple[_Hashes, NDArray[np.int64]]:
    """Return a hash of each pair of neighboring words, of a single word its own, and their places.

    Those of text i are hashes[ends[i] : ends[i + 1]].
    """
    known, blocks, counts = _Numbers(), [np.empty(0, np.uint64)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        lengths = list[int]()
        words = _numbered(texts[start : start + _TEXTS_AT_ONCE], known, lengths)
        numbers = np.fromiter(chain.from_iterable(words), np.uint64)
        sizes = np.array(lengths)
        is_last = np.zeros(len(numbers), bool)
        is_last[(np.cumsum(sizes) - 1)[sizes > 0]] = True
        is_single = np.repeat(sizes == 1, sizes)
        mixed = _mixed(numbers)
        pairs = np.where(is_last, mixed, _mixed(mixed + np.roll(numbers, -1)))
        blocks.append(pairs[~is_last | is_single])
        counts.append(np.where(sizes > 1, sizes - 1, sizes))
    return np.concatenate(blocks), np.cumsum(np.concatenate(counts))


def _numbered(texts: Sequence[str], known: _Numbers, lengths: list[int]) -> Iterator[Iterator[int]]:
    """Yield the numbers of the words of each text; append how many it has to `lengths`."""
    for text in texts:
        words = words_of(text)
        lengths.append(len(words))
        yield map(known.__getitem__, words)


def _mixed(values: _Hashes) -> _Hashes:
    """Spread values over 64 bits (the finalizer of SplitMix64)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _candidates(hashes: _Hashes, ends: NDArray[np.int64]) -> set[tuple[int, int]]:
    """Return pairs of rows whose signatures agree in a band; `ends` are those of rows."""
    filled = np.flatnonzero(np.diff(ends))
    if len(filled) < 2:
        return set()
    signatures = _signatures(hashes, ends[filled])
    pairs = set[tuple[int, int]]()
    for start in range(0, signatures.shape[1], _ROWS):
        band = signatures[:, start]
        for column in range(start + 1, start + _ROWS):
            band = _mixed(band) + signatures[:, column]
        order = np.argsort(band, kind="stable")
        edges = np.flatnonzero(np.diff(band[order], prepend=band[order[0]] + np.uint64(1)))
        ends = np.append(edges[1:], len(order))
        shared = ends - edges > 1  # most texts are alone, and slices of them would take seconds
        spans = zip(edges[shared].tolist(), ends[shared].tolist(), strict=True)
        linked = (_linked(order[first:end].tolist()) for first, end in spans)
        pairs.update(_likely(chain.from_iterable(linked), signatures, filled))
    return pairs


def _linked(members: Sequence[int]) -> Iterator[tuple[int, int]]:
    return combinations(members, 2) if len(members) <= _CROWD else pairwise(members)


def _likely(
    pairs: Iterator[tuple[int, int]], signatures: _Hashes, rows: NDArray[np.int64]
) -> Iterator[tuple[int, int]]:
    """Yield the rows of pairs of signatures that agree often enough, some pairs at a time.

    Of short texts of few words, thousands share a band with each one by chance.
    """
    while some := list(islice(pairs, _PAIRS_AT_ONCE)):
        places = np.array(some)  # [P, 2]
        agree = (signatures[places[:, 0]] == signatures[places[:, 1]]).mean(1)
        yield from map(tuple, rows[places[agree >= _LIKELY]].tolist())


def _signatures(hashes: _Hashes, starts: NDArray[np.int64]) -> _Hashes:
    """Return the least value of each of H hash functions over the word pairs of a row, [N, H]."""
    rng = np.random.default_rng(0)
    count = _BANDS * _ROWS
    factors = rng.integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = rng.integers(0, 2**63, count, dtype=np.uint64)
    signatures = np.empty((len(starts), count), np.uint64)
    ends = np.append(starts[1:], len(hashes))
    start = 0
    while start < len(starts):  # blocks that stay in the processor's cache
        first = starts[start]
        stop = max(int(np.searchsorted(ends, first + _AT_ONCE // count)), start + 1)
        values = hashes[first : ends[stop - 1]]
        for index in range(count):
            hashed = values * factors[index] + offsets[index]
            signatures[start:stop, index] = np.minimum.reduceat(hashed, starts[start:stop] - first)
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
