"""Data sets of other tasks, which text generation refuses by name."""

from __future__ import annotations

import pytest

from finetune.errors import DataError
from finetune.task_parts.samples import Row
from tasks import TextGeneration
from tests.support.contract import resolve

ASKED = [{"role": "user", "content": "a goal?"}]
ANSWERED = [{"role": "assistant", "content": "yes"}]
SEEN = [{"role": "user", "content": "<image>what is it?"}, *ANSWERED]
PARTS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, *ANSWERED]

SETS = [
    (
        {"prompt": "a b", "chosen": "c", "rejected": "d"},
        "a preference set",
        {"prompt": "prompt", "completion": "chosen"},
    ),
    (
        {"prompt": ASKED, "chosen": ANSWERED, "rejected": ANSWERED},
        "a preference set",
        {"prompt": "prompt", "completion": "chosen"},
    ),
    (
        {"chosen": ASKED + ANSWERED, "rejected": ASKED + ANSWERED},
        "a preference set",
        {"messages": "chosen"},
    ),
    ({"chosen": "Human: a b", "rejected": "Human: a c"}, "a preference set", {"text": "chosen"}),
    (
        {"conversations": ASKED, "chosen": "c d", "rejected": "d"},
        "a preference set",
        {"prompt": "conversations", "completion": "chosen"},
    ),
    (
        {"conversations": ASKED, "chosen": ANSWERED[0], "rejected": ANSWERED[0]},
        "a preference set",
        {"prompt": "conversations", "completion": "chosen"},
    ),
    (
        {"chosen_messages": ASKED + ANSWERED, "rejected_messages": ASKED + ANSWERED},
        "a preference set",
        {"messages": "chosen_messages"},
    ),
    (
        {"question": "a b", "response-win": "c", "response-lose": "d"},
        "a preference set",
        {"prompt": "question", "completion": "response-win"},
    ),
    (
        {"messages": ASKED + ANSWERED, "rejected_response": "no"},
        "a preference set",
        {"messages": "messages"},
    ),
    (
        {"prompt": "a b", "completion": "c", "label": False},
        "answers with verdicts",
        {"prompt": "prompt", "completion": "completion"},
    ),
    (
        {"prompt": "a b", "completion": "c", "label": "True"},
        "answers with verdicts",
        {"prompt": "prompt", "completion": "completion"},
    ),
    (
        {"messages": ASKED + ANSWERED, "kto_tag": True},
        "answers with verdicts",
        {"messages": "messages"},
    ),
    (
        {"translation": {"en": "one", "de": "eins"}},
        "from de to en",
        {"prompt": "{translation.en}", "completion": "{translation.de}"},
    ),
    (
        {"image": {"bytes": b"x", "path": None}, "text": "a cat"},
        "an image-and-text set",
        {"text": "text"},
    ),
    (
        {"instruction": "Translate.", "instances": [{"input": "one", "output": "eins"}]},
        "lists of examples of the instruction",
        {
            "prompt": "{instruction}\n\n{instances[0][input]}",
            "completion": "{instances[0][output]}",
        },
    ),
    (
        {"anchor": "a b", "positive": "a c"},
        "text pairs for embeddings",
        {"prompt": "anchor", "completion": "positive"},
    ),
]


@pytest.mark.parametrize(("row", "name", "keys"), SETS)
def test_sets_of_other_tasks_are_refused_unless_keys_choose(
    row: Row, name: str, keys: dict[str, str]
) -> None:
    columns = {column: [value, value] for column, value in row.items()}
    with pytest.raises(DataError) as error:
        resolve(TextGeneration(), columns)
    assert name in str(error.value)
    for key, value in keys.items():
        assert f"task.{key}" in str(error.value)
        assert value.replace("\n", "\\n") in str(error.value)
    task = TextGeneration(**keys)
    resolve(task, columns)
    assert not list(task.rows.validate(row))


def test_a_table_with_a_turn_a_row_is_refused_unless_its_text_is_configured() -> None:
    columns = {"parent_id": [None, "1"], "role": ["prompter", "assistant"], "text": ["a", "b"]}
    with pytest.raises(DataError, match=r"'role' holds the role of a single turn \(assistant, pro"):
        resolve(TextGeneration(), columns)
    resolve(TextGeneration(text="text"), columns)
    resolve(TextGeneration(), {**columns, "role": ["nurse", "assistant"]})


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"messages": SEEN, "images": ["cat.jpg"]}, "<image>"),
        ({"messages": PARTS}, "image_url"),
    ],
)
def test_dialogues_about_pictures_are_refused_even_if_configured(row: Row, found: str) -> None:
    columns = {column: [value, value] for column, value in row.items()}
    for keys in ({}, {"messages": "messages"}):
        with pytest.raises(DataError, match="with data.map=file.py:function") as error:
            resolve(TextGeneration(**keys), columns)
    assert found in str(error.value)


