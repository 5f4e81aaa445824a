"""Reading of label cells: their kind, and the names of labels."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.errors import AmbiguityError, DataError
from tasks.cells.counted_cells import CountedCells
from tasks.classification.label_config import TargetConfig
from tasks.classification.label_reader import LabelReader, choose_kind, confirm_kind


def config(**keys: Any) -> TargetConfig:
    return TargetConfig(name="x", **keys)


def kind_of(values: list[Any], **keys: Any) -> tuple[str, str | None]:
    resolved = choose_kind(config(**keys), "tags", {"tags": values})
    return resolved.keys["kind"], resolved.keys.get("delimiter")


@pytest.mark.parametrize("value", [0, 0.0, "0", "0.0", False, "False", " 0 "])
def test_one_names_a_value_of_every_type(value: Any) -> None:
    labels = config(labels={0: "negative", True: "positive"}).labels
    assert LabelReader(labels).one(value) == "negative"
    assert LabelReader(labels).one(True) == "positive"
    assert LabelReader(labels).one("positive") == "positive"


@pytest.mark.parametrize("cell", [[1, 0, 1], "[1, 0, 1]", "[1. 0. 1.]", "1,0,1", [True, False, 1]])
def test_several_reads_zeros_and_ones_with_the_names_of_task_labels(cell: Any) -> None:
    assert LabelReader(["a", "b", "c"], delimiter=",").several(cell) == ["a", "c"]


def test_several_reads_numbers_of_labels_as_labels() -> None:
    assert LabelReader(["0", "1", "2"]).several([0, 1, 1]) == ["0", "1"]
    assert LabelReader({"0": "x", "1": "y"}).several([0, 1]) == ["x", "y"]
    assert LabelReader(class_names=["x", "y"]).several([1]) == ["y"]


@pytest.mark.parametrize("cell", ["['a', 'b']", '["a","b"]', "a|b", ["a", "b"]])
def test_several_reads_lists_and_delimited_texts(cell: Any) -> None:
    assert LabelReader(delimiter="|").several(cell) == ["a", "b"]


@pytest.mark.parametrize(
    "values", [[[1, 0, 0], [0, 1, 1]], ["[1, 0, 0]", "[0, 1, 1]"], ["1 0 0", "0 1 1"]]
)
def test_choose_kind_asks_for_the_names_of_zeros_and_ones(values: list[Any]) -> None:
    with pytest.raises(AmbiguityError, match=r"lists of 3 zeros and ones.*task.labels=\[A, B, C\]"):
        kind_of(values)
    with pytest.raises(DataError, match="lists of 3 zeros and ones, but task.labels has 2 names"):
        kind_of(values, labels=["x", "y"])
    assert kind_of(values, labels=["x", "y", "z"])[0] == "several"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([["x"], ["y"]], ("several", None)),
        (["['x', 'y']", "[]"], ("several", None)),
        (["x|y", "x", "y|z"], ("several", "|")),
        (["x, y", "x", "y"], ("several", ",")),
        (["x y", "y x", "x"], ("several", " ")),
        (["x", "y"], ("single", None)),
        ([0.5, 2, None], ("number", None)),
        (["0.5", "2", ""], ("number", None)),
        (["0.5", "2", "3", "1.5", "n/a"], ("number", None)),
        ([3, 2], ("single", None)),
        ([0.0, 1.0, float("nan")], ("single", None)),
    ],
)
def test_choose_kind_by_the_values(values: list[Any], kind: tuple[str, str | None]) -> None:
    assert kind_of(values) == kind


def test_choose_kind_refuses_a_mark_in_doubt_with_both_readings() -> None:
    columns = {"city": ["Washington, D.C.", "Washington"]}
    with pytest.raises(AmbiguityError, match=r"task.kind=single, or task.kind=several task.delim"):
        choose_kind(config(), "city", columns)
    for kind in ("single", "several"):
        assert choose_kind(config(kind=kind), "city", columns).keys["kind"] == kind
    labels = config(labels=columns["city"])
    assert choose_kind(labels, "city", columns).keys["kind"] == "single"


def test_choose_kind_of_folder_names_is_single() -> None:
    labels = ["Portland, Oregon", "Salem, Oregon", "Portland, Maine"]
    files = [f"photos/{label}/{number}.jpg" for number, label in enumerate(labels)]
    columns: dict[str, list[Any]] = {"label": labels, "file": files}
    assert choose_kind(config(), "label", columns) == ({"kind": "single"}, [])
    with pytest.raises(AmbiguityError):
        choose_kind(config(), "label", columns | {"file": [None] * 3})


def test_choose_kind_of_columns_mentions_exclusive_labels() -> None:
    columns = {"cat": [1, 0], "dog": [0, 1]}
    resolved = choose_kind(config(), ["cat", "dog"], columns)
    assert resolved.keys == {"kind": "several"}
    assert "task.kind=single would make them exclusive" in resolved.notes[0]
    assert choose_kind(config(kind="single"), ["cat", "dog"], columns).keys == {"kind": "single"}


def test_confirm_kind_refuses_numbers_that_hardly_recur() -> None:
    with pytest.raises(AmbiguityError, match=r"task.kind=number .*task.kind=single"):
        confirm_kind(config(), "price", CountedCells.of(list(range(20))))
    confirm_kind(config(), "stars", CountedCells.of([1, 2, 3, 4, 5] * 8))
    confirm_kind(config(), "few", CountedCells.of(list(range(19))))


def test_choose_kind_refuses_numbers_that_are_all_different() -> None:
    with pytest.raises(AmbiguityError, match=r"20 distinct numbers in 20 rows; set task.kind=num"):
        kind_of(list(range(100, 300, 10)))
    assert kind_of([3 * n for n in range(15)] * 2) == ("single", None)  # few rows of each class
    assert kind_of(list(range(20)), kind="single") == ("single", None)


def test_confirm_kind_refuses_labels_that_only_later_rows_delimit() -> None:
    with pytest.raises(AmbiguityError, match=r"first rows .* all 103 rows .*kind=several"):
        confirm_kind(
            config(), "genre", CountedCells.of(["a"] * 50 + ["b"] * 50 + ["a|b", "b|c", "c"])
        )
