"""Rows of text classification: detection of columns, and validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from finetune.errors import DataError
from finetune.task_parts.samples import Row
from tasks import TextClassification
from tests.support.contract import resolve

PROSE = ["a goal", "the market is new"]


@pytest.mark.parametrize(
    ("columns", "text", "label", "kind"),
    [
        ({"text": PROSE, "label": ["x", "y"]}, "text", "label", "single"),
        ({"Body": PROSE, "source": ["b", "c"], "Topic": ["x", "y"]}, "Body", "Topic", "single"),
        ({"lyrics": PROSE, "label": [0, 7]}, "lyrics", "label", "single"),
        ({"text": PROSE, "genre": ["x", "y"]}, "text", "genre", "single"),
        ({"text": PROSE, "label": [["x"], ["y"]]}, "text", "label", "several"),
        ({"text": PROSE, "label": [0.5, 2]}, "text", "label", "number"),
        ({"text": PROSE, "label": [3, 2]}, "text", "label", "single"),
    ],
)
def test_resolve_detects_columns_and_kind(
    columns: Mapping[str, list[Any]], text: str, label: str, kind: str
) -> None:
    task = TextClassification()
    notes = resolve(task, columns)
    assert (task.resolved_.text, task.resolved_.label, task.resolved_.kind) == (text, label, kind)
    assert any(repr(text) in note for note in notes), notes
    assert any(repr(label) in note for note in notes), notes
    assert kind == "single" or any(note.startswith(f"kind: {kind}") for note in notes)


def test_resolve_uses_configured_columns_without_notes() -> None:
    task = TextClassification(text="label", label="text", kind="single")
    assert resolve(task, {"text": ["x"], "label": PROSE}) == []
    assert (task.resolved_.text, task.resolved_.label) == ("label", "text")


@pytest.mark.parametrize(
    ("keys", "columns", "parts"),
    [
        ({}, ["head", "tail", "label"], ["task.text", "'head', 'tail'", "task.text=COLUMN"]),
        ({}, ["text", "one", "two"], ["task.label", "'one', 'two'", "task.label=COLUMN"]),
        ({"text": "bdy"}, ["body", "label"], ["task.text", "'bdy'", "body"]),
        ({"label": "lable"}, ["text", "label"], ["task.label", "'lable'", "label"]),
        ({"label": "topic"}, ["text"], ["task.label", "'topic'", "read as input"]),
        ({"text": ["first", "secnd"]}, ["first", "second", "label"], ["'secnd'", "second"]),
        ({}, ["label"], ["task.label", "candidates: none"]),
    ],
)
def test_resolve_names_candidates_for_missing_or_ambiguous_columns(
    keys: dict[str, Any], columns: list[str], parts: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        resolve(TextClassification(**keys), dict.fromkeys(columns, PROSE))
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"text": None, "label": "x"}, "text is None, not text"),
        ({"text": 7, "label": "x"}, "text is 7, not text"),
        ({"text": " \n", "label": "x"}, "text is empty"),
        ({"text": "a", "label": None}, "label is missing"),
        ({"text": "a", "label": " "}, "label is missing"),
    ],
)
def test_validate_reports_unusable_rows(row: Row, fault: str) -> None:
    task = TextClassification(text="text", label="label", kind="single")
    assert list(task.rows.validate(row)) == [fault]


def test_validate_accepts_rows_without_the_label_column() -> None:
    task = TextClassification(text="text", label="label", kind="single")
    assert not list(task.rows.validate({"text": "a"}))


def test_validate_reports_labels_that_are_not_numbers() -> None:
    task = TextClassification(text="text", label="label", kind="number")
    assert list(task.rows.validate({"text": "a", "label": "high"})) == [
        "label is 'high', not a number"
    ]
