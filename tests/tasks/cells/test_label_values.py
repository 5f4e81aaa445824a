"""Equality of labels across types, and their type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.cells.label_values import LabelIndex, is_missing, label_key, label_type, typed_labels


@pytest.mark.parametrize("names", [["0", "0.0", "False", "false"], ["1", "1.00", "TRUE"]])
def test_label_key_is_equal_for_types_of_one_label(names: list[str]) -> None:
    assert len(set(map(label_key, names))) == 1


@pytest.mark.parametrize(("one", "other"), [("007", "7"), ("0.5", "0"), ("a", "A"), ("1", "-1")])
def test_label_key_differs_for_other_labels(one: str, other: str) -> None:
    assert label_key(one) != label_key(other)


def test_label_index_prefers_the_exact_name() -> None:
    index = LabelIndex(["true", "1", "0.0"])
    assert [index.get(name) for name in ("true", "1", "1.0", "0", "x")] == [0, 1, 0, 2, None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, None, np.int64(0)], "integer"),
        ([1.0, float("nan")], "number"),
        ([True, False], "boolean"),
        (["1", "0"], "text"),
        ([1, True], "text"),
        ([], "text"),
    ],
)
def test_label_type_is_that_of_all_known_values(values: list[Any], kind: str) -> None:
    assert label_type(values) == kind


@pytest.mark.parametrize(
    ("names", "kind", "values"),
    [
        (["0", "1"], "integer", [0, 1]),
        (["0", "1"], "number", [0.0, 1.0]),
        (["false", "true"], "boolean", [False, True]),
        (["neg", "pos"], "integer", ["neg", "pos"]),
        (["0", "1"], "text", ["0", "1"]),
    ],
)
def test_typed_labels_have_the_type_of_the_data(
    names: list[str], kind: str, values: list[Any]
) -> None:
    typed = typed_labels(names, kind)
    assert typed == values
    assert list(map(type, typed)) == list(map(type, values))


@pytest.mark.parametrize("value", [None, "", " \n", float("nan"), np.float64("nan")])
def test_is_missing_holds_for_empty_cells(value: Any) -> None:
    assert is_missing(value)
    assert not any(map(is_missing, ("nan", 0, False, [])))
