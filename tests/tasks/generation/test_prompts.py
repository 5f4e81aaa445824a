"""What a row asks and answers: which columns, by which template, cut how, packed how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import DataError
from tasks import TextGeneration
from tasks.generation.dialogues import check_answered, messages_of
from tasks.generation.packing import best_fit, computed, pack
from tasks.generation.templates import columns_of, fill_template, find_template, template_faults
from tasks.generation.text_metrics import score_texts
from tasks.generation.tokens import Tokens, cut
from tasks.generation.tools import tools_of
from tasks.sample_rows import WORDS, bbc_headline
from tests.support.contract import resolve

TEXTS = ["a goal", "the market is new"]


# ---- columns


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"instruction": TEXTS, "output": TEXTS}, ("{instruction}\n", "{output}")),
        (
            {"Instruction": TEXTS, "input": ["", "x"], "output": TEXTS},
            ("{Instruction}\n\n{input}\n", "{output}"),
        ),
        ({"document": TEXTS, "summary": TEXTS, "id": [1, 2]}, ("{document}\n", "{summary}")),
    ],
)
def test_prompt_and_completion_are_found_by_their_names(
    columns: dict[str, Any], found: tuple[str, str]
) -> None:
    task = TextGeneration()
    notes = resolve(task, columns)
    assert (task.resolved_.prompt, task.resolved_.completion) == found
    assert len(notes) == 1


WEATHER = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
CALL = {"type": "function", "function": WEATHER}


def test_tools_are_found_beside_a_dialogue() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for keys in ({}, {"messages": "messages"}):
        task = TextGeneration(**keys)
        notes = resolve(task, {"messages": [turns], "functions": [json.dumps([WEATHER])]})
        assert notes[-1] == "tools: column 'functions', by its name"
        assert task.rows.inputs == ["messages", "functions"]
        task = TextGeneration(**keys)
        notes = resolve(task, {"messages": [turns], "tools": ["hammer"]})
        assert notes[-1] == "tools: column 'tools' holds none, so it is not read"
        assert task.rows.inputs == ["messages"]
    with pytest.raises(DataError, match="task.tools: are those of a dialogue"):
        resolve(TextGeneration(text="text", tools="tools"), {"text": TEXTS, "tools": TEXTS})


@pytest.mark.parametrize(
    ("cell", "tools"),
    [
        (None, None),
        ("", None),
        ([], None),
        ([CALL], [CALL]),
        ([WEATHER], [CALL]),
        (json.dumps([CALL]), [CALL]),
        (json.dumps([CALL | {"default": None}]), [CALL | {"default": None}]),
        # What one type of a column makes of schemas with other keys.
        ([CALL | {"function": WEATHER | {"strict": None}}], [CALL]),
    ],
)
def test_tools_are_read_as_public_sets_hold_them(cell: Any, tools: Any) -> None:
    assert tools_of(cell) == tools


@pytest.mark.parametrize(
    ("cell", "said"), [("[{", "is not valid JSON"), ("[1]", "is no list"), ({"a": 1}, "is no list")]
)
def test_tools_that_are_none_are_a_fault(cell: Any, said: str) -> None:
    row = {"chat": [{"role": "user", "content": "Hi"}], "tools": cell}
    (fault,) = TextGeneration(messages="chat", tools="tools").rows.validate(row)
    assert fault.startswith("tools: ")
    assert said in fault


def test_dialogues_are_found_by_their_values_and_text_is_what_is_left() -> None:
    chats = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    task = TextGeneration()
    resolve(task, {"id": [1], "talk": chats})
    assert task.resolved_.messages == "talk"
    # So that the empty one is named as a fault of its row.
    task = TextGeneration()
    resolve(task, {"talk": [*chats, [], None]})
    assert task.resolved_.messages == "talk"
    task = TextGeneration()
    resolve(task, {"story": TEXTS, "n": [1, 2]})
    assert task.resolved_.text == "{story}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"prompt": "{bdy}", "completion": "{title}"}, "no column 'bdy'.*body"),
        ({"prompt": "bdy", "completion": "{title}"}, "is no column and has no {column}"),
        ({"prompt": "{body:>10}", "completion": "{title}"}, "body is given a format, '>10'"),
        ({"prompt": "{}", "completion": "{title}"}, "a field has no name; a field is {column}"),
        ({"prompt": "{body", "completion": "{title}"}, "is no template"),
        ({"prompt": "{body}"}, "task.completion: is missing"),
        ({"prompt": "{body}", "text": "{body}"}, "exclude each other"),
    ],
)
def test_keys_that_no_column_fits_are_refused(keys: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        resolve(TextGeneration(**keys), {"body": TEXTS, "title": TEXTS})


# ---- rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"body": None, "title": "x"}, "body is None, not text"),
        ({"body": "x", "title": None}, "title is None, not text"),
        ({"body": "x", "title": " "}, "the completion is empty"),
    ],
)
def test_row_that_cannot_be_used_is_a_fault(row: dict[str, Any], said: str) -> None:
    task = TextGeneration(prompt="{body}", completion="{title}")
    assert said in list(task.rows.validate(row))


def test_row_without_its_completion_is_one_to_predict() -> None:
    task = TextGeneration(prompt="{body}", completion="{title}")
    assert not list(task.rows.validate({"body": "x"}))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("hello", "not a list of messages"),
        ([], "not a list of messages"),
        ([{"content": "x"}], "message 1 has no role"),
        ([{"role": "user", "content": None}], "message 1 has no content"),
        ([{"role": "assistant", "content": " "}], "message 1, an assistant's, is empty"),
        (
            [{"role": "user", "content": [{"text": "x"}]}],
            "has the content [{'text': 'x'}], not text",
        ),
    ],
)
def test_dialogue_that_is_none_is_a_fault(messages: Any, said: str) -> None:
    faults = list(TextGeneration(messages="chat").rows.validate({"chat": messages}))
    assert any(said in fault for fault in faults)


def test_dialogue_of_other_names_is_understood() -> None:
    told = [{"from": "Human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": None}]
    assert messages_of(told) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]


def test_roles_are_known_in_any_case_and_others_kept() -> None:
    told = [{"role": role, "content": "x"} for role in ("System", "USER", "Assistant", "Critic")]
    assert [message["role"] for message in messages_of(told)] == [
        "system",
        "user",
        "assistant",
        "Critic",
    ]


def test_dialogues_in_which_no_assistant_speaks_are_refused() -> None:
    def told(*roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": "x"} for role in roles]

    check_answered("chat", [told("user"), told("user", "Assistant")])
    with pytest.raises(DataError, match="task.messages=chat: .*; the roles are assistnt, user,"):
        check_answered("chat", [told("user"), told("user", "assistnt")])


def test_template_looks_inside_nested_columns_and_keeps_braces() -> None:
    template = find_template("{{{t.en}}} {t[de]} {n}", "task.prompt", ["t", "n"])
    row = {"t": {"en": "one", "de": "eins"}, "n": 1}
    assert fill_template(template, row) == "{one} eins 1"
    assert columns_of(template) == ["t", "n"]
    assert list(template_faults(template, {"t": {"en": "one"}, "n": [1]})) == [
        "t[de] is None, not text",
        "n is [1], not text",
    ]


def test_template_evaluates_nothing() -> None:
    with pytest.raises(KeyError):
        fill_template("{t.__class__}", {"t": "x"})


def test_headline_of_an_article_is_its_first_line() -> None:
    row = bbc_headline({"text": "Profit up\n\n" + "word " * 200})
    assert row is not None
    assert row["headline"] == "Profit up"
    assert len(row["body"].split()) == WORDS
    assert bbc_headline({"text": "Profit up"}) is None


# ---- cutting and packing


@pytest.mark.parametrize(
    ("how", "longest", "ids"),
    [
        ("prompt", 6, [0, 3, 4, 5, 6, 7]),  # the start token is kept
        ("prompt", 3, [0, 5, 6]),  # nothing of the prompt is left, then the end goes
        ("end", 6, [0, 1, 2, 3, 4, 5]),
        ("drop", 6, []),
        ("end", 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_tokens_are_cut(how: Any, longest: int, ids: list[int]) -> None:
    tokens = Tokens(list(range(8)), [False] * 5 + [True] * 3)
    found = cut(tokens, longest, how, kept=1)
    assert found.ids == ids
    assert found.is_learned == [token >= 5 for token in ids]


LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 1000))
def test_every_row_is_in_one_bin_and_no_bin_is_too_long(lengths: list[int], longest: int) -> None:
    bins = pack(lengths, longest)
    assert sorted(row for members in bins for row in members) == list(range(len(lengths)))
    limit = max(longest, *lengths)
    assert all(sum(lengths[row] for row in members) <= limit for members in bins)
    assert computed(lengths, bins) <= max(lengths) * len(lengths)


def test_row_goes_where_it_leaves_least_room() -> None:
    assert best_fit([6, 7, 3, 4], 10) == [[1, 2], [0, 3]]


def test_short_rows_share_bins_that_are_not_long() -> None:
    lengths = [200, *[20] * 40]
    bins = pack(lengths, 2048)
    assert computed(lengths, bins) <= 1.1 * sum(lengths)
    assert max(sum(lengths[row] for row in members) for members in bins) < 600


# ---- scores


def test_scores_are_of_the_whole_corpus_and_know_the_same_from_another() -> None:
    same = score_texts(["the cat sat on the mat"] * 2, ["the cat sat on the mat"] * 2)
    assert same["rougeL"] == 1
    assert same["bleu"] == pytest.approx(100)
    assert same["chrf"] == pytest.approx(100)
    other = score_texts(["no word alike", "the cat sat"], ["the cat sat on the mat"] * 2)
    assert 0 < other["rougeL"] < 0.5
