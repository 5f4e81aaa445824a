"""Messages of dialogues in the formats of public datasets, converted to {"role", "content"}.

{"role": "user", "content": "2 + 2?"}          also with a list of {"type": "text", "text"} parts,
                                               and parts of reasoning and tool calls
{"from": "human", "value": "2 + 2?"}           ShareGPT, with function_call and observation
{"role": "user", "parts": [{"text": "2 + 2?"}]} Gemini
{"human": "2 + 2?", "assistant": "4"}          a pair of turns

A dialogue is a list of them, or the JSON or Python text of such a list.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import DataError, listed
from tasks.prompts.tools import drop_nulls

Message = dict[str, Any]
Roles = Mapping[str, str]

MOST_MESSAGES = 2000
ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message", "parts", "utterance")
# Matched in any case: "Assistant" would get no loss, and chat templates would not know it.
ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "function_response": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
}
_KNOWN_ROLES = (
    "known roles are system, user, assistant, tool and their usual names (human, gpt, observation, "
    "...); task.roles={{{role}: user}} names another"
)
# Turns of the assistant whose content is the JSON of a call.
CALL_ROLES = ("function_call", "tool_call", "tool_calls")
# Keys of a message that holds a pair of turns, in the order of the turns.
PAIR_KEYS = ("system", "human", "user", "input", "gpt", "bot", "assistant", "output")
PAIR_ROLES = ROLES | {"input": "user", "output": "assistant"}
# Marks of texts that are formatted as a chat already, besides the special tokens of a tokenizer.
CHAT_MARKS = (
    "<|im_start|>",
    "<|start_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<|user|>",
    "<|assistant|>",
    "<|start|>",
    "[INST]",
    "<<SYS>>",
)
# Types of a part of a content that is text. OpenAI's Responses API has input_text and output_text.
TEXT_PARTS = ("text", "input_text", "output_text")
REASONING_PARTS = ("reasoning", "thinking")
CALL_PARTS = ("tool_call", "function_call", "tool_use")
READ_PARTS = (*TEXT_PARTS, *REASONING_PARTS, *CALL_PARTS)
_PART_KEYS = ("text", "value", "content", "thinking", "reasoning")
# The field in which chat templates expect the reasoning before an answer.
REASONING = "reasoning_content"
# Whether a turn is learned: 0 or 1, or a truth value.
WEIGHT_KEYS = ("weight", "loss_weight")
FLAG_KEYS = ("loss", "train", "training")


def parse_messages(value: Any) -> Any:
    """Parse a dialogue that is stored as JSON or Python text; return other values unchanged."""
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return parsed if isinstance(parsed, list | dict) else value
    return value


def message_list(value: Any) -> Any:
    """Return the list of messages of a cell: from text, of {"messages": [...]}, or of a message."""
    parsed = parse_messages(value)
    if isinstance(parsed, Mapping):
        if isinstance(_first(parsed, ROLE_KEYS), str) and _is_list([parsed]):
            return [parsed]
        inner = [item for item in map(parse_messages, parsed.values()) if _is_list(item)]
        return inner[0] if len(inner) == 1 else value
    return parsed


def is_dialogue(values: Sequence[Any]) -> bool:
    """True if the first values of a column are lists of messages; empty values are ignored."""
    known = [value for value in values if value is not None and value not in ([], "")]
    return bool(known) and all(map(_is_list, map(message_list, known)))


def normalize_messages(value: Any, roles: Roles = ROLES) -> list[Message]:
    """Convert a dialogue to {"role", "content", ...}; unknown roles are kept as they are."""
    messages: list[Message] = []
    for message in message_list(value):
        messages += [_convert(one, roles) for one in _turns_of(message)]
    return messages


def message_faults(column: str, value: Any, roles: Roles = ROLES) -> Iterator[str]:
    """Yield a message for each fault of a dialogue."""
    listing = message_list(value)
    if not isinstance(listing, list) or not listing:
        yield f"{column} is {value!r:.80}, not a list of messages"
        return
    if len(listing) > MOST_MESSAGES:
        yield (
            f"{column} has {len(listing)} messages, more than {MOST_MESSAGES}: the chat template "
            "is rendered up to each turn of a dialogue; divide it into several rows"
        )
        return
    for number, message in enumerate(listing, start=1):
        if not isinstance(message, Mapping):
            yield f"{column}: message {number} is {message!r:.80}, not a dict of role and content"
            return
    unknown: set[str] = set()
    for number, message in enumerate(normalize_messages(listing, roles), start=1):
        place = f"{column}: message {number}"
        role, content = message["role"], message["content"]
        if not isinstance(role, str):
            yield f"{place} has no role"
        elif role not in roles.values():
            if role not in unknown:
                yield f"{place} has the unknown role {role!r}; {_KNOWN_ROLES.format(role=role)}"
            unknown.add(role)
        if message.get("weight") not in (None, 0, 1):
            yield f"{place} has weight {message['weight']!r:.40}; a turn is learned (1) or not (0)"
        if message.get("tool_calls"):
            continue
        if not isinstance(content, str):
            yield f"{place} has {_content_fault(content)}"
        elif role == "assistant" and not content.strip():
            yield f"{place}, an assistant turn, is empty"


def media_parts(value: Any) -> set[str]:
    """Return the types of the parts of a dialogue's contents that are not read: image_url, ..."""
    listing = message_list(value)
    found: set[str] = set()
    for message in listing if isinstance(listing, list) else []:
        content = _first(message, CONTENT_KEYS) if isinstance(message, Mapping) else None
        if isinstance(content, list):
            found |= {_part_type(part) for part in content} - {*READ_PARTS, ""}
    return found


