"""Columns that give the label away, say nothing, or hold ids instead of text."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from finetune.analysis.near_texts import words_of
from finetune.checks.checked_rows import CheckedRows
from finetune.errors import listed
from finetune.task_parts.columns import window_size
from finetune.task_parts.rows import Finding

_GIVEN_AWAY = 0.95  # share of the labels that a column predicts
_FEWEST = 20  # rows of a label, from which words that go with it are no chance
_IN_LABEL, _ELSEWHERE = 0.9, 0.01  # shares of the texts with a word that gives a label away
_ID = re.compile(r"(?=\S*\d)[\w./:{}-]+|[0-9a-fA-F-]{32,}")
_IDS = 0.9  # share of ids in a column of ids
_SHOWN = 5
_LONG = 200  # characters of a text that are kept


def column_findings(split: CheckedRows) -> Iterator[Finding]:
    """Yield findings on the columns of the training rows."""
    read, targets = split.task_rows.inputs, split.task_rows.targets
    blank, constant = list[str](), list[str]()
    for name in split.rows.column_names:
        values = None if name in targets else _values(split, name)
        if values is None:
            continue
        distinct = set(values)
        if distinct <= {None, ""}:
            blank.append(name)
        elif len(distinct) == 1 and len(values) > 1:
            constant.append(name)
        elif name in read and split.has_texts and _share_of_ids(values) >= _IDS:
            yield Finding(
                3,
                "ids",
                f"column {name} is read as text, but holds ids such as {values[0]!r}",
                f"name another column of the text, such as {listed(_others(split), 8)}",
                1.0,
            )
        if name != "file" and (share := predicted_share(values, split.labels)) is not None:
            yield _given_away(name, share, is_read=name in read)
    silent = dict.fromkeys(blank, "empty") | dict.fromkeys(constant, "the same in all rows")
    if silent:
        is_read = any(name in read for name in silent)
        yield Finding(
            2 if is_read else 1,
            "columns",
            f"columns that say nothing: {listed(map(_with_reason, silent.items()), _SHOWN)}",
            "leave them out of what the task reads" if is_read else "nothing: they are not read",
        )


def _with_reason(column: tuple[str, str]) -> str:
    return "{} ({})".format(*column)


def _given_away(name: str, share: float, *, is_read: bool) -> Finding:
    found = f"column {name} gives away the label of {share:.0%} of the rows"
    if is_read:
        remedy = "leave it out, unless it is known wherever the model will be used"
        return Finding(3, "label given away", f"{found}, and is read", remedy, share)
    return Finding(1, "label given away", f"{found}; it is not read", "do not add it", share)


def predicted_share(values: Sequence[Hashable], labels: Sequence[tuple[str, ...]]) -> float | None:
    """Return the share of labels that follow from a column by the other rows with its value.

    None if it is below 95 %, little above the share of the most frequent label, or unknown.
    """
    known: dict[tuple[str, ...], int] = {}
    numbers: dict[Hashable, int] = {}
    of_label = np.array([known.setdefault(one, len(known)) if one else -1 for one in labels])
    has_label = of_label >= 0
    rows = int(has_label.sum())
    if len(known) < 2 or rows < _FEWEST:
        return None
    of_value = np.array([numbers.setdefault(value, len(numbers)) for value in values])
    pairs, counts = np.unique((of_value * len(known) + of_label)[has_label], return_counts=True)
    most = np.zeros(len(numbers), dtype=np.int64)  # rows of the most frequent label of each value
    np.maximum.at(most, pairs // len(known), counts)
    # Without the row itself, a label that occurs once is not predicted.
    share = int(most[most > 1].sum()) / rows
    usual = int(np.bincount(of_label[has_label]).max()) / rows
    return share if share >= _GIVEN_AWAY and share > usual + (1 - usual) / 2 else None


def telling_words(split: CheckedRows) -> Iterator[Finding]:
    """Yield a finding on words that occur in nearly all texts of a label and in hardly any other.

    Such a word may be a mark of where the rows come from.
    """
    sizes = Counter(split.labels)
    by_label: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for texts, labels in zip(split.texts, split.labels, strict=True):
        by_label[labels].update({word for text in texts for word in words_of(text)})
    everywhere = sum(by_label.values(), Counter[str]())
    found = []
    for labels, size in sizes.items():
        rest = len(split) - size
        if not labels or min(size, rest) < _FEWEST:
            continue
        for word, count in by_label[labels].items():
            if count >= _IN_LABEL * size and everywhere[word] - count <= _ELSEWHERE * rest:
                found.append((size, f"{word!r} ({', '.join(labels)}: {count} of {size} texts)"))
    if found:
        yield Finding(
            2,
            "label given away",
            f"words that occur with one label only: {listed((text for _, text in found), _SHOWN)}",
            "remove them with data.map, unless they are part of what is to be recognized",
            sum(size for size, _ in found) / len(split),
        )


def _values(split: CheckedRows, name: str) -> list[Any] | None:
    """Return the cells of a column that can be compared; None for lists, images and objects."""
    feature = split.rows.features[name]
    if getattr(feature, "dtype", None) is None or feature.dtype in ("dict", "list", "binary"):
        return None
    column, values = split.rows[name], list[Any]()
    size = window_size(split.rows, [name])
    for start in range(0, len(split.rows), size):
        values += map(_shortened, column[start : start + size])
    return values if all(isinstance(value, Hashable) for value in values) else None


def _shortened(cell: Any) -> Any:
    """Return a cell, a long text by its start and a digest: texts may be larger than memory."""
    if not isinstance(cell, str) or len(cell) <= _LONG:
        return cell
    digest = blake2b(cell.encode(errors="surrogatepass"), digest_size=8)
    return f"{cell[:_LONG]}:{digest.hexdigest()}"


def _others(split: CheckedRows) -> list[str]:
    known = {*split.task_rows.inputs, *split.task_rows.targets}
    return [name for name in split.rows.column_names if name not in known] or ["(none)"]


def _share_of_ids(values: Sequence[Any]) -> float:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < len(values) / 2 or len(set(texts)) < _IDS * len(texts):
        return 0.0
    others = 0
    for text in texts:
        others += _ID.fullmatch(text) is None
        if others > (1 - _IDS) * len(texts) + 1:  # as in prose, of which there may be much
            return 0.0
    return 1 - others / len(texts)
