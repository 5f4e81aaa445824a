"""Rows of text generation as prompts and answers: from a dialogue, two templates or plain text.

{"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
{"body": "Ad sales boost ...", "headline": "Time Warner profit"}   with two templates
{"text": "It was a dark and stormy night ..."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from finetune.errors import DataError
from finetune.task_parts.rows import Resolved, Rows
from finetune.task_parts.samples import Row
from tasks.prompts.dialogues import Piece, prompt_messages, render_prompt, split_dialogue
from tasks.prompts.layouts import choose_prompts
from tasks.prompts.messages import Message
from tasks.prompts.prompt_config import PromptConfig
from tasks.prompts.row_messages import row_faults, row_messages, stored_turns, system_text
from tasks.prompts.templates import (
    CONTEXT_NAMES,
    fill_template,
    template_columns,
    template_faults,
)
from tasks.prompts.tools import parse_tools, tool_faults

# Characters of a text, and messages of a dialogue, in the description of a row.
SHOWN_CHARACTERS, SHOWN_MESSAGES = 120, 4
SHORTEST_DIVIDED = 2000
"""Characters from which the only document of a dataset is divided."""
_NO_LOSS = " (not learned)"


@dataclass(frozen=True)
class Exchange:
    """A row as text: the prompt, and the answer if the row has one.

    Attributes:
        prompt: the text that the model continues at inference.
        sequences: the texts for training, each in pieces with and without loss; None if unlabeled.
            There are several only if a chat template renders earlier turns differently.
        answer: the reference for the generated text; None if there is none.
        header: the start of a prompt in a chat template, before its first question, which is kept
            if the prompt is truncated.
    """

    prompt: str
    sequences: list[list[Piece]] | None = None
    answer: str | None = None
    header: str = ""


class PromptRows(Rows):
    """Rows of text generation.

    Attributes:
        detects: True if columns beside a configured prompt or dialogue are detected, such as a
            system prompt; False for a trained task, which reads what it was trained on.
    """

    config: PromptConfig

    def __init__(self, config: PromptConfig, *, detects: bool = True) -> None:
        super().__init__(config)
        self.detects = detects

    @property
    def inputs(self) -> list[str]:
        config = self.config
        if config.messages is not None:
            read = [config.messages]
        else:
            read = template_columns(config.prompt or config.text or "{text}")
        beside = [config.tools, *template_columns(config.system or ""), config.history]
        return list(dict.fromkeys([*read, *filter(None, beside)]))

    @property
    def targets(self) -> list[str]:
        if self.config.messages is not None:
            return [self.config.messages]
        return template_columns(self.config.completion) if self.config.completion else []

    def describe(self, row: Row) -> str:
        config = self.config
        if any(True for _ in self.validate(row)) or not has_answer(config, row):
            return super().describe(row)
        if config.kind == "text":
            return f"text {_shorten_middle(fill_template(config.text or '{text}', row))}"
        turns = [
            f"{turn['role']}{_NO_LOSS * _is_unlearned(turn)} "
            f"{_shorten_middle(str(turn['content'] or turn.get('tool_calls') or ''))}"
            for turn in row_messages(config, row)
        ]
        if len(turns) > SHOWN_MESSAGES:
            middle = f"({len(turns) - SHOWN_MESSAGES} more messages)"
            turns = [*turns[:2], middle, *turns[2 - SHOWN_MESSAGES :]]
        if config.kind == "chat":
            return " | ".join(turns)
        return " -> ".join(turns).replace("user ", "prompt ", 1)

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        return Resolved(*choose_prompts(self.config, columns, detects=self.detects))

    def validate(self, row: Row) -> Iterator[str]:
        yield from prompt_faults(self.config, row)

    def identity(self, row: Row) -> Any:
        config = self.config
        if config.kind == "chat" or stored_turns(config, row):
            # A default system prompt is part of the config, not of the row.
            messages = row_messages(config, row, with_answer=config.kind == "chat")
            return repr((messages, row.get(config.tools)) if config.tools else messages)
        text = fill_template(config.prompt or config.text or "{text}", row)
        return (system_text(config, row), text) if config.system else text

    def texts(self, row: Row) -> list[Any]:
        config = self.config
        if config.kind == "chat" or stored_turns(config, row):
            messages = row_messages(config, row, with_answer=config.kind == "chat")
            return [str(message["content"] or "") for message in messages]
        return [fill_template(config.prompt or config.text or "{text}", row)]

    def truth(self, row: Row) -> Any:
        return reference_answer(self.config, row)

    def divide(self, row: Row, shares: Mapping[str, float]) -> dict[str, Row] | None:
        """Divide a long document at the ends of its paragraphs or lines."""
        column = self.inputs[0]
        text = row[column]
        if self.config.kind != "text" or len(self.inputs) > 1 or len(text) < SHORTEST_DIVIDED:
            return None
        parts = divide_text(text, [1 - sum(shares.values()), *shares.values()])
        names = ("train", *shares)
        return {name: {**row, column: part} for name, part in zip(names, parts, strict=True)}

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        if self.config.kind == "chat":
            messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
            return {columns[0]: messages, **dict.fromkeys(columns[1:])}
        needed = [name for name in columns if name.lower() not in CONTEXT_NAMES] or columns[:1]
        if len(needed) != 1:
            raise DataError(
                f"{self.config.name}: {value!r:.80} does not match the columns "
                f"{', '.join(columns)}; pass dicts"
            )
        return {**dict.fromkeys(columns), needed[0]: value}


def divide_text(text: str, shares: Sequence[float]) -> list[str]:
    """Divide a text into consecutive parts of about these shares, whole paragraphs if possible."""
    starts = [0]
    for share in accumulate(shares[:-1]):
        place = max(round(share * len(text)), starts[-1])
        limit = place + round(min(shares) * len(text) / 2)
        ends = (text.find(mark, place, limit) + len(mark) for mark in ("\n\n", "\n", " "))
        starts.append(next((end for end in ends if end > place), place))
    return [text[a:b] for a, b in pairwise([*starts, len(text)])]


def _is_unlearned(turn: Message) -> bool:
    return turn["role"] == "assistant" and turn.get("weight") == 0


def _shorten_middle(text: str) -> str:
    """Render a text in quotes, without its middle if it is long."""
    if len(text) <= SHOWN_CHARACTERS:
        return repr(text)
    half = SHOWN_CHARACTERS // 2 - 2
    return repr(f"{text[:half]} ... {text[-half:]}")


def prompt_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    """Yield a message for each fault of a row. Rows to predict may lack the completion columns."""
    yield from row_faults(config, row)
    if config.messages is not None:
        if config.tools is not None:
            yield from tool_faults(config.tools, row.get(config.tools))
        return
    template, reads_turns = config.prompt or config.text or "{text}", config.chat is not False
    if not (reads_turns and stored_turns(config, row, "prompt")):
        yield from _text_faults(template, "prompt" if config.prompt else "text", row)
    if config.completion is None or not has_answer(config, row):
        return
    if not (reads_turns and stored_turns(config, row, "completion")):
        yield from _text_faults(config.completion, "completion", row)


def _text_faults(template: str, key: str, row: Row) -> Iterator[str]:
    faults = list(template_faults(template, row))
    if not faults and not fill_template(template, row).strip():
        faults = [f"the {key} is empty"]
    yield from faults


def has_answer(config: PromptConfig, row: Row) -> bool:
    """True if a row has the columns of the completion, or if no completion is configured."""
    if config.completion is None:
        return True
    return all(name in row for name in template_columns(config.completion))


def reference_answer(config: PromptConfig, row: Row) -> str | None:
    """Return the reference text of a row.

    None for plain text, rows without an answer, and a last turn that has weight 0 or only calls a
    tool.
    """
    if config.kind == "text" or not has_answer(config, row):
        return None
    if config.kind == "prompt" and not stored_turns(config, row, "completion"):
        return fill_template(str(config.completion), row)
    last = row_messages(config, row)[-1]
    is_answer = last["role"] == "assistant" and last.get("weight") != 0
    content = last["content"] if is_answer else None
    return content if isinstance(content, str) and content.strip() else None


def make_exchange(config: PromptConfig, tokenizer: Any, row: Row) -> Exchange:
    """Build the texts of a row; dialogues are rendered with the tokenizer's chat template."""
    if config.uses_chat:
        messages = row_messages(config, row, with_answer=has_answer(config, row))
        tools = parse_tools(row.get(config.tools)) if config.tools else None
        prompt = render_prompt(tokenizer, prompt_messages(messages), tools)
        header = _header(prompt, messages) if config.kind == "prompt" else ""
        if config.kind == "prompt" and not has_answer(config, row):
            return Exchange(prompt, header=header)
        sequences, answer = (
            split_dialogue(tokenizer, messages, tools),
            reference_answer(config, row),
        )
        if answer and config.kind == "prompt":
            answer = answer.strip()
        return Exchange(prompt, sequences, answer, header)
    if config.prompt is None:
        text = fill_template(config.text or "{text}", row)
        return Exchange(text, [[Piece(text, True)]])
    prompt, answer = fill_template(config.prompt, row), reference_answer(config, row)
    system = system_text(config, row)
    if system:
        prompt = f"{system}\n\n{prompt}"
    if answer is None:
        return Exchange(prompt)
    return Exchange(prompt, [[Piece(prompt, False), Piece(answer, True)]], answer)


def _header(prompt: str, messages: Sequence[Message]) -> str:
    """Return what a chat template writes before the first question, such as a system prompt."""
    questions = [message["content"] for message in messages if message["role"] == "user"]
    place = prompt.find(questions[0]) if questions and questions[0] else 0
    return prompt[: max(place, 0)]
