"""Config keys that select the prompt and the answer of a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from finetune.config.schema import TaskConfig
from finetune.errors import DataError
from tasks.prompts.messages import ROLES

TextKind = Literal["chat", "prompt", "text"]
_GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Tags that transformers adds to Jinja."""


def read_chat_template(template: str) -> str:
    """Return the text of task.chat_template, which may name a file. Raises DataError."""
    if "{" in template:
        return template
    try:
        return Path(template).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"task.chat_template: {template} is not UTF-8: {error}; save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise DataError(
            f"task.chat_template: {template!r} is neither an existing file nor a Jinja template"
        ) from error


def check_chat_template(template: str) -> None:
    """Raise DataError for a chat template that cannot be read or that is not valid Jinja."""
    from jinja2 import TemplateSyntaxError  # only now: few configs have a template
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    text = read_chat_template(template)
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.compile(_GENERATION.sub(lambda tag: _block(tag[1]), text))
    except (TemplateSyntaxError, SyntaxError, RecursionError) as error:
        line = f"line {error.lineno}: " if isinstance(error, TemplateSyntaxError) else ""
        name = "the template" if text is template else template
        raise DataError(
            f"task.chat_template: {name} is not valid Jinja: {line}{error}; correct it"
        ) from error


def _block(end: str | None) -> str:
    return "{% endif %}" if end else "{% if true %}"


class PromptConfig(TaskConfig):
    """Config keys that select the prompt and the answer of a row."""

    blank_keys: ClassVar[frozenset[str]] = frozenset({"system", "history"})
    column_keys: ClassVar[frozenset[str]] = frozenset(
        {"prompt", "completion", "messages", "tools", "text", "history"}
    )

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
    system: str | None = None
    """System prompt: a column, a template, or a text for all rows whose dialogue has none; null: a
    column called system, if there is one.
    """
    history: str | None = None
    """Column of the earlier [user, assistant] turns of a prompt; null: one called history."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(default_factory=dict)
    """Roles of the turns of dialogues by other names, such as {customer: user, agent: assistant}.
    """
    chat: bool | None = None
    """Format prompts and completions as turns of the user and the assistant, with the chat
    template; null: if the tokenizer has one and the rows are not formatted already.
    """
    chat_template: str | None = None
    """Jinja chat template for dialogues, or a file with one; null: the tokenizer's."""

    @property
    def has_layout(self) -> bool:
        """True if keys name what a row consists of, so that it is not detected."""
        return any(key is not None for key in (self.messages, self.text, self.prompt))

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        if self.chat_template is not None:
            try:
                check_chat_template(self.chat_template)
            except DataError as error:
                yield str(error)
        formats = [name for name in ("messages", "text") if getattr(self, name) is not None]
        prompts = [name for name in ("prompt", "completion") if getattr(self, name) is not None]
        if formats and len(formats + prompts[:1]) > 1:
            given = " and ".join(f"task.{name}" for name in (*formats, *prompts[:1]))
            yield f"{given} exclude each other; a row is a dialogue, a prompt or a text"
        elif len(prompts) == 1:
            missing = {"prompt": "completion", "completion": "prompt"}[prompts[0]]
            yield (
                f"task.{missing} is missing; set both task.prompt and task.completion, each to a"
                " column or a template"
            )

    @property
    def kind(self) -> TextKind:
        if self.messages is not None:
            return "chat"
        return "prompt" if self.prompt is not None else "text"

    @property
    def uses_chat(self) -> bool:
        """True if the chat template formats a row, as a dialogue."""
        return self.kind == "chat" or (self.kind == "prompt" and bool(self.chat))

    @property
    def all_roles(self) -> dict[str, str]:
        """{name of a role in the data: role in the chat template}."""
        return ROLES | self.roles
