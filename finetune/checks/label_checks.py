"""Labels that contradict each other, are rare, or are missing where they are measured."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from numbers import Real
from typing import Any

from finetune.checks.checked_rows import CheckedRows, list_rows
from finetune.errors import format_count, listed
from finetune.task_parts.rows import Finding
from finetune.task_parts.samples import take_rows

_IMBALANCED = 5  # ratio of the largest to the smallest class
_RARE = 10  # rows of a class
_SMALL = 100  # rows of a held-out split
_SHOWN = 8
_LONGEST = 60  # characters of a label


def contradiction_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield a finding for each split with equal inputs that have different labels."""
    for split in splits:
        truths = _truths(split)
        by_key: dict[Hashable, dict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
        for position, (key, truth) in enumerate(zip(split.identities, truths, strict=True)):
            if truth is not None:
                by_key[key][truth].append(position)
        groups = [groups for groups in by_key.values() if len(groups) > 1]
        positions = sorted(place for group in groups for each in group.values() for place in each)
        if not positions:
            continue
        numbers = split.numbers_at(positions)
        pairs = Counter(tuple(sorted(map(str, map(_name, group)))) for group in groups)
        often = listed((f"{_join(names)} ({count})" for names, count in pairs.most_common()), 3)
        yield Finding(
            3 if len(positions) > len(split) / 50 else 2,
            "contradictions",
            f"{len(positions)} of {len(split)} {split.name} rows are equal to another one but for "
            f"their label ({often}): {list_rows(numbers)}",
            "correct them; several labels of one row are given in one row, as a list",
            len(positions) / len(split),
            {split.name: numbers},
        )


def _truths(split: CheckedRows) -> list[Any]:
    """Return what equal rows must agree in: labels or a number; None for texts, of which several
    may be right.
    """
    if any(split.labels):
        return list(split.labels)
    if not len(split) or not isinstance(_truth(split, [0])[0], Real):
        return [None] * len(split)
    return _truth(split, range(len(split)))


def _truth(split: CheckedRows, positions: Sequence[int]) -> list[Any]:
    return [split.task_rows.truth(row) for row in take_rows(split.rows, positions)]


def _name(truth: Any) -> Any:
    return ", ".join(truth) if isinstance(truth, tuple) else truth


def _join(names: Sequence[str]) -> str:
    """Return the different labels of equal rows in a few words, however many and long they are."""
    shown = [name if len(name) <= _LONGEST else f"{name[:_LONGEST]} ..." for name in names[:_SHOWN]]
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    return " / ".join([*shown, *more])


def balance_findings(splits: Sequence[CheckedRows]) -> Iterator[Finding]:
    """Yield findings on how many rows each label has, and on small held-out splits."""
    counts = {split.name: Counter(name for row in split.labels for name in row) for split in splits}
    train, one_each = splits[0], all(len(row) == 1 for row in splits[0].labels)
    trained = counts[train.name]
    if len(trained) == 1 and one_each and train.task_rows.label_unit == "rows":
        text = f"all {len(train)} train rows have the label {next(iter(trained))}"
        yield Finding(3, "balance", text, "add rows of another label, or name another column", 1.0)
    yield from _rare(trained, one_each=one_each)
    for split in splits[1:]:
        missing = [name for name in trained if not counts[split.name][name]]
        unknown = [name for name in counts[split.name] if not trained[name]]
        if unknown:
            text = f"{split.name} has labels that train lacks: {listed(unknown, _SHOWN)}"
            yield Finding(3, "balance", text, "remove those rows, or list task.labels", 1.0)
        if missing:
            text = f"no row of {split.name} has the label {listed(missing, _SHOWN)}"
            yield Finding(2, "balance", text, "they are not measured there; add rows of them")
        if len(split) < _SMALL:
            size = format_count(len(split), "row")
            text = f"{split.name} has {size}, so its metrics are imprecise"
            yield Finding(2, "balance", text, "hold out more rows", 1.0)


def _rare(counts: Counter[str], *, one_each: bool) -> Iterator[Finding]:
    if len(counts) < 2:
        return
    (most, largest), (least, smallest) = counts.most_common()[0], counts.most_common()[-1]
    rare = [f"{name} {count}" for name, count in counts.items() if count < _RARE]
    share = sum(count for count in counts.values() if count < _RARE) / counts.total()
    if rare:
        text = f"labels with fewer than {_RARE} train rows: {listed(rare, _SHOWN)}"
        yield Finding(2, "balance", text, "add rows, or join these labels with others", share)
    if largest > _IMBALANCED * smallest:
        remedy = "train.sampling=balanced" if one_each else "add rows of the rare labels"
        text = f"train has {largest} rows of {most}, {smallest} of {least}"
        yield Finding(2, "balance", text, remedy, 1 - smallest / largest)
