"""Reading of label cells: their kind, and one label or several with their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune.errors import AmbiguityError, ConfigError, DataError
from finetune.task_parts.rows import Resolved
from tasks.cells.counted_cells import CountedCells
from tasks.cells.delimiters import DELIMITERS, find_delimiter, judge_delimiters
from tasks.cells.indicators import (
    indicator_length,
    indicator_mapping,
    is_indicator,
    label_mappings,
    mapping_columns,
    parse_bit,
)
from tasks.cells.label_values import LabelIndex, is_missing, label_key
from tasks.cells.list_cells import are_lists, is_object, object_name, parse_list
from tasks.classification.label_config import TargetConfig
from tasks.classification.labels import label_text, parse_number

MANY = 20  # values from which shares of them mean something
MOST_DISTINCT = 0.5  # share of distinct numbers in train from which they may be measurements
NEARLY_ALL = 0.9  # likewise in the first rows, which hold few rows of each of many classes
MOST_SIZES = 5  # numbers with a unit that may be classes, such as 0%, 50% and 100%
_BITS = re.compile(r"[01]{3,}")
_UNIT = re.compile(r"[%‰$€£¥]")
_WITH_UNIT = re.compile(r"[$€£¥]?\s?[+-]?\d[\d.,]*\s?[%‰$€£¥]?")
MOST_NUMBERS = 0.8  # share of numbers from which the other values of a column are faults


@dataclass(frozen=True)
class LabelReader:
    """Reader of label cells.

    Attributes:
        labels: task.labels: names in order, or {value: name}.
        class_names: names of a `datasets` ClassLabel.
        delimiter: between the labels of a text; None: detected from each cell alone.
        blank_is_no: True if null in an object of labels means no, and is not a fault.
    """

    labels: Sequence[str] | Mapping[str, str] | None = None
    class_names: Sequence[str] | None = None
    delimiter: str | None = None
    blank_is_no: bool | None = None

    def one(self, value: Any) -> str | None:
        """Return the label of a cell, None if there is none. Raises DataError."""
        if isinstance(self.labels, Mapping):
            text = label_text(value)
            if text is not None and label_key(text) in self.labels:
                return self.labels[label_key(text)]
        return label_text(value, self.class_names)

    def several(self, value: Any) -> list[str]:
        """Return the distinct labels of a cell: a list, a list as text, or a delimited text.

        A list of zeros and ones selects from the names of task.labels, an object from its keys.
        """
        if (bits := indicator_mapping(value)) is not None:
            value = self._chosen(bits)
        items = list_items(value, self.delimiter)
        if (positions := self._positions(items)) is not None:
            return positions
        named = (self.one(item) for item in items)
        return list(dict.fromkeys(name for name in named if name is not None))

    def check(self, lists: Iterable[Any], place: str, *, is_sample: bool = False) -> None:
        """Raise AmbiguityError for cells of zeros and ones whose positions have no names."""
        items = [each for value in lists if (each := list_items(value, self.delimiter))]
        count = indicator_length(items)
        if count is None or self.class_names is not None or isinstance(self.labels, Mapping):
            return
        if count == 2 and all(len({*map(parse_bit, each)}) == 2 for each in items) and is_sample:
            return  # may be numbers of a ClassLabel, which only the whole table tells
        if self.labels is None:
            raise AmbiguityError(
                f"{place}: the cells are lists of {count} zeros and ones, such as {items[0]}, and "
                "the data do not say which label a position means; name the labels in order with "
                f"task.labels=[{', '.join('ABCDEFGH'[:count])}{', ...' * (count > 8)}]"
            )
        if count != len(self.labels) and not self._has_digits():
            raise DataError(
                f"{place}: the cells are lists of {count} zeros and ones, but task.labels has "
                f"{len(self.labels)} names; name every position"
            )

    def _chosen(self, bits: Mapping[str, int | None]) -> list[str]:
        """Return the names with a one. Raises DataError for null, unless it means no."""
        empty = next((name for name, bit in bits.items() if bit is None), None)
        if empty is not None and not self.blank_is_no:
            raise DataError(f"{empty} is null; task.blank_is_no=true reads it as no")
        return [name for name, bit in bits.items() if bit]

    def _positions(self, items: Sequence[Any]) -> list[str] | None:
        """Return the names at the ones of a list of zeros and ones; None for other lists."""
        names = self.labels
        if names is None or isinstance(names, Mapping) or self.class_names is not None:
            return None
        if len(items) != len(names) or self._has_digits() or not is_indicator(items):
            return None
        return [name for name, item in zip(names, items, strict=True) if parse_bit(item)]

    def _has_digits(self) -> bool:
        """True if 0 and 1 are labels themselves."""
        return not {"0", "1"}.isdisjoint(self.labels or ())


def list_items(value: Any, delimiter: str | None = None) -> list[Any]:
    """Split a cell into its items; [] for an empty one."""
    if isinstance(value, str):
        items = parse_list(value)
        if items is None:
            return value.split(delimiter or find_delimiter([value]))
        return [*map(object_name, items)]
    if isinstance(value, list | tuple | np.ndarray):
        return [*map(object_name, value)]
    return [value]


def split_labels(
    value: Any, delimiter: str | None = None, class_names: Sequence[str] | None = None
) -> list[str]:
    """Return the distinct labels of a cell: a list, or a text with a delimiter."""
    return LabelReader(None, class_names, delimiter).several(value)


# ---- the kind of a column


def choose_kind(
    config: TargetConfig, label: str | list[str], columns: Mapping[str, Sequence[Any]]
) -> Resolved:
    """Choose task.kind and task.delimiter by the first values of the label's columns.

    Raises AmbiguityError if the values fit two kinds.
    """
    if isinstance(label, list):
        return _kind_of_columns(config, [columns[name] for name in label])
    if mappings := label_mappings(columns[label]):
        return _kind_of_columns(config, mapping_columns(mappings))
    values = [value for value in columns[label] if not is_missing(value)]
    place = f"task.label={label}"
    if config.kind is None and are_folders(columns[label], columns.get("file", ())):
        keys, notes = {"kind": "single"}, list[str]()
    elif config.kind is None:
        keys, notes = _kind_of_values(config, label, CountedCells.of(values))
    else:
        keys, notes = {"kind": config.kind}, []
    if keys["kind"] == "several":
        delimiter = keys.get("delimiter", config.delimiter)
        LabelReader(config.labels, None, delimiter).check(values, place, is_sample=True)
    return Resolved(keys, notes)


def confirm_kind(config: TargetConfig, label: str, cells: CountedCells) -> None:
    """Check a kind that the first rows suggested, single, against all cells of train.

    Raises AmbiguityError if they suggest another.
    """
    known = cells.known
    _refuse_unique_numbers(config, label, known, MOST_DISTINCT)
    kind = _kind_of_values(config, label, known).keys["kind"]
    if kind != "single":
        raise AmbiguityError(
            f"task.label={label}: the first rows have one label each, but all {known.rows} rows "
            f"together look like kind={kind}; set task.kind=single or task.kind={kind}"
        )


def are_folders(values: Sequence[Any], files: Sequence[Any]) -> bool:
    """True if each label is the name of a folder on the path of its file: one label each."""
    return len(values) == len(files) > 0 and all(
        isinstance(value, str) and isinstance(file, str) and value in re.split(r"[/\\]", file)
        for value, file in zip(values, files, strict=True)
    )


def _refuse_unique_numbers(
    config: TargetConfig, label: str, cells: CountedCells, most: float
) -> None:
    """Raise AmbiguityError for numbers whose share of distinct ones is above `most`."""
    numbers = {parse_number(value) for value in cells.values}
    are_classes = None in numbers or config.labels is not None or cells.rows < MANY
    if not are_classes and len(numbers) > most * cells.rows:
        raise AmbiguityError(
            f"task.label={label}: {len(numbers)} distinct numbers in {cells.rows} rows; set "
            "task.kind=number for regression, or task.kind=single if each number is a class"
        )


def _kind_of_columns(config: TargetConfig, columns: Sequence[Sequence[Any]]) -> Resolved:
    """Choose the kind of columns of zeros and ones."""
    if config.kind == "number":
        raise ConfigError("task.kind: number requires a single column of numbers in task.label")
    keys: dict[str, Any] = {"kind": config.kind or "several"}
    notes = []
    if config.kind is None:
        ones = [sum(parse_bit(value) or 0 for value in row) for row in zip(*columns, strict=True)]
        note = "kind: several, a label per column"
        if ones and set(ones) == {1}:
            note += " (each row has exactly one: task.kind=single would make them exclusive)"
        notes.append(note)
    cells = [value for column in columns for value in column]
    if config.blank_is_no is None and any(map(is_missing, cells)) and not _has_no(cells):
        keys["blank_is_no"] = True
        notes.append("label: an empty cell means no, since no cell says so (task.blank_is_no)")
    return Resolved(keys, notes)


def confirm_blanks(columns: Sequence[Sequence[Any]]) -> None:
    """Check that empty cells mean no, as the first rows suggested, against all rows of train.

    Raises AmbiguityError if some cells hold an explicit no.
    """
    if _has_no([value for column in columns for value in column]):
        raise AmbiguityError(
            "task.blank_is_no: the labels of the first rows are yes or empty, but later ones hold"
            " an explicit no, too; set task.blank_is_no=true if an empty cell means no, or false if"
            " the label is missing"
        )


def _has_no(cells: Iterable[Any]) -> bool:
    return any(parse_bit(value) == 0 for value in cells)


def _kind_of_values(config: TargetConfig, label: str, cells: CountedCells) -> Resolved:
    """Choose the kind of a column that holds these cells."""
    values = cells.values
    by = f"by the values of column {label!r}"
    if objects := [value for value in values if is_object(value)]:
        raise AmbiguityError(
            f"task.label={label}: the cells are objects, such as {objects[0]!r:.80}; write them as "
            "names, lists of names or columns of zeros and ones (data.map=file.py:function)"
        )
    if any(isinstance(value, list | tuple | np.ndarray) for value in values):
        return Resolved({"kind": "several"}, [f"kind: several, {by}"])
    if are_lists(values):
        note = f"kind: several, by the lists in the text of column {label!r}"
        return Resolved({"kind": "several"}, [note])
    if config.labels is not None and _are_names(values, config.labels):
        return Resolved({"kind": "single"}, [])
    if config.delimiter is not None:
        return Resolved({"kind": "several"}, ["kind: several, since task.delimiter is set"])
    if mark := _indicator_mark(values):
        keys = {"kind": "several", "delimiter": mark}
        return Resolved(keys, [f"kind: several, {by}, zeros and ones with {mark!r} between"])
    _refuse_digits(label, values)
    numbers = cells.having(lambda value: parse_number(value) is not None)
    has_fractions = any(not (parse_number(value) or 0.0).is_integer() for value in numbers.values)
    if has_fractions and numbers.rows >= MOST_NUMBERS * cells.rows:
        return Resolved({"kind": "number"}, [f"kind: number, {by}"])
    _refuse_unique_numbers(config, label, cells, NEARLY_ALL)
    if config.labels is None:
        _refuse_units(label, values)
    return _kind_of_texts(label, cells.at_most_twice)


def _refuse_digits(label: str, values: Sequence[Any]) -> None:
    """Raise AmbiguityError for texts such as 0100, one of which begins with a zero."""
    distinct = {value.strip() for value in values if isinstance(value, str)}
    is_bits = len(distinct) > 1 and all(map(_BITS.fullmatch, distinct))
    if is_bits and len({*map(len, distinct)}) == 1 and any(each[0] == "0" for each in distinct):
        raise AmbiguityError(
            f"task.label={label}: values such as {min(distinct)!r} are one label, or a zero or one"
            " for each of several labels; set task.kind=single, or write them as lists, [0, 1, 0]"
        )


def _refuse_units(label: str, values: Sequence[Any]) -> None:
    """Raise AmbiguityError for numbers with a unit, such as "5 %" and "$3.50", in many sizes."""
    texts = [value.strip() for value in values if isinstance(value, str)]
    distinct = {*texts}
    if len(texts) < len(values) or not all(map(_WITH_UNIT.fullmatch, distinct)):
        return
    with_unit = next((text for text in texts if _UNIT.search(text)), "")
    if with_unit and len(distinct) > MOST_SIZES:
        raise AmbiguityError(
            f"task.label={label}: {len(distinct)} distinct numbers with a unit, such as"
            f" {with_unit!r}; write them without it for regression (data.map=file.py:function), or"
            " set task.kind=single if each is a class"
        )


def _kind_of_texts(label: str, values: Sequence[Any]) -> Resolved:
    """Choose between one label in a text, and several with a delimiter."""
    found = judge_delimiters(values, label)
    if found is None:
        return Resolved({"kind": "single"}, [])
    mark, verdict, example = found
    split = f"task.kind=several task.delimiter={mark!r}"
    if verdict == "doubt":
        raise AmbiguityError(
            f"task.kind: column {label!r} has values such as {example!r}: one label that contains "
            f"{mark!r}, or several labels; set task.kind=single, or {split}"
        )
    if verdict == "several":
        note = (
            f"kind: several, since the parts of values such as {example!r} in column {label!r} "
            f"recur (delimiter {mark!r}; task.kind=single reads each value as one label)"
        )
        return Resolved({"kind": "several", "delimiter": mark}, [note])
    note = f"kind: single, so values such as {example!r} are one label ({split} would split them)"
    return Resolved({"kind": "single"}, [note])


def _are_names(values: Sequence[Any], labels: Sequence[str] | Mapping[str, str]) -> bool:
    """True if all values are among the labels of task.labels."""
    index = LabelIndex([*labels, *(labels.values() if isinstance(labels, Mapping) else ())])
    return all(index.get(str(value).strip()) is not None for value in values)


def _indicator_mark(values: Sequence[Any]) -> str | None:
    """Return the delimiter of texts of three or more zeros and ones, such as "0 1 0"."""
    if not values or not all(isinstance(value, str) for value in values):
        return None
    for mark in (*DELIMITERS, " "):
        if (indicator_length([value.split(mark) for value in values]) or 0) > 2:
            return mark
    return None
