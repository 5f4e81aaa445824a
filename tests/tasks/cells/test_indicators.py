"""Labels as zeros and ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.cells.indicators import (
    indicator_columns,
    indicator_length,
    indicator_mapping,
    parse_bit,
)


@pytest.mark.parametrize(
    ("value", "bit"),
    [
        *[(value, 1) for value in (1, 1.0, True, "1", " 1.0 ", "True", np.int64(1), "Yes", "x")],
        *[(value, 0) for value in (0, 0.0, False, "0", "FALSE", "N")],
        *[(value, None) for value in (2, -1, 0.5, None, "", "maybe", float("nan"), [1])],
    ],
)
def test_parse_bit_reads_zeros_and_ones_of_every_type(value: Any, bit: int | None) -> None:
    assert parse_bit(value) == bit


@pytest.mark.parametrize(
    ("lists", "length"),
    [
        ([[1, 0, 0], ["0", "1", "1"]], 3),
        ([[1, 0], [0, 1]], 2),
        ([[1, 0, 0], [0, 1]], None),
        ([[1], [0]], None),
        ([[1, 2, 0]], None),
        ([["true", "false"]], None),
        ([], None),
    ],
)
def test_indicator_length_needs_one_length(lists: list[list[Any]], length: int | None) -> None:
    assert indicator_length(lists) == length


def test_indicator_columns_ignore_gaps_and_exclude_other_values() -> None:
    columns = {"a": [0, 1, None], "b": ["0", "", "1"], "c": [0, 2, 1], "d": [None], "e": [True]}
    assert indicator_columns(columns) == ["a", "b", "e"]


def test_indicator_columns_are_of_one_notation() -> None:
    columns = {"a": ["yes", "no", ""], "b": ["x", ""], "c": ["x", "y"], "d": ["yes", "false"]}
    assert indicator_columns(columns) == ["a", "b"]


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        ({"toxic": 1, "obscene": 0.0}, {"toxic": 1, "obscene": 0}),
        ('{"toxic": true, "obscene": null}', {"toxic": 1, "obscene": None}),
        ({"name": "toxic"}, None),
        ({"toxic": None}, None),
        ("{toxic}", None),
    ],
)
def test_indicator_mapping_has_a_bit_per_label(value: Any, bits: dict[str, Any] | None) -> None:
    assert indicator_mapping(value) == bits
