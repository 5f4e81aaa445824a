"""Parsing of label cells: a class name, several labels, or a number.

A label is identified by its text, whatever its type: 1, 1.0, "1" and " 1 " are all the label "1",
True and "true" the label "true". An empty cell, None and NaN mean no label. With `class_names`,
integers are looked up in the names of a `datasets` ClassLabel, where -1 means no label.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from finetune.errors import ConfigError, DataError, listed, nearest

LONGEST_NAME = 200  # characters
MOST_CLASSES = 1000
MOST_DISTINCT = 0.5  # distinct labels as a share of the rows,
FEWEST_ROWS = 20  # checked for tables of at least this many rows
MOST_LISTED = 5  # unknown labels that an error lists
DELIMITERS = (";", "|", ",")

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
    values: Iterable[Any],
    given: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    place: str = "task.label",
) -> list[str]:
    """Return the names of the classes, in order, from all values of the training split.

    They are those `given` by task.labels, else those of the ClassLabel, else those that occur,
    sorted numerically if all are integers, else alphabetically. `place` names the column in errors.
    Raises DataError if a value is not among the names, or if the column does not look like labels.
    """
    try:
        counts = Counter(label_text(value, class_names) for value in values)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    counts.pop(None, None)
    if given is not None:
        names = configured_labels(given)
        check_known(counts, names, f"{place}: not in task.labels")
        return names
    if class_names is not None:
        check_known(counts, class_names, f"{place}: not in the ClassLabel")
        return list(class_names)
    names = [name for name in counts if name is not None]
    _check_looks_like_labels(names, counts.total(), place)
    return sort_labels(names)


def sort_labels(names: Iterable[str]) -> list[str]:
    """Return the distinct names, sorted numerically if all are integers, else alphabetically."""
    distinct = set(names)
    integers = all(_INTEGER.fullmatch(name) for name in distinct)
    return sorted(distinct, key=int) if integers else sorted(distinct)


def label_index(value: Any, names: Sequence[str], class_names: Sequence[str] | None = None) -> int:
    """Return the index in `names` of a value's label. Raises DataError if missing or unknown."""
    name = label_text(value, class_names)
    if name is None:
        raise DataError("the label is missing")
    try:
        return names.index(name)
    except ValueError:
        raise DataError(f"unknown label {name!r}; {nearest(name, names)}") from None


def find_delimiter(values: Iterable[Any]) -> str:
    """Detect the delimiter of the labels in a column: the first of ; | , that occurs."""
    seen = {
        mark for value in values if isinstance(value, str) for mark in DELIMITERS if mark in value
    }
    return next((mark for mark in DELIMITERS if mark in seen), DELIMITERS[0])


def split_labels(
    value: Any, delimiter: str | None = None, class_names: Sequence[str] | None = None
) -> list[str]:
    """Return the distinct labels of a cell: a list, or a text with a delimiter.

    If no delimiter is given, it is detected from this cell alone; `find_delimiter` reads a column.
    """
    if isinstance(value, str):
        parts: Iterable[Any] = value.split(delimiter or find_delimiter([value]))
    elif isinstance(value, list | tuple | np.ndarray):
        parts = value
    else:
        parts = [value]
    named = (label_text(part, class_names) for part in parts)
    return list(dict.fromkeys(name for name in named if name is not None))


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


def configured_labels(configured: Sequence[str]) -> list[str]:
    """Return the names of task.labels. Raises ConfigError if one is empty or listed twice."""
    names = [label_text(name) for name in configured]
    for name, count in Counter(names).items():
        if name is None:
            raise ConfigError("task.labels: a name is empty; write every label as text")
        if count > 1:
            raise ConfigError(f"task.labels: {name!r} is listed {count} times; list it once")
    return [name for name in names if name is not None]


def check_known(counts: Counter[Any], names: Sequence[str], fault: str, what: str = "rows") -> None:
    """Raise DataError, beginning with `fault`, if a counted label is not among `names`."""
    unknown = [(str(name), count) for name, count in counts.most_common() if name not in names]
    if unknown:
        labels = listed((f"{name!r} ({count} {what})" for name, count in unknown), MOST_LISTED)
        raise DataError(f"{fault}: {labels}; {nearest(unknown[0][0], names)}")


def _check_looks_like_labels(names: list[str], rows: int, place: str) -> None:
    """Raise DataError if there are too many, too few or too long names for a label column."""
    longest = max(names, key=len, default="")
    crowded = rows >= FEWEST_ROWS and len(names) > MOST_DISTINCT * rows
    if not names:
        raise DataError(f"{place}: no row has a label; choose the column that contains the labels")
    if len(names) == 1:
        fault = f"all {rows} rows have the label {names[0]!r}, but training needs two classes"
    elif len(longest) > LONGEST_NAME:
        fault = f"{longest[:40]!r}... has {len(longest)} characters, too long for a label"
    elif crowded or len(names) > MOST_CLASSES:
        fault = f"{len(names)} distinct values in {rows} rows, too many for a label column"
    else:
        return
    remedy = "choose another column, or list the classes in task.labels if this is intended"
    if len(names) > 1 and all(parse_number(name) is not None for name in names):
        remedy = f"set kind=number for regression, {remedy}"
    raise DataError(f"{place}: {fault}; {remedy}")
