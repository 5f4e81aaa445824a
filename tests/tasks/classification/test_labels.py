"""Parsing of the cells of a label column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from finetune.errors import DataError
from tasks.cells.delimiters import find_delimiter
from tasks.cells.label_values import LabelIndex, check_label_names
from tasks.classification.label_reader import split_labels
from tasks.classification.labels import (
    class_label_names,
    find_index,
    label_text,
    learn_labels,
    parse_number,
    refuse_many_labels,
    sort_labels,
)

NAN = float("nan")


# ---- one label


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("sport", "sport"),
        ("  sport\n", "sport"),
        ("007", "007"),
        (5, "5"),
        (-1, "-1"),
        (1.0, "1"),
        (True, "true"),
        (np.int64(3), "3"),
        (np.float32(2), "2"),
        (np.bool_(False), "false"),
        (np.str_("a"), "a"),
    ],
)
def test_label_text_is_independent_of_the_type(value: Any, text: str) -> None:
    assert label_text(value) == text


@pytest.mark.parametrize("value", [None, "", "  ", NAN, np.float64("nan")])
def test_label_text_of_an_empty_cell_is_none(value: Any) -> None:
    assert label_text(value) is None


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a"])
def test_label_text_rejects_other_types(value: Any) -> None:
    with pytest.raises(DataError, match="cannot be a label"):
        label_text(value)


@pytest.mark.parametrize("value", [0.5, float("inf")])
def test_label_text_of_a_fraction_suggests_regression(value: float) -> None:
    with pytest.raises(DataError, match="kind=number"):
        label_text(value)


@pytest.mark.parametrize(("value", "text"), [(1, "pos"), (-1, None), ("pos", "pos"), (0.0, "neg")])
def test_label_text_looks_up_integers_in_class_names(value: Any, text: str | None) -> None:
    assert label_text(value, ["neg", "pos"]) == text


def test_label_text_rejects_integers_out_of_range_of_class_names() -> None:
    with pytest.raises(DataError, match="label 2 is out of range"):
        label_text(2, ["neg", "pos"])


# ---- class names


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", "b"], ["a", "b"]),
        (["10", "9", "-1"], ["-1", "9", "10"]),
        ([100, 7, 5.0], ["5", "7", "100"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["01", "1", "10"], ["01", "1", "10"]),
        ([True, False, "true"], ["false", "true"]),
        ([" a", "a ", None, "", NAN, "b"], ["a", "b"]),
        ([1, -1], ["-1", "1"]),
    ],
)
def test_learn_labels_sorts_the_names(values: list[Any], names: list[str]) -> None:
    assert learn_labels(values) == names


def test_sort_labels_removes_duplicates() -> None:
    assert sort_labels(["10", "9", "10"]) == ["9", "10"]


def test_learn_labels_keeps_a_given_order() -> None:
    assert learn_labels(["a", "b"], ["c", "b", "a"]) == ["c", "b", "a"]


def test_learn_labels_reports_unknown_labels_with_rows_and_suggestion() -> None:
    with pytest.raises(DataError, match=r"'Sports' \(2 rows\); did you mean 'sport'\?"):
        learn_labels(["sport", "Sports", "Sports"], ["sport", "news"])


def test_learn_labels_lists_at_most_five_unknown_labels() -> None:
    with pytest.raises(DataError, match=r"'4' \(1 row\) and 15 more"):
        learn_labels(range(20), ["a", "b"])


@pytest.mark.parametrize(("given", "fault"), [(["a", "a"], "2 times"), (["a", " "], "is empty")])
def test_check_label_names_rejects_invalid_names(given: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        check_label_names(given)


def test_learn_labels_keeps_class_names_that_do_not_occur() -> None:
    assert learn_labels([2, 0, -1], None, ["z", "y", "x"]) == ["z", "y", "x"]


def test_learn_labels_prefers_given_names_to_class_names() -> None:
    assert learn_labels([0, 1], ["y", "z"], ["z", "y"]) == ["y", "z"]


def test_learn_labels_rejects_texts_missing_from_class_names() -> None:
    with pytest.raises(DataError, match=r"not in the ClassLabel: '0'"):
        learn_labels(["0"], None, ["z", "y"])


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([None, ""], "no row has a label"),
        (["a"] * 3, "all 3 rows have the label 'a'"),
        (["a", "x" * 201], "201 characters"),
    ],
)
def test_learn_labels_rejects_a_column_that_does_not_look_like_labels(
    values: list[Any], fault: str
) -> None:
    with pytest.raises(DataError, match=rf"task\.label: .*{fault}"):
        learn_labels(values)


def test_learn_labels_of_a_fraction_suggests_regression() -> None:
    with pytest.raises(DataError, match=r"task\.label: .*kind=number"):
        learn_labels([0.5, 1.0])


def test_learn_labels_accepts_more_labels_than_half_of_the_rows() -> None:
    assert len(learn_labels([f"text {i}" for i in range(1500)] + ["a"] * 9)) == 1501


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["0", "0.0", "1"], ["0", "1"]),
        ([False, "true", 1], ["0", "1"]),
        (["True", "true", "False"], ["False", "True"]),
        (["0.0", "1.0"], ["0.0", "1.0"]),
    ],
)
def test_learn_labels_merges_labels_that_differ_in_their_type(
    values: list[Any], names: list[str]
) -> None:
    assert learn_labels(values) == names


def test_learn_labels_accepts_any_number_of_given_names() -> None:
    many = [f"species {i}" for i in range(1500)]
    assert learn_labels(many, many) == many


# ---- the index of a label


def index_of(value: Any, names: list[str], class_names: list[str] | None = None) -> int:
    return find_index(label_text(value, class_names), names, LabelIndex(names))


def test_find_index_looks_up_labels_by_text() -> None:
    names = ["5", "7", "100"]
    assert [index_of(value, names) for value in (7, "7", 7.0, " 7 ", "100")] == [1, 1, 1, 1, 2]


def test_find_index_does_not_read_an_integer_as_an_index() -> None:
    with pytest.raises(DataError, match="unknown label '1'"):
        index_of(1, ["5", "7", "100"])


def test_find_index_of_a_class_number_uses_its_name() -> None:
    assert index_of(0, ["b", "a"], class_names=["a", "b"]) == 1


def test_find_index_suggests_the_nearest_name() -> None:
    with pytest.raises(DataError, match="did you mean 'sport'"):
        index_of("sprot", ["news", "sport"])


def test_find_index_rejects_an_empty_cell() -> None:
    with pytest.raises(DataError, match="missing"):
        index_of(" ", ["a", "b"])


def test_class_label_names_are_found_for_values_and_for_lists() -> None:
    kind = ClassLabel(names=["neg", "pos"])
    features = Features({"one": kind, "several": List(kind), "text": Value("string")})
    rows = Dataset.from_list([{"one": 1, "several": [0, 1], "text": "x"}], features=features)
    names = [class_label_names(rows, column) for column in ("one", "several", "text", "none")]
    assert names == [["neg", "pos"], ["neg", "pos"], None, None]


def test_class_label_names_of_plain_rows_are_none() -> None:
    assert class_label_names([{"label": 1}], "label") is None


# ---- several labels


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("a;b", ["a", "b"]),
        ("a | b|a", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("Smith, J; Doe, K", ["Smith, J", "Doe, K"]),
        ("a;;b;", ["a", "b"]),
        ("a", ["a"]),
        ("", []),
        (None, []),
        (NAN, []),
        (["b", "a", "b", " ", None], ["b", "a"]),
        ((1, 2.0), ["1", "2"]),
        (np.array([3, 1]), ["3", "1"]),
        ([], []),
        (4, ["4"]),
    ],
)
def test_split_labels_returns_each_label_once(value: Any, labels: list[str]) -> None:
    assert split_labels(value) == labels


def test_split_labels_uses_a_given_delimiter() -> None:
    assert split_labels("a, b / c", delimiter="/") == ["a, b", "c"]


def test_split_labels_looks_up_class_numbers() -> None:
    assert split_labels([1, 0], class_names=["neg", "pos"]) == ["pos", "neg"]


@pytest.mark.parametrize(
    ("column", "delimiter"),
    [(["a, b", "c;d"], ";"), (["a", "b|c, d"], "|"), (["a,b"], ","), (["a", None, 3], ";")],
)
def test_find_delimiter_detects_one_for_the_whole_column(column: list[Any], delimiter: str) -> None:
    assert find_delimiter(column) == delimiter


# ---- numbers


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), ("1.5", 1.5), (" -2e3 ", -2000.0), (np.float32(0.5), 0.5), (0, 0.0)],
)
def test_parse_number_reads_numbers_and_texts(value: Any, number: float) -> None:
    assert parse_number(value) == number


@pytest.mark.parametrize(
    "value", [None, "", "nan", NAN, "inf", float("-inf"), "1,5", "1_0", "x", True, [1], 10**400]
)
def test_parse_number_of_anything_else_is_none(value: Any) -> None:
    assert parse_number(value) is None


def test_many_more_labels_than_rows_are_refused() -> None:
    refuse_many_labels(10_000, 20, "task.label=tags")
    refuse_many_labels(100_000, 10_000, "task.label=tags")
    with pytest.raises(DataError, match="task.label=tags: 10001 different labels in 20 rows"):
        refuse_many_labels(10_001, 20, "task.label=tags")
