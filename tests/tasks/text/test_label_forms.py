"""Labels of text classification in the forms that tables have them, from the file to targets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import AmbiguityError, ConfigError, DataError
from tasks import TextClassification
from tasks.classification.label_rows import label_cell
from tests.support.tiny_models import text_rows

TEXTS = [row["text"] for row in text_rows(24)]


def learn(rows: Any, **keys: Any) -> tuple[TextClassification, list[str], Dataset]:
    """Open and learn the labels of rows or of a file; return the task, the notes and train."""
    task = TextClassification(**keys)
    source = str(rows) if isinstance(rows, Path) else None
    splits = open_splits(
        DataConfig(source=source, validation=0), task, None if isinstance(rows, Path) else rows
    )
    return task, [*splits.notes, *task.learn(splits.train)], splits.train


def labeled(*cells: Any, name: str = "label") -> list[dict[str, Any]]:
    """Make 24 rows that repeat the cells."""
    return [{"text": text, name: cells[i % len(cells)]} for i, text in enumerate(TEXTS)]


def first_target(task: TextClassification, train: Dataset) -> Any:
    return task.targets.target(label_cell(task.resolved_, train[0]))


@pytest.mark.parametrize(
    ("cells", "keys"),
    [
        (("['Action', 'War']", "['Drama']", "[]"), {}),
        (("Action|War", "Drama", "War|Drama"), {}),
        (("Action, War", "Drama", "War", "Action"), {}),
        (("[1, 0, 1]", "[0, 1, 0]"), {"labels": ["Action", "Drama", "War"]}),
        (([1, 0, 1], [0, 1, 0]), {"labels": ["Action", "Drama", "War"]}),
    ],
)
def test_several_labels_are_read_in_every_form(cells: Any, keys: dict[str, Any]) -> None:
    task, notes, train = learn(labeled(*cells), **keys)
    assert task.resolved_.kind == "several"
    assert task.targets.names == ["Action", "Drama", "War"]
    assert first_target(task, train) == [1.0, 0.0, 1.0]
    assert task.rows.labels(train[0]) == ("Action", "War")
    assert any(note.endswith("-> label ['Action', 'War']") for note in notes), notes


def toxic(folder: Path) -> Path:
    lines = [f"{i:06x},{text},{i % 2},{i % 3 // 2},0" for i, text in enumerate(TEXTS)]
    path = folder / "toxic.csv"
    path.write_text("\n".join(["id,comment_text,toxic,obscene,threat", *lines, ""]))
    return path


def test_columns_of_zeros_and_ones_are_found(tmp_path: Path) -> None:
    task, notes, train = learn(toxic(tmp_path))
    assert task.resolved_.label == ["toxic", "obscene", "threat"]
    assert task.targets.names == ["toxic", "obscene", "threat"]
    assert first_target(task, train) == [0.0, 0.0, 0.0]
    assert task.rows.labels(train[5]) == ("toxic", "obscene")
    assert "not read: column id" in notes
    assert sum("12 of 24 rows have no label" in note for note in notes) == 0


def test_columns_of_zeros_and_ones_can_be_chosen(tmp_path: Path) -> None:
    task, notes, _ = learn(toxic(tmp_path), label=["toxic", "obscene"])
    assert task.targets.names == ["toxic", "obscene"]
    assert "not read: columns id, threat" in notes


def test_exclusive_columns_are_single_labels_by_key() -> None:
    rows = [{"text": t, "cat": i % 2, "dog": 1 - i % 2} for i, t in enumerate(TEXTS)]
    task, _, train = learn(rows, label=["cat", "dog"], kind="single")
    assert first_target(task, train) == 1
    rows[3] = {"text": "a new one", "cat": 1, "dog": 1}
    with pytest.raises(DataError, match=r"row 4: one column must be 1 .* there are 2: cat, dog"):
        learn(rows, label=["cat", "dog"], kind="single")


def test_columns_report_cells_that_are_neither_zero_nor_one() -> None:
    rows = [{"text": t, "cat": -1 if i == 2 else 0, "dog": 1} for i, t in enumerate(TEXTS)]
    with pytest.raises(DataError, match="row 3: cat is -1, neither 0 nor 1"):
        learn(rows, label=["cat", "dog"])


def test_labels_name_the_values_of_the_data() -> None:
    task, notes, train = learn(labeled(1, 0), labels={0: "negative", 1: "positive"})
    assert task.targets.names == ["negative", "positive"]
    assert first_target(task, train) == 1
    scores = torch.tensor([[0.1, 0.9]])
    assert task.targets.predictions(scores)[0]["label"] == "positive"
    assert any(note.endswith("-> label 'positive'") for note in notes)
    with pytest.raises(DataError, match=r"not in task.labels: '2' \(8 rows\)"):
        learn(labeled(0, 1, 2), labels={0: "negative", 1: "positive"})


@pytest.mark.parametrize("cells", [(0.0, 1.0), ("0.0", "1.0"), (False, True), ("False", "TRUE")])
def test_labels_meet_across_files_and_types(cells: Any) -> None:
    task, _, _ = learn(labeled("0", "1"))
    assert [task.targets.target(cell) for cell in cells] == [0, 1]
    assert not any(list(task.unseen({"label": cell})) for cell in cells)
    other, _, _ = learn(labeled(*cells))
    assert [other.targets.target(cell) for cell in ("0", "1")] == [0, 1]


@pytest.mark.parametrize(
    ("cells", "values"),
    [((3, 7), [3, 7]), ((True, False), [False, True]), (("3", "7"), ["3", "7"])],
)
def test_predictions_have_the_type_of_the_data(cells: Any, values: list[Any]) -> None:
    task, _, _ = learn(labeled(*cells))
    assert task.targets.names == [str(value).lower() for value in values]
    predictions = task.targets.predictions(torch.eye(2))
    assert [prediction["label"] for prediction in predictions] == values
    assert [type(p["label"]) for p in predictions] == [type(value) for value in values]


def test_predictions_of_several_labels_have_the_type_of_the_data() -> None:
    task, _, _ = learn(labeled([3, 7], [7]))
    assert task.targets.predictions(torch.tensor([[0.2, 0.9]]))[0]["label"] == [7]


def test_notes_name_variants_of_a_label() -> None:
    _, notes, _ = learn(labeled("Spam", "spam ", "SPAM\u200b", "nan"))
    assert any("blanks around the label ignored in 6 rows" in note for note in notes)
    assert sum("differ only in case, spacing or invisible" in note for note in notes) == 2
    assert any("'nan' is a label like any other" in note for note in notes)


@pytest.mark.parametrize("mark", ["/", "#", " & ", "+", "\n", "\t"])
def test_marks_that_rarely_delimit_are_in_doubt_if_parts_recur(mark: str) -> None:
    with pytest.raises(AmbiguityError, match=r"several labels; set task\.kind=single, or"):
        learn(labeled("news", f"news{mark}sport", "sport"))
    task, _, _ = learn(labeled(f"sci{mark}tech", "sport"))
    assert task.targets.names == sorted([f"sci{mark}tech", "sport"])


def test_a_flag_beside_columns_of_labels_is_not_one_of_them() -> None:
    rows = [{**row, "unclear": bool(i % 2)} for i, row in enumerate(columns((1, 0), (0, 1)))]
    with pytest.raises(AmbiguityError, match=r"'unclear'.* or task\.label=\[cat,dog\] for several"):
        learn(rows)


@pytest.mark.parametrize("form", ["{}%", "${}.50", "{} €"])
def test_numbers_with_a_unit_are_refused(form: str) -> None:
    with pytest.raises(AmbiguityError, match="24 distinct numbers with a unit, such as"):
        learn(labeled(*map(form.format, range(24))))
    task, _, _ = learn(labeled(form.format(0), form.format(50)))
    assert len(task.targets.names) == 2


def test_missing_labels_of_pandas_are_faults() -> None:
    with pytest.raises(DataError, match="row 2: label is missing"):
        learn(labeled(1.0, float("nan"), 0.0))


def test_more_labels_than_half_of_the_rows_are_noted() -> None:
    task, notes, _ = learn(labeled(*[f"species {i}" for i in range(24)]))
    assert len(task.targets.names) == 24
    assert any("24 distinct labels in 24 rows, 1.0 rows per label" in note for note in notes)


def test_empty_cells_of_several_labels_are_no_labels() -> None:
    task, notes, train = learn(labeled("a|b", "", "b|c"))
    assert any("8 of 24 rows have no label" in note for note in notes)
    assert task.with_target({}, train[1]) == {"target": [0.0, 0.0, 0.0]}


def test_cells_that_are_objects_are_refused() -> None:
    with pytest.raises(DataError, match=r"the cells are objects, such as .*data\.map"):
        learn(labeled({"id": 3, "name": "Drama"}, {"id": 7, "name": "War"}))
    with pytest.raises(DataError, match=r"the cells are objects, such as .*data\.map"):
        learn(labeled([{"start": 0, "label": "PER"}], [{"start": 4, "label": "LOC"}]))


@pytest.mark.parametrize("as_text", [False, True])
def test_names_of_objects_in_lists_are_labels(as_text: bool) -> None:
    cells = [[{"id": 3, "name": "Drama"}, {"id": 7, "name": "War"}], [{"id": 3, "name": "Drama"}]]
    task, _, train = learn(labeled(*map(json.dumps, cells) if as_text else cells))
    assert task.targets.names == ["Drama", "War"]
    assert first_target(task, train) == [1.0, 1.0]


@pytest.mark.parametrize(
    "cells", [('{"choices": ["a", "b"]}', '{"choices": ["b"]}'), ("{a,b}", "{b}")]
)
def test_lists_of_other_tools_as_text_are_several_labels(cells: tuple[str, str]) -> None:
    task, _, train = learn(labeled(*cells))
    assert task.targets.names == ["a", "b"]
    assert first_target(task, train) == [1.0, 1.0]


@pytest.mark.parametrize("as_text", [False, True])
def test_objects_with_a_bit_per_label_are_several_labels(as_text: bool) -> None:
    cells = [{"toxic": 1, "threat": 0, "obscene": 1}, {"toxic": 0, "threat": 0, "obscene": 0}]
    task, notes, train = learn(labeled(*map(json.dumps, cells) if as_text else cells))
    assert task.targets.names == ["toxic", "threat", "obscene"]
    assert first_target(task, train) == [1.0, 0.0, 1.0]
    assert any(note.endswith("-> label ['toxic', 'obscene']") for note in notes)


def columns(*cells: tuple[Any, Any]) -> list[dict[str, Any]]:
    """Make 24 rows that repeat the cells of two columns."""
    pairs = [cells[i % len(cells)] for i in range(24)]
    return [
        {"text": text, "cat": cat, "dog": dog}
        for text, (cat, dog) in zip(TEXTS, pairs, strict=True)
    ]


@pytest.mark.parametrize(
    "cells",
    [
        (("yes", "no"), ("no", "yes"), ("no", "no")),
        (("x", ""), ("", "x"), ("", "")),
        (("Y", "N"), ("N", "Y"), ("N", "N")),
        ((1, None), (None, 1), (None, None)),
    ],
)
def test_columns_say_yes_and_no_in_several_notations(cells: Any) -> None:
    task, notes, train = learn(columns(*cells))
    assert task.resolved_.label == ["cat", "dog"]
    assert [task.targets.target(label_cell(task.resolved_, row)) for row in list(train)[:3]] == [
        [1.0, 0.0],
        [0.0, 1.0],
        [0.0, 0.0],
    ]
    is_said = any("an empty cell means no" in note for note in notes)
    assert is_said == (not cells[0][1])


def test_empty_cells_beside_a_no_are_faults_unless_a_key_reads_them() -> None:
    rows = columns(("yes", "no"), ("no", ""), ("", "yes"))
    with pytest.raises(DataError, match=r"row 2: dog is empty; task\.blank_is_no=true"):
        learn(rows)
    task, _, train = learn(rows, blank_is_no=True)
    assert task.rows.labels(train[2]) == ("dog",)


def test_a_no_after_the_first_rows_makes_empty_cells_doubtful() -> None:
    cells = (("x", ""), ("", "x"))
    rows = [{**row, "text": f"{i} {row['text']}"} for i in range(5) for row in columns(*cells)]
    rows[-1] |= {"cat": "x", "dog": "no"}
    with pytest.raises(DataError, match=r"task\.blank_is_no: .* an explicit no"):
        learn(rows)


def test_keys_of_other_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.threshold: requires task\.kind=several"):
        learn(labeled("a", "b"), threshold=0.7)
    with pytest.raises(ConfigError, match=r"task\.focal_gamma: requires task\.kind=single"):
        learn(labeled("a|b", "b|c", "a"), focal_gamma=2.0)
    with pytest.raises(ConfigError, match=r"task\.threshold: requires task\.kind=several"):
        learn(labeled(0.5, 1.5, 2.25), threshold=0.7)


def test_digits_that_may_be_several_labels_are_refused() -> None:
    with pytest.raises(AmbiguityError, match=r"values such as '010' are one label, or a zero"):
        learn(labeled("010", "110"))
    assert learn(labeled("100", "110"))[0].targets.names == ["100", "110"]


def test_lists_of_objects_as_text_are_refused() -> None:
    with pytest.raises(DataError, match=r"the cells are objects, such as .*data\.map"):
        learn(labeled('[{"start": 0, "label": "PER"}]', '[{"start": 4, "label": "LOC"}]'))
