"""Rows of text generation: detection of columns, validation, dialogues, tools and templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune.errors import DataError
from tasks import TextGeneration
from tasks.prompts.messages import check_answered, normalize_messages
from tasks.prompts.prompts import divide_text
from tasks.prompts.templates import (
    fill_template,
    resolve_template,
    template_columns,
    template_faults,
)
from tasks.prompts.tools import parse_tools
from tasks.sample_rows import BODY_WORDS, bbc_headline
from tests.support.contract import resolve

TEXTS = ["a goal", "the market is new"]


# ---- columns


@pytest.mark.parametrize(
    ("columns", "templates"),
    [
        ({"instruction": TEXTS, "output": TEXTS}, ("{instruction}\n", "{output}")),
        (
            {"Instruction": TEXTS, "input": ["", "x"], "output": TEXTS},
            ("{Instruction}\n\n{input}\n", "{output}"),
        ),
        ({"document": TEXTS, "summary": TEXTS, "id": [1, 2]}, ("{document}\n", "{summary}")),
    ],
)
def test_prompt_and_completion_are_detected_by_column_names(
    columns: dict[str, Any], templates: tuple[str, str]
) -> None:
    task = TextGeneration()
    notes = resolve(task, columns)
    assert (task.resolved_.prompt, task.resolved_.completion) == templates
    assert len(notes) == 1


def test_messages_are_detected_by_values_and_text_is_the_fallback() -> None:
    chats = [[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]]
    task = TextGeneration()
    resolve(task, {"id": [1], "talk": chats})
    assert task.resolved_.messages == "talk"
    # An empty dialogue is then reported as a fault of its row.
    task = TextGeneration()
    resolve(task, {"talk": [*chats, [], None]})
    assert task.resolved_.messages == "talk"
    task = TextGeneration()
    resolve(task, {"story": TEXTS, "n": [1, 2]})
    assert task.resolved_.text == "{story}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prompt": "{bdy}", "completion": "{title}"}, "no column 'bdy'.*body"),
        ({"prompt": "bdy", "completion": "{title}"}, "is neither a column nor a template"),
        ({"prompt": "{body:>10}", "completion": "{title}"}, "body has a format, '>10'"),
        ({"prompt": "{}", "completion": "{title}"}, "a field has no name; a field is {column}"),
        ({"prompt": "{body", "completion": "{title}"}, "is not a valid template"),
        ({"prompt": "{body}"}, "task.completion is missing"),
        ({"prompt": "{body}", "text": "{body}"}, "exclude each other"),
    ],
)
def test_resolve_rejects_invalid_columns_and_templates(keys: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve(TextGeneration(**keys), {"body": TEXTS, "title": TEXTS})


WEATHER = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
CALL = {"type": "function", "function": WEATHER}


def test_tools_are_detected_beside_messages() -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for keys in ({}, {"messages": "messages"}):
        task = TextGeneration(**keys)
        notes = resolve(task, {"messages": [turns], "functions": [json.dumps([WEATHER])]})
        assert notes[-1] == "tools: column 'functions', by its name"
        assert task.rows.inputs == ["messages", "functions"]
        task = TextGeneration(**keys)
        notes = resolve(task, {"messages": [turns], "tools": ["hammer"]})
        assert notes[-1] == "tools: column 'tools' is ignored: it does not contain tools"
        assert task.rows.inputs == ["messages"]
    with pytest.raises(DataError, match="task.tools requires dialogues"):
        resolve(TextGeneration(text="text", tools="tools"), {"text": TEXTS, "tools": TEXTS})


# ---- rows


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"body": None, "title": "x"}, "body is None, not text"),
        ({"body": "x", "title": None}, "title is None, not text"),
        ({"body": "x", "title": " "}, "the completion is empty"),
    ],
)
def test_validate_reports_faults_of_prompt_and_completion(row: dict[str, Any], fault: str) -> None:
    task = TextGeneration(prompt="{body}", completion="{title}")
    assert fault in list(task.rows.validate(row))


def test_validate_accepts_rows_to_predict() -> None:
    task = TextGeneration(prompt="{body}", completion="{title}")
    assert not list(task.rows.validate({"body": "x"}))


def test_bbc_headline_splits_off_the_first_line() -> None:
    row = bbc_headline({"text": "Profit up\n\n" + "word " * 200})
    assert row is not None
    assert row["headline"] == "Profit up"
    assert len(row["body"].split()) == BODY_WORDS
    assert bbc_headline({"text": "Profit up"}) is None


# ---- dialogues


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "not a list of messages"),
        ([], "not a list of messages"),
        ([{"content": "x"}], "message 1 has no role"),
        ([{"role": "user", "content": None}], "message 1 has no content"),
        ([{"role": "assistant", "content": " "}], "message 1, an assistant turn, is empty"),
        (
            [{"role": "user", "content": {"text": "x"}}],
            "has content {'text': 'x'}, not text",
        ),
    ],
)
def test_validate_reports_malformed_dialogues(messages: Any, message: str) -> None:
    faults = list(TextGeneration(messages="chat").rows.validate({"chat": messages}))
    assert any(message in fault for fault in faults)


def test_normalize_messages_accepts_from_and_value() -> None:
    dialogue = [{"from": "Human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": None}]
    assert normalize_messages(dialogue) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
    ]


def test_normalize_messages_ignores_case_and_keeps_unknown_roles() -> None:
    dialogue = [
        {"role": role, "content": "x"} for role in ("System", "USER", "Assistant", "Critic")
    ]
    assert [message["role"] for message in normalize_messages(dialogue)] == [
        "system",
        "user",
        "assistant",
        "Critic",
    ]


def test_check_answered_rejects_dialogues_without_assistant_turns() -> None:
    def dialogue(*roles: str) -> list[dict[str, str]]:
        return [{"role": role, "content": "x"} for role in roles]

    check_answered("chat", [dialogue("user"), dialogue("user", "Assistant")])
    with pytest.raises(DataError, match="task.messages=chat: .*; roles found: assistnt, user;"):
        check_answered("chat", [dialogue("user"), dialogue("user", "assistnt")])


# ---- tools


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
        # A typed column adds nulls for the keys of other schemas.
        ([CALL | {"function": WEATHER | {"strict": None}}], [CALL]),
    ],
)
def test_parse_tools_accepts_the_formats_of_public_datasets(cell: Any, tools: Any) -> None:
    assert parse_tools(cell) == tools


@pytest.mark.parametrize(
    ("cell", "message"),
    [("[{", "is not valid JSON"), ("[1]", "is not a list"), ({"a": 1}, "is not a list")],
)
def test_validate_reports_malformed_tools(cell: Any, message: str) -> None:
    row = {"chat": [{"role": "user", "content": "Hi"}], "tools": cell}
    (fault,) = TextGeneration(messages="chat", tools="tools").rows.validate(row)
    assert fault.startswith("tools: ")
    assert message in fault


# ---- division of a document


def test_divide_holds_out_the_end_of_a_document_in_whole_paragraphs() -> None:
    paragraphs = [f"Paragraph {number} of a story.\n\n" for number in range(200)]
    row = {"text": "".join(paragraphs), "file": "book.txt"}
    rows = TextGeneration(text="{text}").rows
    parts = rows.divide(row, {"validation": 0.1, "test": 0.2})
    assert parts is not None
    assert "".join(part["text"] for part in parts.values()) == row["text"]
    assert list(parts) == ["train", "validation", "test"]
    assert all(part["text"].startswith("Paragraph") for part in parts.values())
    assert 0.08 < len(parts["validation"]["text"]) / len(row["text"]) < 0.12
    assert 0.18 < len(parts["test"]["text"]) / len(row["text"]) < 0.22
    assert rows.divide({"text": "A short text. " * 10}, {"validation": 0.1}) is None


def test_divide_cuts_a_text_without_paragraphs() -> None:
    parts = divide_text("letters" * 1000, [0.75, 0.25])
    assert list(map(len, parts)) == [5250, 1750]


# ---- templates


def test_fill_template_reads_nested_columns_and_literal_braces() -> None:
    template = resolve_template("{{{t.en}}} {t[de]} {n}", "task.prompt", ["t", "n"])
    row = {"t": {"en": "one", "de": "eins"}, "n": 1}
    assert fill_template(template, row) == "{one} eins 1"
    assert template_columns(template) == ["t", "n"]
    assert list(template_faults(template, {"t": {"en": "one"}, "n": [1]})) == [
        "t[de] is None, not text",
        "n is [1], not text",
    ]


def test_fill_template_does_not_evaluate_attributes() -> None:
    with pytest.raises(KeyError):
        fill_template("{t.__class__}", {"t": "x"})
