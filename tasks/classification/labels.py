"""Labels as text, the names of the classes, and numbers.

A label is identified by its text, whatever its type: 1, 1.0, "1" and " 1 " are all the label "1",
True and "true" the label "true". An empty cell, None and NaN mean no label. With `class_names`,
integers are looked up in the names of a `datasets` ClassLabel, where -1 means no label.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune.errors import DataError, format_count, listed, nearest
from tasks.cells.label_values import LabelIndex, configured_labels, merge_spellings

LONGEST_NAME = 200  # characters
MOST_LISTED = 5  # unknown labels that an error lists
MANY_LABELS, LABELS_PER_ROW = 10_000, 10  # more labels than both are refused

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # as Python writes it: "007" is not a number


def label_text(value: Any, class_names: Sequence[str] | None = None) -> str | None:
    """Return the name of the label in a cell, or None if there is none.

    Raises DataError for a value that cannot be a label: a number with a fraction, a list, an
    integer out of the range of a ClassLabel.
    """
    if isinstance(value, np.generic):
        value = value.item()
    match value:
        case None:
            return None
        case str():
            return value.strip() or None
        case bool():
            return str(value).lower()
        case int() if class_names is not None:
            return _class_label(value, class_names)
        case int():
            return str(value)
        case float() if math.isnan(value):
            return None
        case float() if value.is_integer():
            return label_text(int(value), class_names)
        case float():
            raise DataError(
                f"{value!r} is a number, not a label; set kind=number for regression, "
                "or write labels that look like numbers as text"
            )
    raise DataError(f"{value!r} cannot be a label; a label is a text, an integer or true/false")


def _class_label(index: int, class_names: Sequence[str]) -> str | None:
    if index == -1:
        return None
    if 0 <= index < len(class_names):
        return class_names[index]
    raise DataError(
        f"label {index} is out of range for its ClassLabel, which has {len(class_names)} names "
        f"(0 to {len(class_names) - 1}, -1 for none); fix the features of the dataset"
    )


def class_label_names(rows: Any, column: str) -> list[str] | None:
    """Return the ClassLabel names of a column of a `datasets` table, or of the lists in it."""
    from datasets import ClassLabel

    feature = getattr(rows, "features", {}).get(column)
    feature = getattr(feature, "feature", feature)  # that of the items of a list
    return list(feature.names) if isinstance(feature, ClassLabel) and feature.names else None


def learn_labels(
    values: Iterable[Any] | Mapping[Any, int],
    given: Sequence[str] | Mapping[str, str] | None = None,
    class_names: Sequence[str] | None = None,
    place: str = "task.label",
) -> list[str]:
    """Return the names of the classes, in order, from all values of the training split, or from
    {value: rows}.

    They are those `given` by task.labels, else those of the ClassLabel, else those that occur,
    sorted numerically if all are integers, else alphabetically; labels that differ in their type
    only are one. `place` names the column in errors. Raises DataError if a value is not among the
    names, or if the column does not look like labels.
    """
    pairs = values.items() if isinstance(values, Mapping) else ((value, 1) for value in values)
    counts = Counter[str | None]()
    try:
        for value, count in pairs:
            counts[label_text(value, class_names)] += count
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    counts.pop(None, None)
    if given is not None or class_names is not None:
        known = configured_labels(given) if given is not None else list(class_names or ())
        index = LabelIndex(known)
        strange = Counter({name: n for name, n in counts.items() if index.get(str(name)) is None})
        where = "task.labels" if given is not None else "the ClassLabel"
        check_known(strange, known, f"{place}: not in {where}")
        return known
    names = {*merge_spellings(name for name in counts if name is not None).values()}
    _check_looks_like_labels(names, counts.total(), place)
    return sort_labels(names)


def sort_labels(names: Iterable[str]) -> list[str]:
    """Return the distinct names, sorted numerically if all are integers, else alphabetically."""
    distinct = set(names)
    integers = all(_INTEGER.fullmatch(name) for name in distinct)
    return sorted(distinct, key=int) if integers else sorted(distinct)


def find_index(name: str | None, names: Sequence[str], index: LabelIndex) -> int:
    """Return the index of a label in `names`. Raises DataError if missing or unknown."""
    if name is None:
        raise DataError("the label is missing")
    if (position := index.get(name)) is None:
        raise DataError(f"unknown label {name!r}; {nearest(name, names)}")
    return position


def parse_number(value: Any) -> float | None:
    """Parse a cell as a finite number, given as a number or as text; None for anything else."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None  # float() would read True as 1, and "1_0" as 10
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# ---- checks of a column


def check_known(counts: Counter[Any], names: Sequence[str], fault: str, what: str = "row") -> None:
    """Raise DataError, beginning with `fault`, if a counted label is not among `names`."""
    known = set(names)
    unknown = [(str(name), count) for name, count in counts.most_common() if name not in known]
    if unknown:
        labels = listed(
            (f"{name!r} ({format_count(count, what)})" for name, count in unknown), MOST_LISTED
        )
        raise DataError(f"{fault}: {labels}; {nearest(unknown[0][0], names)}")


def _check_looks_like_labels(names: Collection[str], rows: int, place: str) -> None:
    """Raise DataError if a label column has no, one, or too long names."""
    longest = max(names, key=len, default="")
    if not names:
        raise DataError(f"{place}: no row has a label; choose the column that contains the labels")
    if len(names) == 1:
        fault = f"all {rows} rows have the label {longest!r}, but training needs two classes"
    elif len(longest) > LONGEST_NAME:
        fault = f"{longest[:40]!r}... has {len(longest)} characters, too long for a label"
    else:
        return
    raise DataError(
        f"{place}: {fault}; choose another column, or list the classes in task.labels if this is "
        "intended"
    )


def refuse_many_labels(labels: int, rows: int, place: str) -> None:
    """Raise DataError for lists of labels that are lists of something else, such as numbers."""
    if labels > max(MANY_LABELS, LABELS_PER_ROW * rows):
        raise DataError(
            f"{place}: {labels} different labels in {rows} rows, for each of which the network "
            "would have an output; list those to learn in task.labels, or name another column"
        )
