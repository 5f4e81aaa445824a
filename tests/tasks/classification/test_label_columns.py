"""Detection of the label column."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.errors import AmbiguityError, DataError
from tasks.classification.label_columns import (
    could_be_label,
    find_label,
    is_free_text,
    refuse_rejected_rows,
)

TEXTS = [f"the market was new in year {i} and one more bank" for i in range(30)]
IDS = [f"x{i}" for i in range(30)]


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"label": [0, 1], "label_text": ["neg", "pos"], "topic": ["a", "b"]}, "label"),
        ({"stars": [1, 5], "date": ["2020-01-01"] * 2, "user_id": ["u0", "u0"]}, "stars"),
        ({"id": [0, 1, 2], "qid1": [4, 9, 2], "is_duplicate": [0, 1, 1]}, "is_duplicate"),
        ({"Class Index": [1, 2]}, "Class Index"),
        ({"target": TEXTS, "genre": ["a", "b"]}, "genre"),
        ({"key": IDS, "house": ["a", "b"] * 15}, "house"),
        ({"id": ["7", "9"], "toxic": [0, 1], "insult": ["1", "0"]}, ["toxic", "insult"]),
        ({"toxic": [0, 1]}, "toxic"),
        ({"answer": [True, False]}, "answer"),
    ],
)
def test_find_label_by_name_and_values(
    columns: dict[str, list[Any]], label: str | list[str]
) -> None:
    found, note = find_label(columns)
    assert found == label
    assert "label: column" in note


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        ({"category": ["a"], "sentiment": ["b"]}, ["'category', 'sentiment'", "task.label=categ"]),
        ({"is_spam": [0, 1], "stars": [1, 2], "rating": [3, 4]}, ["'stars', 'rating'"]),
        ({"label": ["a"], "labels": ["b"]}, ["'label', 'labels'"]),
        ({"one": ["a"], "two": ["b"]}, ["'one', 'two'"]),
        (
            {"source": ["a", "b"], "toxic": [0, 1], "insult": [1, 0]},
            ["task.label=source", "task.label=[toxic,insult] for several labels"],
        ),
    ],
)
def test_find_label_refuses_a_choice_with_all_candidates(
    columns: dict[str, list[str]], parts: list[str]
) -> None:
    with pytest.raises(AmbiguityError) as error:
        find_label(columns)
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    ("columns", "seen"),
    [
        ({"meta": [{"text": ["a"]}, {"text": ["b"]}]}, "'meta'"),
        ({"summary": TEXTS}, "'summary' (a text to generate, by its name)"),
        ({"target": TEXTS}, "'target' (free text)"),
        (
            {"user_id": ["u0", "u1"], "day": ["2020-01-02", "2021-03-04"]},
            "(identifiers, dates or objects)",
        ),
        ({"row": [1, 2, 3]}, "'row' (numbers the rows)"),
        ({}, "all columns are read as input"),
    ],
)
def test_find_label_says_what_it_saw(columns: dict[str, list[Any]], seen: str) -> None:
    with pytest.raises(DataError, match=r"looked for a column named label, .*zeros and ones") as e:
        find_label(columns)
    assert seen in str(e.value)
    assert not isinstance(e.value, AmbiguityError)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"spans": [[{"start": 1}], [{"start": 2}]]}, "'spans' holds objects with 'start'"),
        ({"price": [f"{n}.25" for n in range(1, 60, 2)]}, "'price' holds numbers that hardly"),
        ({"views": [f"{n},017" for n in range(1, 60, 2)]}, "'views' holds numbers that hardly"),
    ],
)
def test_find_label_refuses_what_may_hold_a_label(
    columns: dict[str, list[Any]], message: str
) -> None:
    with pytest.raises(AmbiguityError, match=message):
        find_label(columns)


def test_could_be_label_excludes_texts_that_do_not_recur() -> None:
    assert could_be_label("genre", ["rock", "pop"] * 10)
    assert not could_be_label("code", IDS)
    assert could_be_label("code", IDS[:5])
    assert not could_be_label("tags", [[], []])
    assert not could_be_label("tests", [[text] for text in TEXTS])
    assert not could_be_label("input", ["", *TEXTS])


def test_is_free_text_needs_sentences_that_differ() -> None:
    assert is_free_text(TEXTS)
    assert not is_free_text([TEXTS[0]] * 9)
    assert not is_free_text(["very good", "bad"])


def test_rows_that_annotators_rejected_are_refused() -> None:
    with pytest.raises(AmbiguityError, match=r"'answer' marks 2 of the first 3 rows as rejected"):
        refuse_rejected_rows({"text": TEXTS[:3], "answer": ["accept", "reject", "ignore"]})
    for values in (["accept"] * 3, ["reject"] * 3, ["accept", "reject", "maybe"], [1, 2, None]):
        refuse_rejected_rows({"answer": values})
