"""Messages of dialogues: roles, contents, calls and stored text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.readers import from_object
from tasks import TextGeneration
from tasks.prompts.messages import is_dialogue, normalize_messages

PLAIN = [{"role": "user", "content": "a goal?"}, {"role": "assistant", "content": "yes"}]


@pytest.mark.parametrize(
    "dialogue",
    [
        json.dumps(PLAIN),
        str(PLAIN),
        {"messages": PLAIN},
        [{"role": "human", "content": "a goal?"}, {"role": "AI", "content": "yes"}],
        [{"from": "human", "value": "a goal?"}, {"from": "chatgpt", "value": "yes"}],
        [{"role": "prompter", "text": "a goal?"}, {"role": "assistant", "text": "yes"}],
        [{"human": "a goal?", "assistant": "yes"}],
        [{"system": "", "input": "a goal?", "output": "yes"}],
        [
            {"role": "user", "content": [{"type": "text", "text": "a goal?", "image_url": None}]},
            {"role": "assistant", "content": [{"type": "text", "text": "yes", "image_url": None}]},
        ],
        # A typed column fills the keys of other rows with nulls.
        [message | {"from": None, "value": None} for message in PLAIN],
    ],
)
def test_normalize_messages_reads_the_formats_of_public_datasets(dialogue: Any) -> None:
    assert is_dialogue([dialogue, None])
    assert normalize_messages(dialogue) == PLAIN
    assert not list(TextGeneration(messages="chat").rows.validate({"chat": dialogue}))


@pytest.mark.parametrize(
    "value",
    ["[a goal]", "[1, 2]", [1], [{"text": "Bob", "type": "PER"}], {"a": 1}, '{"a": 1}', "[" * 9999],
)
def test_is_dialogue_rejects_other_lists_and_texts(value: Any) -> None:
    assert not is_dialogue([value])


def test_text_parts_are_joined_by_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "input_text", "text": "two"}, "three"]
    (message,) = normalize_messages([{"role": "user", "content": parts}])
    assert message["content"] == "one\ntwo\nthree"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"type": "input_audio", "text": "x"}, "input_audio"),
        ({"image": "x.png"}, "image"),
    ],
)
def test_parts_of_other_types_are_faults(part: Any, name: str) -> None:
    dialogue = [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}, PLAIN[1]]
    (fault,) = TextGeneration(messages="chat").rows.validate({"chat": dialogue})
    assert fault == f"chat: message 1 has a part of type {name}, which is not text"


def test_calls_of_sharegpt_and_of_older_openai_become_tool_calls() -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    wanted = [{"type": "function", "function": call}]
    sharegpt = [
        {"from": "human", "value": "the weather?"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "20 degrees"},
        {"from": "gpt", "value": "warm"},
    ]
    openai = [
        {"role": "user", "content": "the weather?"},
        {
            "role": "assistant",
            "content": None,
            "function_call": call | {"arguments": '{"city": "Rome"}'},
        },
        {"role": "function", "content": "20 degrees"},
        {"role": "assistant", "content": "warm"},
    ]
    for dialogue in (sharegpt, openai):
        messages = normalize_messages(dialogue)
        assert [m["role"] for m in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[1]["tool_calls"] == wanted
        assert not messages[1]["content"]
        assert not list(TextGeneration(messages="chat").rows.validate({"chat": dialogue}))
    (raw,) = normalize_messages([{"from": "function_call", "value": "weather(Rome)"}])
    assert raw == {"role": "assistant", "content": "weather(Rome)"}


def test_unknown_roles_are_faults_unless_task_roles_names_them() -> None:
    talk = [{"speaker": "Customer", "text": "a goal?"}, {"speaker": "agent", "text": "yes"}] * 2
    faults = list(TextGeneration(messages="chat").rows.validate({"chat": talk}))
    assert [fault.partition(";")[0] for fault in faults] == [
        "chat: message 1 has the unknown role 'Customer'",
        "chat: message 2 has the unknown role 'agent'",
    ]
    assert "task.roles={agent: user} names another" in faults[1]
    keys = {"messages": "chat", "roles": {"Customer": "user", "agent": "assistant"}}
    rows = TextGeneration(**keys).rows
    assert not list(rows.validate({"chat": talk}))
    assert rows.describe({"chat": talk[:2]}) == "user 'a goal?' | assistant 'yes'"


def test_messages_with_values_of_several_types_are_kept_as_json_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a goal?"}]}, PLAIN[1]]
    tables = from_object([{"messages": parts, "n": 1}, {"messages": PLAIN, "n": 2}], DataConfig())
    rows = tables.splits["train"]
    assert isinstance(rows, Dataset)
    assert [normalize_messages(row["messages"]) for row in rows] == [PLAIN, PLAIN]
    assert rows["n"][:] == [1, 2]
    assert any("kept as JSON text" in note for note in tables.notes)
