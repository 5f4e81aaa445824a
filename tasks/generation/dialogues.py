"""Dialogues as text, in pieces: assistant turns, which carry loss, and context, which does not.

A message: {"role": "user", "content": "What is the capital of France?"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import DataError
from tasks.generation.tools import Tool, drop_nulls

MESSAGE_NAMES = ("messages", "conversations", "conversation", "chat", "dialogue")
# Matched in any case: "Assistant" would get no loss, and chat templates would not know it.
ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# For tokenizers without a chat template; it requires no additional tokens.
PLAIN_TEMPLATE = (
    "{start}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

Message = dict[str, Any]


class Piece(NamedTuple):
    """A part of a text; its tokens carry loss if `has_loss`."""

    text: str
    has_loss: bool


def settle_chat_template(tokenizer: Any, template: str | None, has_start_token: bool) -> list[str]:
    """Set the tokenizer's chat template to a file or Jinja text, or to a plain one if it has none.

    With `has_start_token`, the plain template begins with the start token. Return notes on the
    choice.
    """
    if template is not None:
        is_file = "{" not in template
        if is_file and not Path(template).is_file():
            raise DataError(
                f"task.chat_template: {template!r} is neither an existing file nor a Jinja template"
            )
        tokenizer.chat_template = _read(Path(template)) if is_file else template
        return [
            f"chat template: {template}" if is_file else "chat template: set by task.chat_template"
        ]
    if tokenizer.chat_template is not None:
        return []
    start = "{{ bos_token }}" if has_start_token else ""
    tokenizer.chat_template = PLAIN_TEMPLATE.replace("{start}", start)
    return ["chat template: the tokenizer has none, so turns are formatted as 'role: content'"]


def is_dialogue(values: Sequence[Any]) -> bool:
    """True if the first values of a column are lists of messages; empty values are ignored."""
    known = [value for value in values if value is not None and value != []]
    return bool(known) and all(
        isinstance(value, list) and isinstance(value[0], Mapping) for value in known
    )


def normalize_messages(value: Any) -> list[Message]:
    """Convert a dialogue to {"role", "content", ...}, also from {"from": "human", "value": ...}."""
    messages = []
    for message in value:
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        rest = {
            name: drop_nulls(item)
            for name, item in message.items()
            if name not in ("role", "from", "content", "value") and item is not None
        }
        role = ROLES.get(role.lower(), role) if isinstance(role, str) else role
        messages.append({"role": role, "content": content, **rest})
    return messages


def dialogue_faults(column: str, value: Any) -> Iterator[str]:
    """Yield a message for each fault of a dialogue."""
    if not isinstance(value, list) or not value:
        yield f"{column} is {value!r:.80}, not a list of messages"
        return
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            yield f"{column}: message {number} is {message!r:.80}, not a dict of role and content"
            return
    for number, message in enumerate(normalize_messages(value), start=1):
        if not isinstance(message["role"], str):
            yield f"{column}: message {number} has no role"
        is_answer = message["role"] == "assistant"
        if message.get("tool_calls"):
            continue
        if not isinstance(message["content"], str):
            yield f"{column}: message {number} has {_content_fault(message['content'])}"
        elif is_answer and not message["content"].strip():
            yield f"{column}: message {number}, an assistant turn, is empty"


def check_answered(column: str, dialogues: Iterable[Any]) -> None:
    """Raise DataError if no dialogue has an assistant turn, and so no token would carry loss."""
    roles = set[str]()
    for dialogue in dialogues:
        roles |= {message["role"] for message in normalize_messages(dialogue)}
        if "assistant" in roles:
            return
    raise DataError(
        f"task.messages={column}: no dialogue has an assistant turn to train on; roles found: "
        f"{', '.join(sorted(roles))}; recognized roles: {', '.join(ROLES)}"
    )


def _content_fault(content: Any) -> str:
    return "no content" if content is None else f"content {content!r:.80}, not text"


def prompt_messages(messages: Sequence[Message]) -> list[Message]:
    """Return the messages to answer: all, without an assistant turn at the end."""
    prompt = list(messages)
    return prompt[:-1] if prompt and prompt[-1]["role"] == "assistant" else prompt


def render_prompt(
    tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None = None
) -> str:
    """Render a dialogue with the generation prompt, after which the assistant answers."""
    return _render(tokenizer, messages, tools=tools, add_generation_prompt=True)


def split_dialogue(
    tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None = None
) -> list[Piece]:
    """Render a dialogue and split it into pieces: assistant turns and their end tokens carry loss,
    except turns with weight 0.

    Raises DataError if the template renders earlier turns differently once later ones follow.
    """
    whole, pieces, start = _render(tokenizer, messages, tools=tools), list[Piece](), 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        before = render_prompt(tokenizer, messages[:place], tools)
        after = _render(tokenizer, messages[: place + 1], tools=tools)
        if not (whole.startswith(after) and after.startswith(before)):
            raise DataError(
                "task.chat_template: the template renders earlier turns differently once later "
                f"ones follow, so the tokens of turn {place + 1} cannot be located; set "
                "task.chat_template=FILE to a template that renders each turn the same way"
            )
        end = len(_ended(tokenizer, before, after))
        pieces += [Piece(whole[start : len(before)], False), Piece(whole[len(before) : end], True)]
        start = end
    return [piece for piece in (*pieces, Piece(whole[start:], False)) if piece.text]


def turn_end_token(tokenizer: Any, dialogues: Iterable[Any]) -> int | None:
    """Return the last token of an assistant turn, in the first dialogue that has one."""
    for dialogue in dialogues:
        pieces = split_dialogue(tokenizer, normalize_messages(dialogue))
        turns = [piece.text.rstrip() for piece in pieces if piece.has_loss]
        if any(turns):
            text = next(filter(None, turns))
            return int(tokenizer(text, add_special_tokens=False).input_ids[-1])
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"task.chat_template: {file} is not UTF-8: {error}; save it as UTF-8"
        ) from error


def _render(tokenizer: Any, messages: Sequence[Message], **arguments: Any) -> str:
    if not messages:
        return ""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **arguments))
    except Exception as error:  # a template is code: it may raise anything
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(
            f"task.chat_template: the template failed on a dialogue of {roles}: "
            f"{type(error).__name__}: {error}; fix the rows, or set another template with "
            "task.chat_template=FILE"
        ) from error


def _ended(tokenizer: Any, before: str, after: str) -> str:
    """Strip what follows the end token of the last turn, such as a newline."""
    stripped = after.rstrip()
    ends = tuple(token for token in tokenizer.all_special_tokens if token)
    return stripped if len(stripped) > len(before) and stripped.endswith(ends) else after
