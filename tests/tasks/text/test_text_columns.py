"""Detection of the text: one column, a pair, or a title and a body."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.errors import AmbiguityError, DataError
from finetune.task_parts.samples import Row
from tasks import TextClassification
from tasks.text.text_columns import choose_text
from tests.support.contract import resolve

LONG = [f"the long sentence of the row with the number {n}" for n in range(20)]
PROSE = ["a goal", "the market is new", "one more year"]


@pytest.mark.parametrize(
    "names",
    [
        ("premise", "hypothesis"),
        ("sentence1", "sentence2"),
        ("Question 1", "Question 2"),
        ("question", "sentence"),
        ("text_a", "text_b"),
        ("query", "passage"),
        ("#1 String", "#2 String"),
        ("head_A", "head_B"),
    ],
)
def test_choose_text_finds_a_pair_by_its_names(names: tuple[str, str]) -> None:
    columns: dict[str, list[Any]] = {names[1]: PROSE, names[0]: PROSE, "id": [1, 2, 3]}
    assert choose_text(columns, ["label"])[:2] == (list(names), None)


def test_choose_text_takes_question_and_answer_only_beside_a_label() -> None:
    columns = {"question": PROSE, "answer": PROSE}
    assert choose_text({**columns, "label": ["a"]}, [])[0] == ["question", "answer"]
    with pytest.raises(AmbiguityError, match=r"task.text=\[question,answer\] for a pair"):
        choose_text({**columns, "category": ["a"]}, [])


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"Title": PROSE, "Description": PROSE}, ["Title", "Description"]),
        ({"review_title": ["x", "y", "z"], "review_body": PROSE}, ["review_title", "review_body"]),
        ({"headline": [None, *PROSE[:2]], "body": PROSE}, ["headline", "body"]),
        ({"title": ["x", "y", "z"], "lyrics": PROSE}, ["title", "lyrics"]),
        ({"title": ["nurse", "nurse", "nurse"], "text": PROSE}, "text"),
        ({"subject": ["a", "a", "b"], "title": PROSE, "text": PROSE}, ["title", "text"]),
    ],
)
def test_choose_text_joins_a_title_and_a_body(
    columns: dict[str, list[Any]], text: str | list[str]
) -> None:
    assert choose_text(columns, [])[:2] == (text, " " if isinstance(text, list) else None)


def test_choose_text_does_not_take_a_label_with_blanks() -> None:
    columns = {"lyrics": PROSE, "category": ["very good", "very bad", "so so"]}
    assert choose_text(columns, [])[0] == "lyrics"


def titled() -> TextClassification:
    task = TextClassification()
    resolve(task, {"title": ["A b", "B c", None], "body": PROSE, "label": ["x", "y", "x"]})
    return task


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"title": "A", "body": "b"}, "A b"),
        ({"title": None, "body": "b"}, "b"),
        ({"title": "A", "body": " "}, "A"),
    ],
)
def test_joined_columns_leave_out_empty_cells(row: Row, text: str) -> None:
    rows = titled().rows
    assert rows.texts(row) == [text]
    assert not rows.is_pair
    assert not list(rows.validate(row))


def test_joined_columns_report_rows_without_any_text() -> None:
    rows = titled().rows
    assert list(rows.validate({"title": "", "body": None})) == ["title and body are empty"]
    assert list(rows.validate({"title": 7, "body": "b"})) == ["title is 7, not text"]


def test_from_value_takes_a_text_for_joined_columns() -> None:
    assert titled().rows.from_value("a text") == {"title": None, "body": "a text"}
    assert titled().rows.from_value(("A", "b")) == {"title": "A", "body": "b"}


def test_text_of_three_columns_requires_join() -> None:
    with pytest.raises(ValueError, match=r"task\.join"):
        TextClassification(text=["a", "b", "c"])
    assert TextClassification(text=["a", "b", "c"], join=": ").rows.texts(
        {"a": "x", "b": "", "c": "z"}
    ) == ["x: z"]


def test_columns_without_a_text_are_named_with_what_was_looked_for() -> None:
    columns = {"id": [1, 2, 3], "word": ["one", "two", "one"], "gap": [None] * 3}
    with pytest.raises(DataError) as caught:
        choose_text(columns, [])
    message = str(caught.value)
    assert "a pair (premise and hypothesis" in message
    assert "seen: 'id' (such as 1), 'word' (such as 'one'), 'gap' (empty)" in message


def test_choose_text_takes_no_pair_beside_a_third_text() -> None:
    with pytest.raises(AmbiguityError, match=r"candidates: 'history', 'ref_A', 'ref_B'"):
        choose_text({"history": PROSE, "ref_A": PROSE, "ref_B": PROSE, "label": [0, 1, 0]}, [])


def test_choose_text_takes_sentences_in_a_column_called_target_for_a_text() -> None:
    with pytest.raises(AmbiguityError, match=r"candidates: 'source', 'target'"):
        choose_text({"source": LONG, "target": LONG[::-1], "score": [0.5] * len(LONG)}, [])


def test_choose_text_takes_no_date_for_a_text() -> None:
    columns = {"Timestamp": ["1/2/2024 10:00:01"] * 3, "What did you like?": PROSE}
    assert choose_text(columns, [])[0] == "What did you like?"


def test_choose_text_finds_words_without_blanks() -> None:
    columns = {
        "\u5185\u5bb9": ["\u4eca\u5929\u5929\u6c14\u5f88\u597d\u6211\u4eec\u53bb\u516c\u56ed"] * 3,
        "\u7c7b": ["\u597d"] * 3,
    }
    assert choose_text(columns, [])[0] == "\u5185\u5bb9"


@pytest.mark.parametrize(
    "columns",
    [
        {"question": PROSE, "choices": [["a", "b"]] * 3, "answer": [0, 1, 0]},
        {"question": PROSE, "choices": [{"text": ["a"], "label": ["A"]}] * 3, "answerKey": "AAA"},
        {"question": PROSE, "A": PROSE, "B": PROSE, "C": PROSE, "D": PROSE, "answer": "ABA"},
        {"goal": PROSE, "sol1": PROSE, "sol2": PROSE, "label": [0, 1, 0]},
        {"ctx": PROSE, "ending0": PROSE, "ending1": PROSE, "label": [0, 1, 0]},
        {"sentence": PROSE, "option1": ["Ann"] * 3, "option2": ["Bob"] * 3, "answer": "121"},
    ],
)
def test_choose_text_refuses_the_choices_of_a_question(columns: dict[str, Any]) -> None:
    with pytest.raises(AmbiguityError, match="a multiple-choice set"):
        choose_text({name: list(values) for name, values in columns.items()}, [])


def test_choose_text_reads_options_without_an_answer() -> None:
    columns = {"text": PROSE, "options": [["red"]] * 3, "votes": [1, 2, 3]}
    assert choose_text(columns, [])[0] == "text"
    votes = {"text": PROSE, "option1": ["3"] * 3, "option2": ["4"] * 3, "label": ["a"] * 3}
    assert choose_text(votes, [])[0] == "text"
