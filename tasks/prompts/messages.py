"""Messages of dialogues in the formats of public datasets, converted to {"role", "content"}.

{"role": "user", "content": "2 + 2?"}          also with a list of {"type": "text", "text"} parts
{"from": "human", "value": "2 + 2?"}           ShareGPT, with function_call and observation
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

ROLE_KEYS = ("role", "from", "speaker", "author", "sender")
CONTENT_KEYS = ("content", "value", "text", "message")
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
    """Return the list of messages of a cell: from text, or of a dict {"messages": [...]}."""
    parsed = parse_messages(value)
    if isinstance(parsed, Mapping):
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
        if message.get("tool_calls"):
            continue
        if not isinstance(content, str):
            yield f"{place} has {_content_fault(content)}"
        elif role == "assistant" and not content.strip():
            yield f"{place}, an assistant turn, is empty"


def media_parts(value: Any) -> set[str]:
    """Return the types of the parts of a dialogue's contents that are not text: image_url, ..."""
    listing = message_list(value)
    found: set[str] = set()
    for message in listing if isinstance(listing, list) else []:
        content = _first(message, CONTENT_KEYS) if isinstance(message, Mapping) else None
        if isinstance(content, list):
            found |= {_part_type(part) for part in content} - {*TEXT_PARTS, ""}
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
    role, content = _first(message, ROLE_KEYS), _joined(_first(message, CONTENT_KEYS))
    used = (*ROLE_KEYS, *CONTENT_KEYS)
    rest = {
        name: drop_nulls(item)
        for name, item in message.items()
        if name not in used and item is not None
    }
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


def _joined(content: Any) -> Any:
    """Join the parts of a content if all of them are text; else return it unchanged."""
    if not isinstance(content, list) or not content:
        return content
    texts = [part if isinstance(part, str) else _part_text(part) for part in content]
    return "\n".join(texts) if all(isinstance(text, str) for text in texts) else content


def _part_text(part: Any) -> Any:
    return part.get("text") if _part_type(part) in TEXT_PARTS else None


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
        types = sorted({_part_type(part) for part in content} - {*TEXT_PARTS, ""})
        if types:
            return f"a part of type {listed(types, 3)}, which is not text"
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