def chat_mark(text: Any, special_tokens: Sequence[str] = ()) -> str:
    """Return the mark by which a text is formatted as a chat; "" if there is none."""
    marks = (*special_tokens, *CHAT_MARKS) if isinstance(text, str) else ()
    return next((mark for mark in marks if mark in text), "")


def call_text(message: Message) -> str:
    """Render the tool calls of a message as JSON, for templates that ignore them."""
    calls = [call.get("function", call) for call in message["tool_calls"]]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)


def _is_list(value: Any) -> bool:
    """True for a list whose first item is a message."""
    if not isinstance(value, list) or not value or not isinstance(value[0], Mapping):
        return False
    first = value[0]
    by_role = any(key in first for key in ROLE_KEYS) and any(
        key in first for key in (*CONTENT_KEYS, "tool_calls", "function_call")
    )
    return by_role or len(_pair_of(first)) > 1


def _turns_of(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Split a pair of turns into two messages; return any other message alone."""
    if _first(message, ROLE_KEYS) is not None:
        return [message]
    pair = _pair_of(message)
    if len(pair) < 2:
        return [message]
    return [
        {"role": PAIR_ROLES[key], "content": message[key]}
        for key in pair
        if message[key] or PAIR_ROLES[key] != "system"
    ]


def _pair_of(message: Mapping[str, Any]) -> list[str]:
    return [key for key in PAIR_KEYS if isinstance(message.get(key), str)]


def _convert(message: Mapping[str, Any], roles: Roles) -> Message:
    role = _first(message, ROLE_KEYS)
    content, beside = _joined(_first(message, CONTENT_KEYS))
    used = (*ROLE_KEYS, *CONTENT_KEYS)
    rest = {
        name: drop_nulls(item)
        for name, item in message.items()
        if name not in used and item is not None
    }
    rest = {**_with_weight(rest), **beside}
    if isinstance(role, str):
        role = role.strip() if role.strip() in roles else role
        if role.lower() in CALL_ROLES and role not in roles:
            calls = _calls_in(content)
            return {"role": "assistant", "content": "" if calls else content, **rest, **calls}
        role = roles.get(role, roles.get(role.lower(), role))
    if isinstance(rest.get("function_call"), Mapping):
        rest |= _calls_in(rest.pop("function_call"))
    return {"role": role, "content": content, **rest}


def _calls_in(value: Any) -> Message:
    """Return {"tool_calls": [...]} for the call, or the list of calls, that a value holds."""
    parsed = parse_messages(value)
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return {}
    functions = [
        {**call, "arguments": parse_messages(call.get("arguments", call.get("parameters", {})))}
        for call in calls
    ]
    return {"tool_calls": [{"type": "function", "function": each} for each in functions]}


def _with_weight(fields: Message) -> Message:
    """Rename the field that says whether a turn is learned to "weight"."""
    for name in (*WEIGHT_KEYS, *FLAG_KEYS):
        kinds = (int, float) if name in WEIGHT_KEYS else (bool,)
        if isinstance(fields.get(name), kinds):
            return {
                "weight" if key == name else key: int(item) if isinstance(item, bool) else item
                for key, item in fields.items()
            }
    return fields


def _joined(content: Any) -> tuple[Any, Message]:
    """Return the text of a list of parts, and the fields of its reasoning and tool calls.

    A content that is not a list, or has other parts, is returned unchanged.
    """
    if not isinstance(content, list) or not content:
        return content, {}
    texts: dict[str, list[Any]] = {"content": [], REASONING: []}
    calls: list[Any] = []
    for part in content:
        kind = _part_type(part)
        if kind in CALL_PARTS:
            calls += _calls_in(_call_of(part)).get("tool_calls", [None])
        else:
            name = REASONING if kind in REASONING_PARTS else "content"
            texts[name].append(part if isinstance(part, str) else _part_text(part))
    if not all(isinstance(text, str) for name in texts for text in texts[name]) or None in calls:
        return content, {}
    beside: Message = {REASONING: "\n".join(texts[REASONING])} if texts[REASONING] else {}
    return "\n".join(texts["content"]), beside | ({"tool_calls": calls} if calls else {})


def _part_text(part: Any) -> Any:
    if _part_type(part) not in (*TEXT_PARTS, *REASONING_PARTS):
        return None
    return _first(part, _PART_KEYS)


def _call_of(part: Mapping[str, Any]) -> Any:
    """Return the call in a part: its JSON text, or the part itself with a name and arguments."""
    if part.get("name") is None:
        return _first(part, ("value", "tool_call", "function_call", "function"))
    arguments = _first(part, ("arguments", "input", "parameters"))
    return {"name": part["name"], "arguments": {} if arguments is None else arguments}


def _part_type(part: Any) -> str:
    """Return the type of a part; "" if it is a text or has none."""
    if not isinstance(part, Mapping):
        return ""
    if isinstance(part.get("type"), str):
        return str(part["type"])
    # Hugging Face's processors accept {"image": ...} without a type.
    return next((key for key, item in part.items() if item is not None and key != "type"), "")


def _first(message: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the first value that is not null: a typed column fills keys of other rows."""
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _content_fault(content: Any) -> str:
    if content is None:
        return "no content"
    if isinstance(content, list):
        types = sorted({_part_type(part) for part in content} - {*READ_PARTS, ""})
        if types:
            return f"a part of type {listed(types, 3)}, which is not text"
        if any(_part_type(part) in CALL_PARTS for part in content):
            return f"a tool call without a name, or a part without text: {content!r:.80}"
    return f"content {content!r:.80}, not text"


def check_answered(column: str, dialogues: Any, roles: Roles = ROLES) -> None:
    """Raise DataError if no dialogue has an assistant turn, and so no token would carry loss."""
    found = set[str]()
    for dialogue in dialogues:
        found |= {str(message["role"]) for message in normalize_messages(dialogue, roles)}
        if "assistant" in found:
            return
    raise DataError(
        f"task.messages={column}: no dialogue has an assistant turn to train on; roles found: "
        f"{', '.join(sorted(found))}; recognized roles: {', '.join(roles)}"
    )
