"""What a row asks and what it should be answered: from a dialogue, from templates, from plain text.

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
    before_answer,
    dialogue_faults,
    is_dialogue,
    messages_of,
    pieces_of,
    render_prompt,
)
from tasks.generation.templates import columns_of, fill_template, find_template, template_faults
from tasks.generation.tools import TOOL_NAMES, tool_faults, tools_of

TextKind = Literal["chat", "prompt", "text"]
# What public sets call a question and its answer.
PAIRS = (
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
# A third column, beside an instruction, that it is about; often empty.
CONTEXT = "input"


@dataclass(frozen=True)
class Exchange:
    """A row as text: what is asked, and, if it is known, what is answered.

    Attributes:
        pieces: all of a row's text, in parts that carry loss and parts that do not.
        answer: the last of what is answered, alone.
    """

    asked: str
    pieces: list[Piece] | None = None
    answer: str | None = None


class PromptConfig(TaskConfig):
    """Where a row holds what is asked and what is answered."""

    prompt: str | None = None
    """What is read: a column, or a template such as "Article: {body}\\nHeadline:"."""
    completion: str | None = None
    """What is to be written: a column, or a template such as " {headline}"."""
    messages: str | None = None
    """Column of a dialogue: a list of roles and contents; every assistant turn is learned."""
    tools: str | None = None
    """Column of the tools that a dialogue may call: a list of JSON schemas, or its JSON text; null:
    found.
    """
    text: str | None = None
    """Column or template of plain text, of which everything is learned."""

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
        return columns_of(self.config.prompt or self.config.text or "{text}")

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        return Resolved(*choose_prompts(self.config, columns))

    def validate(self, row: Row) -> Iterator[str]:
        yield from prompt_faults(self.config, row)

    def identity(self, row: Row) -> Any:
        if self.config.messages is not None:
            said = messages_of(row[self.config.messages])
            return repr((said, row.get(self.config.tools)) if self.config.tools else said)
        return fill_template(self.config.prompt or self.config.text or "{text}", row)

    def truth(self, row: Row) -> Any:
        return answer(self.config, row)

    def from_value(self, value: Any) -> Row:
        columns = self.inputs
        if self.config.kind == "chat":
            held = [{"role": "user", "content": value}] if isinstance(value, str) else value
            return {columns[0]: held, **dict.fromkeys(columns[1:])}
        if len(columns) != 1:
            raise DataError(
                f"{self.config.name}: {value!r:.80} does not fit the columns {', '.join(columns)};"
                " give dicts"
            )
        return {columns[0]: value}


def choose_prompts(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    """The keys of `config` that say what is read, settled; a sentence for each choice made.

    Raises DataError for keys that exclude each other, and where no column can be it.
    """
    given = [name for name in ("messages", "text") if getattr(config, name) is not None]
    given += ["prompt"] if config.prompt is not None or config.completion is not None else []
    if len(given) > 1:
        keys = " and ".join(f"task.{name}" for name in given)
        raise DataError(f"{keys} exclude each other; a row is a dialogue, a prompt or a text")
    if not given:
        return _found(config, columns)
    if config.tools is not None and given != ["messages"]:
        raise DataError("task.tools: are those of a dialogue; set task.messages, or leave it out")
    if given == ["messages"]:
        column, _ = find_column(config.messages, "messages", columns, (), ())
        beside, notes = _with_tools(config, columns)
        return {"messages": column, **beside}, notes
    if given == ["text"]:
        return {"text": find_template(str(config.text), "task.text", columns)}, []
    for name in ("prompt", "completion"):
        if getattr(config, name) is None:
            raise DataError(
                f"task.{name}: is missing; prompt and completion are each a column or a template"
            )
    return {
        name: find_template(getattr(config, name), f"task.{name}", columns)
        for name in ("prompt", "completion")
    }, []


def _with_tools(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    """The column of tools beside a dialogue, if there is one, and a sentence."""
    if config.tools is not None:
        column, _ = find_column(config.tools, "tools", columns, (), ())
        return {"tools": column}, []
    for column in (name for name in TOOL_NAMES if name in columns):
        if any(fault for value in columns[column] for fault in tool_faults(column, value)):
            return {}, [f"tools: column {column!r} holds none, so it is not read"]
        return {"tools": column}, [f"tools: column {column!r}, by its name"]
    return {}, []


def _found(
    config: PromptConfig, columns: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, str | None], list[str]]:
    lowered = {name.lower(): name for name in columns}
    dialogues = [name for name, values in columns.items() if is_dialogue(values)]
    named = [lowered[name] for name in MESSAGE_NAMES if lowered.get(name) in dialogues]
    if named or len(dialogues) == 1:
        column = [*named, *dialogues][0]
        note = f"messages: column {column!r}, which holds dialogues"
        beside, notes = _with_tools(config, columns)
        return {"messages": column, **beside}, [note, *notes]
    for asked, answered in PAIRS:
        if asked in lowered and answered in lowered:
            prompt, completion = f"{{{lowered[asked]}}}", f"{{{lowered[answered]}}}"
            if asked == "instruction" and CONTEXT in lowered:
                prompt += f"\n\n{{{lowered[CONTEXT]}}}"
            note = f"prompt: {prompt!r}, completion: {completion!r}, by the columns' names"
            return {"prompt": f"{prompt}\n", "completion": completion}, [note]
    text, said = find_column(None, "text", columns, TEXT_NAMES, prose_columns(columns))
    return {"text": f"{{{text}}}"}, [said] if said else []


def prompt_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    """What is wrong with a row; one without the columns of its completion is one to predict."""
    if config.messages is not None:
        yield from dialogue_faults(config.messages, row.get(config.messages))
        if config.tools is not None:
            yield from tool_faults(config.tools, row.get(config.tools))
        return
    asked = config.prompt or config.text or "{text}"
    yield from _text_faults(asked, "prompt" if config.prompt else "text", row)
    if has_answer(config, row) and config.completion is not None:
        yield from _text_faults(config.completion, "completion", row)


def _text_faults(template: str, what: str, row: Row) -> Iterator[str]:
    faults = list(template_faults(template, row))
    if not faults and not fill_template(template, row).strip():
        faults = [f"the {what} is empty"]
    yield from faults


def has_answer(config: PromptConfig, row: Row) -> bool:
    """Whether a row of prompt and completion says what is to be written."""
    return config.completion is None or all(name in row for name in columns_of(config.completion))


def answer(config: PromptConfig, row: Row) -> str | None:
    """What should be written in answer to a row; None for plain text, for unanswered rows, and for
    a last turn that has the weight 0 or only calls a tool.
    """
    if config.messages is not None:
        last = messages_of(row[config.messages])[-1]
        said = last["content"] if last["role"] == "assistant" and last.get("weight") != 0 else None
        return said if isinstance(said, str) and said.strip() else None
    if config.completion is None or not has_answer(config, row):
        return None
    return fill_template(config.completion, row)


def exchange_of(config: PromptConfig, tokenizer: Any, row: Row) -> Exchange:
    """The texts of a row; a dialogue is written by the tokenizer's template."""
    if config.messages is not None:
        messages = messages_of(row[config.messages])
        tools = tools_of(row.get(config.tools)) if config.tools else None
        asked = render_prompt(tokenizer, before_answer(messages), tools)
        return Exchange(asked, pieces_of(tokenizer, messages, tools), answer(config, row))
    if config.prompt is None:
        text = fill_template(config.text or "{text}", row)
        return Exchange(text, [Piece(text, True)])
    asked, said = fill_template(config.prompt, row), answer(config, row)
    pieces = None if said is None else [Piece(asked, False), Piece(said, True)]
    return Exchange(asked, pieces, said)
