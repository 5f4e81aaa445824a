"""Rows of text generation as prompts and answers: from a dialogue, two templates or plain text.

{"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
{"body": "Ad sales boost ...", "headline": "Time Warner profit"}   with two templates
{"text": "It was a dark and stormy night ..."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.config.schema import TaskConfig
from finetune.errors import DataError
from finetune.task_parts import Resolved, Row, Rows
from tasks.classification.label_columns import TEXT_NAMES, find_column, prose_columns
from tasks.generation.dialogues import (
    MESSAGE_NAMES,
    Piece,
    dialogue_faults,
    is_dialogue,
    normalize_messages,
    prompt_messages,
    render_prompt,
    split_dialogue,
)
from tasks.generation.templates import (
    fill_template,
    resolve_template,
    template_columns,
    template_faults,
)
from tasks.generation.tools import TOOL_NAMES, parse_tools, tool_faults

TextKind = Literal["chat", "prompt", "text"]
# Column names of prompt and completion in public datasets.
COLUMN_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("source", "target"),
    ("document", "summary"),
    ("article", "highlights"),
    ("article", "headline"),
    ("article", "summary"),
    ("dialogue", "summary"),
    ("text", "summary"),
)
# Column with the input of an instruction; often empty.
CONTEXT_COLUMN = "input"


@dataclass(frozen=True)
class Exchange:
    """A row as text: the prompt, and the answer if the row has one.

    Attributes:
        prompt: the text that the model continues at inference.
        pieces: the whole text for training, in pieces with and without loss; None if unlabeled.
        answer: the reference for the generated text; None if there is none.
    """

    prompt: str
    pieces: list[Piece] | None = None
    answer: str | None = None


class PromptConfig(TaskConfig):
    """Config keys that select the prompt and the answer of a row."""

    prompt: str | None = None
    """Prompt: a column, or a template such as "Article: {body}\\nHeadline:"."""
    completion: str | None = None
    """Text to generate after the prompt: a column, or a template such as " {headline}"."""
    messages: str | None = None
    """Column of dialogues, lists of {"role", "content"}; every assistant turn carries loss."""
    tools: str | None = None
    """Column of the tools that a dialogue may call: a list of JSON schemas, or a JSON string of
    such a list; null: detected.
    """
    text: str | None = None
    """Column or template of plain text, all of which carries loss."""

    @property
    def kind(self) -> TextKind:
        if self.messages is not None:
            return "chat"
        return "prompt" if self.prompt is not None else "text"


class PromptRows(Rows):
    """Rows of text generation."""

    config: PromptConfig

    @property
    def inputs(self) -> list[str]:
        if self.config.messages is not None:
            return [self.config.messages, *([self.config.tools] if self.config.tools else [])]
        return template_columns(self.config.prompt or self.config.text or "{text}")

    @property
    def targets(self) -> list[str]:
        return template_columns(self.config.completion) if self.config.completion else []

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        return Resolved(*choose_prompts(self.config, columns))

    def validate(self, row: Row) -> Iterator[str]:
        yield from prompt_faults(self.config, row)

    def identity(self, row: Row) -> Any:
        if self.config.messages is not None:
            messages = normalize_messages(row[self.config.messages])
            return repr((messages, row.get(self.config.tools)) if self.config.tools else messages)
        return fill_template(self.config.prompt or self.config.text or "{text}", row)

    def truth(self, row: Row) -> Any:
        return reference_answer(self.config, row)

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        if self.config.kind == "chat":
            messages = [{"role": "user", "content": value}] if isinstance(value, str) else value
            return {columns[0]: messages, **dict.fromkeys(columns[1:])}
        if len(columns) != 1:
            raise DataError(
                f"{self.config.name}: {value!r:.80} does not match the columns "
                f"{', '.join(columns)}; pass dicts"
            )
        return {columns[0]: value}


def choose_prompts(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    """Return the keys that select columns, with open ones filled, and a note for each choice made.

    Raises DataError if keys exclude each other, or if no column is suitable.
    """
    formats = [name for name in ("messages", "text") if getattr(config, name) is not None]
    formats += ["prompt"] if config.prompt is not None or config.completion is not None else []
    if len(formats) > 1:
        keys = " and ".join(f"task.{name}" for name in formats)
        raise DataError(f"{keys} exclude each other; a row is a dialogue, a prompt or a text")
    if not formats:
        return _detect_prompts(config, columns)
    if config.tools is not None and formats != ["messages"]:
        raise DataError("task.tools requires dialogues; set task.messages, or remove task.tools")
    if formats == ["messages"]:
        column, _ = find_column(config.messages, "messages", columns, (), ())
        tools, notes = _choose_tools(config, columns)
        return {"messages": column, **tools}, notes
    if formats == ["text"]:
        return {"text": resolve_template(str(config.text), "task.text", columns)}, []
    for name in ("prompt", "completion"):
        if getattr(config, name) is None:
            raise DataError(
                f"task.{name} is missing; set both task.prompt and task.completion, each to a "
                "column or a template"
            )
    return {
        name: resolve_template(getattr(config, name), f"task.{name}", columns)
        for name in ("prompt", "completion")
    }, []


def _choose_tools(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    """Return {"tools": column} if dialogues have tools, and a note if the column was detected."""
    if config.tools is not None:
        column, _ = find_column(config.tools, "tools", columns, (), ())
        return {"tools": column}, []
    for column in (name for name in TOOL_NAMES if name in columns):
        if any(fault for value in columns[column] for fault in tool_faults(column, value)):
            return {}, [f"tools: column {column!r} is ignored: it does not contain tools"]
        return {"tools": column}, [f"tools: column {column!r}, by its name"]
    return {}, []


def _detect_prompts(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    lowered = {name.lower(): name for name in columns}
    dialogues = [name for name, values in columns.items() if is_dialogue(values)]
    named = [lowered[name] for name in MESSAGE_NAMES if lowered.get(name) in dialogues]
    if named or len(dialogues) == 1:
        column = [*named, *dialogues][0]
        note = f"messages: column {column!r}, which contains dialogues"
        tools, notes = _choose_tools(config, columns)
        return {"messages": column, **tools}, [note, *notes]
    for question, reply in COLUMN_PAIRS:
        if question in lowered and reply in lowered:
            prompt, completion = f"{{{lowered[question]}}}", f"{{{lowered[reply]}}}"
            if question == "instruction" and CONTEXT_COLUMN in lowered:
                prompt += f"\n\n{{{lowered[CONTEXT_COLUMN]}}}"
            note = f"prompt: {prompt!r}, completion: {completion!r}, by the columns' names"
            return {"prompt": f"{prompt}\n", "completion": completion}, [note]
    text, text_note = find_column(None, "text", columns, TEXT_NAMES, prose_columns(columns))
    return {"text": f"{{{text}}}"}, [text_note] if text_note else []


def prompt_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    """Yield a message for each fault of a row. Rows to predict may lack the completion columns."""
    if config.messages is not None:
        yield from dialogue_faults(config.messages, row.get(config.messages))
        if config.tools is not None:
            yield from tool_faults(config.tools, row.get(config.tools))
        return
    template = config.prompt or config.text or "{text}"
    yield from _text_faults(template, "prompt" if config.prompt else "text", row)
    if has_answer(config, row) and config.completion is not None:
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
    if config.messages is not None:
        last = normalize_messages(row[config.messages])[-1]
        is_answer = last["role"] == "assistant" and last.get("weight") != 0
        content = last["content"] if is_answer else None
        return content if isinstance(content, str) and content.strip() else None
    if config.completion is None or not has_answer(config, row):
        return None
    return fill_template(config.completion, row)


def make_exchange(config: PromptConfig, tokenizer: Any, row: Row) -> Exchange:
    """Build the texts of a row; dialogues are rendered with the tokenizer's chat template."""
    if config.messages is not None:
        messages = normalize_messages(row[config.messages])
        tools = parse_tools(row.get(config.tools)) if config.tools else None
        prompt = render_prompt(tokenizer, prompt_messages(messages), tools)
        pieces = split_dialogue(tokenizer, messages, tools)
        return Exchange(prompt, pieces, reference_answer(config, row))
    if config.prompt is None:
        text = fill_template(config.text or "{text}", row)
        return Exchange(text, [Piece(text, True)])
    prompt, answer = fill_template(config.prompt, row), reference_answer(config, row)
    if answer is None:
        return Exchange(prompt)
    return Exchange(prompt, [Piece(prompt, False), Piece(answer, True)], answer)