CHOICES = ["Rome", "Oslo"]
LABELED = {"text": CHOICES, "label": ["A", "B"]}


@pytest.mark.parametrize(
    ("row", "letter", "text"),
    [
        (
            {"question": "where?", "choices": CHOICES, "answer": 1},
            "{answer:letter}",
            "{choices@answer}",
        ),
        (
            {"question": "where?", "options": CHOICES, "answer": "B"},
            "{answer:letter}",
            "{options@answer}",
        ),
        (
            {"question": "where?", "choices": LABELED, "answerKey": "B"},
            "{answerKey:letter}",
            "{choices@answerKey}",
        ),
        (
            {
                "question": "where?",
                "A": "Rome",
                "B": "Oslo",
                "C": "Bern",
                "D": "Bonn",
                "answer": "b",
            },
            "{answer:letter}",
            "{B}",
        ),
    ],
)
def test_multiple_choice_sets_are_refused_with_both_readings(
    row: Row, letter: str, text: str
) -> None:
    columns = {column: [value, value] for column, value in row.items()}
    with pytest.raises(DataError, match="multiple-choice set .*letter or as a text") as error:
        resolve(TextGeneration(), columns)
    assert letter in str(error.value)
    assert text in str(error.value)
    prompt = str(error.value).partition('task.prompt="')[2].partition('"')[0].replace("\\n", "\n")
    for completion, answer in ((letter, "B"), (text, "Oslo")):
        task = TextGeneration(prompt=prompt, completion=completion)
        resolve(task, columns)
        assert not list(task.rows.validate(row))
        assert task.rows.identity(row).startswith("where?\nA. Rome\nB. Oslo")
        assert task.rows.truth(row) == answer
        assert {*task.rows.inputs, *task.rows.targets} <= row.keys()


@pytest.mark.parametrize(
    ("completion", "fault"),
    [
        ("{choices@answer}", "answer is 7, none of the choices of choices"),
        ("{choices:letter}", "choices:letter is None, not text"),
    ],
)
def test_answers_outside_the_choices_are_faults(completion: str, fault: str) -> None:
    task = TextGeneration(prompt="{question}", completion=completion)
    row = {"question": "where?", "choices": CHOICES, "answer": 7}
    assert list(task.rows.validate(row)) == [fault]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a b", "label": 1},
        {"prompt": "a b", "completion": "c d", "label": 3},
        {"prompt": "a b", "completion": "c d", "image": "a red cat", "audio": None},
    ],
)
def test_similar_columns_are_no_reason_to_refuse(row: Row) -> None:
    resolve(TextGeneration(), {column: [value, value] for column, value in row.items()})


def test_preferred_answers_that_no_key_reads_are_left_to_a_function() -> None:
    columns = {"question": ["a b"], "chosen": [{"answer": "c"}], "rejected": [{"answer": "d"}]}
    with pytest.raises(DataError, match="a preference set.*data.map=file.py:function") as error:
        resolve(TextGeneration(), columns)
    assert "task." not in str(error.value).partition("DPO")[2]


def test_ratings_of_two_answers_are_no_preference_set() -> None:
    columns = {"text": ["It was a dark night."], "chosen_score": [1.0], "rejected_score": [0.5]}
    assert TextGeneration().rows.resolve(columns).keys["text"] == "{text}"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "an image-and-text set"),
        ({"type": "input_audio", "input_audio": "x"}, "an image-and-text set"),
        ({"type": "graph", "graph": "x"}, "parts of type graph, which are not read"),
    ],
)
def test_parts_that_are_not_read_are_called_what_they_are(part: Row, name: str) -> None:
    columns = {"messages": [[{"role": "user", "content": [part]}, *ANSWERED]]}
    for task in (TextGeneration(), TextGeneration(messages="messages")):
        with pytest.raises(DataError, match=name) as error:
            resolve(task, columns)
        assert ("image-and-text" in str(error.value)) == ("image-and-text" in name)
