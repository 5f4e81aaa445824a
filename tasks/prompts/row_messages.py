"""The messages of a row: its dialogue, or its prompt and completion as turns.

{"system": "Answer briefly.", "history": [["Hi", "Hello"]], "instruction": "2 + 2?", "output": "4"}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune.errors import DataError
from finetune.task_parts.samples import Row
from tasks.prompts.messages import (
    Message,
    is_dialogue,
    message_faults,
    normalize_messages,
    parse_messages,
)
from tasks.prompts.prompt_config import PromptConfig
from tasks.prompts.templates import fill_template, template_columns, template_faults


def row_messages(config: PromptConfig, row: Row, *, with_answer: bool = True) -> list[Message]:
    """Return the messages of a row; those of a prompt carry no loss, except its history.

    Without `with_answer`, a row of prompt and completion gives the prompt alone.
    """
    roles = config.all_roles
    if config.messages is not None:
        return _with_system(config, row, normalize_messages(row[config.messages], roles))
    messages = _past_turns(config, row)
    given = stored_turns(config, row, "prompt")
    if given:
        messages += [
            {**message, "weight": 0} if message["role"] == "assistant" else message
            for message in normalize_messages(given, roles)
        ]
    else:
        text = fill_template(str(config.prompt), row)
        messages.append({"role": "user", "content": text.strip()})
    if with_answer:
        given = stored_turns(config, row, "completion")
        answer = fill_template(str(config.completion), row).strip() if not given else ""
        messages += (
            normalize_messages(given, roles)
            if given
            else [{"role": "assistant", "content": answer}]
        )
    return _with_system(config, row, messages)


def stored_turns(config: PromptConfig, row: Row, key: str | None = None) -> Any:
    """Return the list of messages that a prompt or completion holds in place of text; else None.

    Without `key`, return the first of: the prompt's, the completion's, the history's.
    """
    if config.kind != "prompt":
        return None
    if key is None:
        past = row.get(config.history) if config.history else None
        return (
            stored_turns(config, row, "prompt") or stored_turns(config, row, "completion") or past
        )
    template = str(getattr(config, key))
    columns = template_columns(template)
    if len(columns) != 1 or template.strip() != f"{{{columns[0]}}}":
        return None
    value = row.get(columns[0])
    return value if is_dialogue([value]) else None


def row_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    """Yield the faults of the messages of a row, and of its system prompt and history."""
    roles = config.all_roles
    faults = list(_system_template_faults(config, row))
    yield from faults
    if config.messages is not None:
        listing = list(message_faults(config.messages, row.get(config.messages), roles))
        yield from listing
        if not faults and not listing:
            yield from _system_faults(config, row)
        return
    for key in ("prompt", "completion"):
        given = stored_turns(config, row, key) if getattr(config, key) else None
        if given:
            (column,) = template_columns(str(getattr(config, key)))
            yield from message_faults(column, given, roles)
    try:
        _past_turns(config, row)
    except DataError as error:
        yield str(error)


def _system_template_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    columns = template_columns(config.system or "")
    if any(row.get(column) is not None for column in columns):
        yield from template_faults(str(config.system), row)


def _system_faults(config: PromptConfig, row: Row) -> Iterator[str]:
    """Yield a fault if a row has two system prompts: that of a column and that of its dialogue."""
    if config.system is None or not template_columns(config.system):
        return
    text = system_text(config, row)
    messages = normalize_messages(row[str(config.messages)], config.all_roles)
    own = [message["content"] for message in messages[:1] if message["role"] == "system"]
    if text and own and own[0].strip() != text.strip():
        yield (
            f"{config.messages} begins with the system prompt {own[0]!r:.60}, and task.system="
            f"{config.system} has another, {text!r:.60}; keep one of them"
        )


def _with_system(config: PromptConfig, row: Row, messages: list[Message]) -> list[Message]:
    """Put the system prompt before messages that do not begin with one."""
    text = system_text(config, row)
    if not text or (messages and messages[0]["role"] == "system"):
        return messages
    return [{"role": "system", "content": text}, *messages]


def system_text(config: PromptConfig, row: Row) -> str:
    """Return the system prompt of a row; "" if it has none."""
    if config.system is None:
        return ""
    columns = template_columns(config.system)
    if columns and all(row.get(column) is None for column in columns):
        return ""
    text = fill_template(config.system, row)
    return text if text.strip() else ""


def _past_turns(config: PromptConfig, row: Row) -> list[Message]:
    """Return the messages of a row's history. Raises DataError if it is malformed."""
    value = parse_messages(row.get(config.history)) if config.history else None
    if not value:
        return []
    if is_dialogue([value]):
        return normalize_messages(value, config.all_roles)
    turns: list[Message] = []
    for pair in value if isinstance(value, list) else [value]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_text, pair)):
            raise DataError(
                f"{config.history}: {pair!r:.80} is not a [user, assistant] pair of texts"
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
