"""Dialogues as text, in pieces: assistant turns, which carry loss, and context, which does not.

A message: {"role": "user", "content": "What is the capital of France?"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from finetune.errors import DataError
from tasks.prompts.messages import REASONING, Message, call_text
from tasks.prompts.prompt_config import read_chat_template
from tasks.prompts.tools import Tool

# For tokenizers without a chat template; it requires no additional tokens.
PLAIN_TEMPLATE = (
    "{start}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
# Messages from which a dialogue is split once: its beginnings are rendered up to each turn.
MANY_MESSAGES = 100
# Marks of the reasoning that a template may strip from answers.
REASONING_START, REASONING_END = "<think>", "</think>"
_EMPTY_REASONING = re.compile(rf"\n*{REASONING_START}\s*{REASONING_END}\n*")


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
        text = tokenizer.chat_template = read_chat_template(template)
        origin = "set by task.chat_template" if text is template else template
        return [f"chat template: {origin}"]
    if tokenizer.chat_template is not None:
        return []
    start = "{{ bos_token }}" if has_start_token else ""
    tokenizer.chat_template = PLAIN_TEMPLATE.replace("{start}", start)
    return ["chat template: the tokenizer has none, so turns are formatted as 'role: content'"]


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
) -> list[list[Piece]]:
    """Render a dialogue as sequences of pieces: assistant turns and their end tokens carry loss,
    except turns with weight 0.

    One sequence holds all turns unless the template renders earlier turns differently once later
    ones follow, as those that strip reasoning do. Then a turn that does not continue the sequence
    before it begins another, with the earlier turns as the model sees them at inference. Empty
    reasoning that the template writes before an answer without one is not learned.
    """
    if len(messages) >= MANY_MESSAGES and (text := _as_json([messages, tools])) is not None:
        return _split_stored(tokenizer, str(tokenizer.chat_template), text)
    return _split(tokenizer, messages, tools)


def _as_json(value: Any) -> str | None:
    try:
        return json.dumps(value)
    except (TypeError, ValueError):
        return None


@lru_cache(maxsize=4)
def _split_stored(tokenizer: Any, template: str, text: str) -> list[list[Piece]]:
    """Split a dialogue of many messages, which takes seconds, once for all that read it."""
    return _split(tokenizer, *json.loads(text))


def _split(
    tokenizer: Any, messages: Sequence[Message], tools: list[Tool] | None
) -> list[list[Piece]]:
    sequences: list[_Sequence] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or message.get("weight") == 0:
            continue
        before = render_prompt(tokenizer, messages[:place], tools)
        after = _render(tokenizer, messages[: place + 1], tools=tools)
        if after.startswith(before):
            end = len(_ended(tokenizer, before, after))
            if not _has_reasoning(message) and (
                empty := _EMPTY_REASONING.match(after, len(before))
            ):
                after, end = before + after[empty.end() :], end - len(empty[0])
        else:
            after = before + _stripped_answer(before, after, message["content"])
            end = len(after)
        if not (sequences and before.startswith(sequences[-1].text)):
            sequences.append(_Sequence([], ""))
        last = sequences[-1]
        pieces = [Piece(before[last.covered :], False), Piece(after[len(before) : end], True)]
        sequences[-1] = _Sequence([*last.pieces, *pieces], after)
    whole = _render(tokenizer, messages, tools=tools)
    if not sequences:
        sequences = [_Sequence([], "")]
    if whole.startswith(sequences[-1].text):
        last = sequences[-1]
        sequences[-1] = _Sequence([*last.pieces, Piece(whole[last.covered :], False)], whole)
    return [[piece for piece in each.pieces if piece.text] for each in sequences]


class _Sequence(NamedTuple):
    """Pieces that end with an assistant turn, and the text of the dialogue up to there."""

    pieces: list[Piece]
    text: str

    @property
    def covered(self) -> int:
        """Number of characters of the text that the pieces hold."""
        return sum(len(piece.text) for piece in self.pieces)


def _has_reasoning(message: Message) -> bool:
    """True if a message has reasoning, even an empty one, in its content or in a field."""
    return REASONING_START in str(message["content"]) or bool(message.get(REASONING))


def _stripped_answer(before: str, after: str, content: Any) -> str:
    """Return an answer with the reasoning that its template has stripped, as a model writes it.

    The prompt `before` may already open the reasoning, as that of DeepSeek-R1 does. Raises
    DataError if the answer cannot be located in `after`, the rendered dialogue.
    """
    text = content if isinstance(content, str) else ""
    visible = text.rpartition(REASONING_END)[2].strip()
    at = after.rfind(visible) if visible else -1
    if at < 0:
        raise DataError(
            "task.chat_template: the template does not continue the prompt with the answer "
            f"{text!r:.80}, so its tokens cannot be located; set task.chat_template=FILE to a "
            "template that renders an answer after its generation prompt"
        )
    if before.rstrip().endswith(REASONING_START):
        if REASONING_END in text:
            text = text.lstrip().removeprefix(REASONING_START).removeprefix("\n")
        else:
            text = f"\n{REASONING_END}\n\n{text.lstrip()}"
    return text.rstrip() + after[at + len(visible) :].rstrip()


def rewrites_turns(tokenizer: Any, dialogues: Iterable[Sequence[Message]]) -> int:
    """Count the dialogues that the chat template renders as several sequences."""
    return sum(len(split_dialogue(tokenizer, messages)) > 1 for messages in dialogues)


def ignored_parts(tokenizer: Any, dialogues: Iterable[Sequence[Message]]) -> list[str]:
    """Return a note on roles and fields of messages that the chat template does not render."""
    template, roles, fields = str(tokenizer.chat_template), dict[str, int](), set[str]()
    calls = opened = 0
    for messages in dialogues:
        whole = _render(tokenizer, messages)
        opened += bool(_EMPTY_REASONING.search(whole)) and not any(map(_has_reasoning, messages))
        for message in messages:
            role, text = message["role"], message["content"]
            if isinstance(text, str) and role != "assistant":
                roles[role] = roles.get(role, 0) + (_bare(text) not in _bare(whole))
            calls += bool(message.get("tool_calls")) and "tool_calls" not in template
            fields |= message.keys() - {"role", "content", "weight", "tool_calls"}
    notes = [
        f"chat template: it leaves out {count} messages of the role {role} in the first dialogues"
        for role, count in roles.items()
        if count
    ]
    if calls:
        notes.append("chat template: it ignores tool_calls, so calls are written as their JSON")
    if opened:
        notes.append(
            f"chat template: it writes {REASONING_START}{REASONING_END} before answers without"
            f" reasoning, which is not learned ({opened} of the first dialogues)"
        )
    unread = sorted(field for field in fields if field not in template)
    if unread:
        notes.append(f"not read: {', '.join(unread)} of the messages, which the template ignores")
    return notes


def _bare(text: str) -> str:
    """Strip what a template may add when it renders a text as JSON."""
    return re.sub(r'[\s"\\]+|\\n', "", text)


def turn_end_token(tokenizer: Any, dialogues: Iterable[Sequence[Message]]) -> int | None:
    """Return the last token of an assistant turn, in the first dialogue that has one."""
    for messages in dialogues:
        for pieces in split_dialogue(tokenizer, messages):
            turns = [piece.text.rstrip() for piece in pieces if piece.has_loss]
            if any(turns):
                text = next(filter(None, turns))
                return int(tokenizer(text, add_special_tokens=False).input_ids[-1])
    return None


def _render(tokenizer: Any, messages: Sequence[Message], **arguments: Any) -> str:
    if not messages:
        return ""
    shown = list(messages)
    if "tool_calls" not in str(tokenizer.chat_template):
        shown = [
            {**message, "content": call_text(message)} if message.get("tool_calls") else message
            for message in messages
        ]
    # OpenAI leaves the content of a call null, which some templates do not expect.
    shown = [
        {**message, "content": ""} if message["content"] is None else message for message in shown
    ]
    try:
        return str(tokenizer.apply_chat_template(shown, tokenize=False, **arguments))
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
