"""What stands in a label column: class names, several labels in a cell, or a number.

A label is known by its text wherever it comes from: 1, 1.0, "1" and " 1 " are all the label "1",
True and "true" the label "true". An empty cell, None and NaN are no label. Integers of a `datasets`
ClassLabel are looked up in its names where `class_names` is given; -1 is its sign for no label.
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
MOST_DISTINCT = 0.5  # of the rows, where there are
FEWEST_ROWS = 20  # or more
MOST_LISTED = 5  # unknown labels that an error names
DELIMITERS = (";", "|", ",")

_INTEGER = re.compile(r"0|-?[1-9][0-9]*")  # as Python writes it: "007" is a text


def label_text(value: Any, class_names: Sequence[str] | None = None) -> str | None:
    """The name of the label that a cell holds, or None if it holds none.

    Raises DataError for what can be no label: a number with a fraction, a list, an integer that a
    ClassLabel does not have.
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
                f"{value!r} is a number, not a label; numbers are learned with kind=number, "
                "and labels that look like numbers are written as text"
            )
    raise DataError(f"{value!r} is no label; a label is a text, an integer or true/false")


def _class_label(index: int, class_names: Sequence[str]) -> str | None:
    if index == -1:
        return None
    if 0 <= index < len(class_names):
        return class_names[index]
    raise DataError(
        f"the label {index} is outside of its ClassLabel, which has {len(class_names)} names "
        f"(0 to {len(class_names) - 1}, -1 for none); mend the features of the data set"
    )


def class_label_names(rows: Any, column: str) -> list[str] | None:
    """The names that a `datasets` table has for the integers of a column, or of the lists in it."""
    from datasets import ClassLabel

    feature = getattr(rows, "features", {}).get(column)
    feature = getattr(feature, "feature", feature)  # of the items of a list
    return list(feature.names) if isinstance(feature, ClassLabel) and feature.names else None


def learn_labels(
    values: Iterable[Any],
    given: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    place: str = "task.label",
) -> list[str]:
    """The names of the classes, in order, from all values of the training split.

    They are those `given` by task.labels, else those of the ClassLabel, else those that occur:
    integers by their size, everything else by the alphabet. `place` names the column in errors.
    Raises DataError if a value is not among the names, or if the column does not look like a label.
    """
    try:
        counts = Counter(label_text(value, class_names) for value in values)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    counts.pop(None, None)
    if given is not None:
        names = given_names(given)
        check_known(counts, names, f"{place}: not in task.labels")
        return names
    if class_names is not None:
        check_known(counts, class_names, f"{place}: not in the ClassLabel")
        return list(class_names)
    found = [name for name in counts if name is not None]
    _check_looks_like_labels(found, counts.total(), place)
    return sort_labels(found)


def sort_labels(names: Iterable[str]) -> list[str]:
    """Each name once: integers by their size, everything else by the alphabet."""
    distinct = set(names)
    integers = all(_INTEGER.fullmatch(name) for name in distinct)
    return sorted(distinct, key=int) if integers else sorted(distinct)


def label_index(value: Any, names: Sequence[str], class_names: Sequence[str] | None = None) -> int:
    """Where a value's label stands in `names`. Raises DataError if there is none, or not there."""
    name = label_text(value, class_names)
    if name is None:
        raise DataError("the label is missing")
    try:
        return names.index(name)
    except ValueError:
        raise DataError(f"the label {name!r} is unknown; {nearest(name, names)}") from None


def find_delimiter(values: Iterable[Any]) -> str:
    """What stands between the labels of the cells of a column: the first of ; | , that occurs."""
    seen = {
        mark for value in values if isinstance(value, str) for mark in DELIMITERS if mark in value
    }
    return next((mark for mark in DELIMITERS if mark in seen), DELIMITERS[0])


def split_labels(
    value: Any, delimiter: str | None = None, class_names: Sequence[str] | None = None
) -> list[str]:
    """The names of all labels of a cell, each once: of a list, or of a text with a delimiter.

    Without a delimiter it is looked for in this cell alone; `find_delimiter` looks at the column.
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
    """The finite number that a cell holds, as a number or as text; None for everything else."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, str) and "_" in value):
        return None  # float() would make 1 of True, and 10 of "1_0"
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# ---- what is wrong with a column


def given_names(given: Sequence[str]) -> list[str]:
    """The names of task.labels. Raises ConfigError if one is empty or stands there twice."""
    names = [label_text(name) for name in given]
    for name, count in Counter(names).items():
        if name is None:
            raise ConfigError("task.labels: a name is empty; write every label as a text")
        if count > 1:
            raise ConfigError(f"task.labels: {name!r} stands there {count} times; name it once")
    return [name for name in names if name is not None]


def check_known(counts: Counter[Any], names: Sequence[str], fault: str, what: str = "rows") -> None:
    """Raise DataError, which begins with `fault`, if something is counted that has no name."""
    unknown = [(str(name), count) for name, count in counts.most_common() if name not in names]
    if unknown:
        said = listed((f"{name!r} ({count} {what})" for name, count in unknown), MOST_LISTED)
        raise DataError(f"{fault}: {said}; {nearest(unknown[0][0], names)}")


def _check_looks_like_labels(names: list[str], rows: int, place: str) -> None:
    """Raise DataError if so many, so long or so few names are hardly those of classes."""
    longest = max(names, key=len, default="")
    crowded = rows >= FEWEST_ROWS and len(names) > MOST_DISTINCT * rows
    if not names:
        raise DataError(f"{place}: no row has a label; name the column that has them")
    if len(names) == 1:
        fault = f"all {rows} rows have the label {names[0]!r}, so there is nothing to tell apart"
    elif len(longest) > LONGEST_NAME:
        fault = f"{longest[:40]!r}... has {len(longest)} characters, which looks like a text"
    elif crowded or len(names) > MOST_CLASSES:
        fault = f"{len(names)} different values in {rows} rows look like no label"
    else:
        return
    remedy = "name another column, or list the classes in task.labels if this is right"
    if len(names) > 1 and all(parse_number(name) is not None for name in names):
        remedy = f"numbers are learned with kind=number; or {remedy}"
    raise DataError(f"{place}: {fault}; {remedy}")
