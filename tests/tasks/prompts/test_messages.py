"""Messages of dialogues: roles, contents, calls and stored text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.readers import from_object
from tasks import TextGeneration
from tasks.prompts.messages import is_dialogue, message_faults, normalize_messages

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
        [
            {"role": "user", "parts": [{"text": "a goal?"}]},
            {"role": "model", "parts": [{"text": "yes"}]},
        ],
        [{"speaker": "USER", "utterance": "a goal?"}, {"speaker": "BOT", "utterance": "yes"}],
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


def test_a_single_message_is_a_dialogue() -> None:
    answer = {"from": "gpt", "value": "yes"}
    assert is_dialogue([answer])
    assert normalize_messages(answer) == PLAIN[1:]


@pytest.mark.parametrize("key", ["text", "value", "content"])
def test_text_parts_hold_their_text_under_the_keys_of_tools(key: str) -> None:
    parts = [{"type": "text", key: "a goal?"}]
    assert normalize_messages([{"role": "user", "content": parts}]) == PLAIN[:1]


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({"loss_weight": 0.0}, 0),
        ({"weight": 1}, 1),
        ({"train": False}, 0),
        ({"training": True}, 1),
        ({"loss": False, "weight": None}, 0),
    ],
)
def test_weights_of_turns_have_several_names(fields: dict[str, Any], weight: int) -> None:
    (message,) = normalize_messages([{"role": "assistant", "content": "yes", **fields}])
    assert message == {"role": "assistant", "content": "yes", "weight": weight}


def test_a_weight_between_0_and_1_is_a_fault() -> None:
    dialogue = [PLAIN[0], PLAIN[1] | {"loss_weight": 0.5}]
    (fault,) = TextGeneration(messages="chat").rows.validate({"chat": dialogue})
    assert fault == "chat: message 2 has weight 0.5; a turn is learned (1) or not (0)"


def test_a_measured_loss_is_no_weight() -> None:
    (message,) = normalize_messages([{"role": "assistant", "content": "yes", "loss": 0.4}])
    assert message == {"role": "assistant", "content": "yes", "loss": 0.4}


def test_turns_without_loss_are_described() -> None:
    rows = TextGeneration(messages="chat").rows
    row = {"chat": [PLAIN[0], PLAIN[1] | {"loss_weight": 0.0}]}
    assert rows.describe(row) == "user 'a goal?' | assistant (not learned) 'yes'"


CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


@pytest.mark.parametrize(
    "parts",
    [
        [
            {"type": "reasoning", "value": "hm"},
            {"type": "text", "value": "yes"},
            {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        ],
        [
            {"type": "thinking", "thinking": "hm"},
            {"type": "text", "text": "yes"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
        ],
    ],
)
def test_parts_of_reasoning_and_calls_become_the_fields_of_chat_templates(
    parts: list[dict[str, Any]],
) -> None:
    (message,) = normalize_messages([{"role": "assistant", "content": parts}])
    assert message == {
        "role": "assistant",
        "content": "yes",
        "reasoning_content": "hm",
        "tool_calls": [CALL],
    }


def test_a_part_that_is_no_call_is_a_fault() -> None:
    dialogue = [
        PLAIN[0],
        {"role": "assistant", "content": [{"type": "tool_call", "value": "f(1)"}]},
    ]
    (fault,) = TextGeneration(messages="chat").rows.validate({"chat": dialogue})
    assert "a tool call without a name" in fault


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


def test_a_dialogue_of_thousands_of_messages_is_a_fault() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert list(message_faults("messages", turns * 1000)) == []
    (fault,) = message_faults("messages", turns * 1001)
    assert "has 2002 messages, more than 2000" in fault
