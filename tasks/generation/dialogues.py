"""Dialogues as texts: the pieces of a chat that a network should say, and those that it only reads.

A message: {"role": "user", "content": "What is the capital of France?"}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune.errors import DataError
from tasks.generation.tools import Tool, without_nulls

MESSAGE_NAMES = ("messages", "conversations", "conversation", "chat", "dialogue")
# Of any case: a turn of "Assistant" would not be learned, nor would a template know it.
ROLES = {name: name for name in ("system", "user", "assistant", "tool")} | {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
# For networks without a template of their own. It needs no token that they do not have.
PLAIN_TEMPLATE = (
    "{start}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)

Message = dict[str, Any]


class Piece(NamedTuple):
    """A part of a text, and whether its tokens carry loss."""

    text: str
    is_learned: bool


def settle_chat_template(tokenizer: Any, given: str | None, begins: bool) -> list[str]:
    """Give the tokenizer the template of a file or a text, or a plain one if it has none.

    `begins` says that texts begin with its start token. Returns a sentence on what was chosen.
    """
    if given is not None:
        is_file = "{" not in given
        if is_file and not Path(given).is_file():
            raise DataError(
                f"task.chat_template: {given!r} is neither a file here nor a Jinja template"
            )
        tokenizer.chat_template = _read(Path(given)) if is_file else given
        return [f"chat template: {given}" if is_file else "chat template: the one given"]
    if tokenizer.chat_template is not None:
        return []
    start = "{{ bos_token }}" if begins else ""
    tokenizer.chat_template = PLAIN_TEMPLATE.replace("{start}", start)
    return ["chat template: the tokenizer has none, so turns are written as lines 'role: content'"]


def is_dialogue(values: Sequence[Any]) -> bool:
    """Whether the first values of a column are lists of messages, empty ones aside."""
    known = [value for value in values if value is not None and value != []]
    return bool(known) and all(
        isinstance(value, list) and isinstance(value[0], Mapping) for value in known
    )


def messages_of(value: Any) -> list[Message]:
    """The messages of a dialogue in the usual form, from {"from": "human", "value": ...} too."""
    found = []
    for message in value:
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        rest = {
            name: without_nulls(item)
            for name, item in message.items()
            if name not in ("role", "from", "content", "value") and item is not None
        }
        known = ROLES.get(role.lower(), role) if isinstance(role, str) else role
        found.append({"role": known, "content": content, **rest})
    return found


def dialogue_faults(column: str, value: Any) -> Iterator[str]:
    """What is wrong with a dialogue."""
    if not isinstance(value, list) or not value:
        yield f"{column} is {value!r:.80}, not a list of messages"
        return
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping):
            yield f"{column}: message {number} is {message!r:.80}, not a role and a content"
            return
    for number, message in enumerate(messages_of(value), start=1):
        if not isinstance(message["role"], str):
            yield f"{column}: message {number} has no role"
        is_answer = message["role"] == "assistant"
        if message.get("tool_calls"):
            continue
        if not isinstance(message["content"], str):
            yield f"{column}: message {number} has {_shown(message['content'])}"
        elif is_answer and not message["content"].strip():
            yield f"{column}: message {number}, an assistant's, is empty"


def check_answered(column: str, dialogues: Iterable[Any]) -> None:
    """Raise DataError if no turn of any dialogue is an assistant's: nothing would be learned."""
    roles = set[str]()
    for dialogue in dialogues:
        roles |= {message["role"] for message in messages_of(dialogue)}
        if "assistant" in roles:
            return
    raise DataError(
        f"task.messages={column}: no turn is an assistant's, so there is nothing to learn; the "
        f"roles are {', '.join(sorted(roles))}, known ones are {', '.join(ROLES)}"
    )


def _shown(content: Any) -> str:
    return "no content" if content is None else f"the content {content!r:.80}, not text"


def before_answer(messages: Sequence[Message]) -> list[Message]:
    """What a network is asked to answer: all up to the last turn of its own, if that ends it."""
    held = list(messages)
    return held[:-1] if held and held[-1]["role"] == "assistant" else held


def render_prompt(
    tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None = None
) -> str:
    """A dialogue up to the point where the network begins to speak."""
    return _render(tokenizer, messages, tools=tools, add_generation_prompt=True)


def pieces_of(
    tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None = None
) -> list[Piece]:
    """The text of a dialogue in pieces: what assistants say is learned, with the token behind it,
    but for turns of the weight 0.

    Raises DataError for a template whose earlier turns look otherwise once later ones follow.
    """
    whole, pieces, start = _render(tokenizer, messages, tools=tools), list[Piece](), 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        before = render_prompt(tokenizer, messages[:place], tools)
        after = _render(tokenizer, messages[: place + 1], tools=tools)
        if not (whole.startswith(after) and after.startswith(before)):
            raise DataError(
                "task.chat_template: the template writes a turn otherwise once another follows, so"
                f" what is learned of turn {place + 1} cannot be told apart; give a template that"
                " writes every turn in one way (task.chat_template=FILE)"
            )
        end = len(_ended(tokenizer, before, after))
        pieces += [Piece(whole[start : len(before)], False), Piece(whole[len(before) : end], True)]
        start = end
    return [piece for piece in (*pieces, Piece(whole[start:], False)) if piece.text]


def turn_end(tokenizer: Any, dialogues: Iterable[Any]) -> int | None:
    """The last token that is learned of a turn, in the first dialogue that has one."""
    for dialogue in dialogues:
        pieces = pieces_of(tokenizer, messages_of(dialogue))
        learned = [piece.text.rstrip() for piece in pieces if piece.is_learned]
        if any(learned):
            text = next(filter(None, learned))
            return int(tokenizer(text, add_special_tokens=False).input_ids[-1])
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"task.chat_template: {file} is no UTF-8: {error}; save it as such"
        ) from error


def _render(tokenizer: Any, messages: Sequence[Message], **how: Any) -> str:
    if not messages:
        return ""
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **how))
    except Exception as error:  # a template is a program, and may fail like one
        roles = ", ".join(str(message["role"]) for message in messages)
        raise DataError(
            f"task.chat_template: the template cannot write a dialogue of {roles}:"
            f" {type(error).__name__}: {error}; mend the rows, or give another"
            " template with task.chat_template=FILE"
        ) from error


def _ended(tokenizer: Any, before: str, after: str) -> str:
    """A dialogue up to the token that ends its last turn, without what stands behind that token."""
    stripped = after.rstrip()
    ends = tuple(token for token in tokenizer.all_special_tokens if token)
    return stripped if len(stripped) > len(before) and stripped.endswith(ends) else after
