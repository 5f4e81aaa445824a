"""Choice of the columns that make up prompts and answers, by configured keys, values and names.

One sensible reading is taken, with a note; of several, none is: the error lists them with the keys
that choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from finetune.errors import AmbiguityError, DataError, listed, nearest
from tasks.classification.label_columns import (
    TEXT_NAMES,
    TITLE_NAMES,
    find_column,
    is_free_text,
    plain_name,
    prose_columns,
)
from tasks.prompts.messages import chat_mark, is_dialogue
from tasks.prompts.other_sets import Columns, refuse_other_sets, refuse_placeholders
from tasks.prompts.prompt_config import PromptConfig
from tasks.prompts.prompt_names import (
    ANSWERS,
    COLUMN_PAIRS,
    CONTEXT_COLUMNS,
    HISTORY_NAMES,
    MESSAGE_NAMES,
    QUESTION_NAMES,
    SYSTEM_NAMES,
)
from tasks.prompts.templates import resolve_template, template_columns
from tasks.prompts.tools import TOOL_NAMES, tool_faults

Keys = Mapping[str, str | None]
Choice: TypeAlias = tuple[dict[str, str | None], list[str]]
"""Keys with their values, and a note for each choice."""


def choose_prompts(config: PromptConfig, columns: Columns, *, detects: bool = True) -> Choice:
    """Return the keys that select columns, with open ones filled, and a note for each choice made.

    Without `detects`, columns beside a configured prompt or dialogue are read only if configured.
    Raises DataError if keys exclude each other, if no column is suitable, or if the columns have
    several readings or are those of another task.
    """
    for fault in PromptConfig.key_faults(config):
        raise DataError(fault)
    formats = [name for name in ("messages", "text", "prompt") if getattr(config, name) is not None]
    keys, notes = _CHOICES[formats[0]](config, columns) if formats else _detect(config, columns)
    _check_kind(config, keys)
    if keys.get("messages"):
        column = str(keys["messages"])
        refuse_placeholders(column, [v for v in columns[column] if v is not None], columns)
    for key in _BESIDE[next(name for name in ("messages", "prompt", "text") if keys.get(name))]:
        if detects or getattr(config, key) is not None:
            more_keys, more_notes = _CHOICES_BESIDE[key](config, columns, keys)
            keys, notes = keys | more_keys, notes + more_notes
    return keys, notes


def _check_kind(config: PromptConfig, keys: Keys) -> None:
    """Raise DataError for keys of another kind of rows."""
    for key, kinds, what in (
        ("tools", ("messages",), "dialogues; set task.messages"),
        ("history", ("prompt",), "prompts and completions; set task.prompt and task.completion"),
        ("system", ("messages", "prompt"), "dialogues or prompts; set task.messages"),
    ):
        if getattr(config, key) is not None and not any(keys.get(kind) for kind in kinds):
            raise DataError(f"task.{key} requires {what}, or remove task.{key}")


# ---- configured columns


def _configured_messages(config: PromptConfig, columns: Columns) -> Choice:
    column, _ = find_column(config.messages, "messages", columns, (), ())
    return {"messages": column}, []


def _configured_text(config: PromptConfig, columns: Columns) -> Choice:
    return {"text": resolve_template(str(config.text), "task.text", columns)}, []


def _configured_prompt(config: PromptConfig, columns: Columns) -> Choice:
    return {
        name: resolve_template(getattr(config, name), f"task.{name}", columns)
        for name in ("prompt", "completion")
    }, []


_CHOICES: dict[str, Callable[[PromptConfig, Columns], Choice]] = {
    "messages": _configured_messages,
    "text": _configured_text,
    "prompt": _configured_prompt,
}


# ---- columns beside a dialogue or a prompt


def _choose_tools(config: PromptConfig, columns: Columns, keys: Keys) -> Choice:
    """Return {"tools": column} if dialogues have tools, and a note if the column was detected."""
    if config.tools is not None:
        column, _ = find_column(config.tools, "tools", columns, (), ())
        return {"tools": column}, []
    for column in (name for name in TOOL_NAMES if name in columns):
        if any(fault for value in columns[column] for fault in tool_faults(column, value)):
            return {}, [f"tools: column {column!r} is ignored: it does not contain tools"]
        return {"tools": column}, [f"tools: column {column!r}, by its name"]
    return {}, []


def _choose_system(config: PromptConfig, columns: Columns, keys: Keys) -> Choice:
    if config.system is not None:
        is_text = config.system not in columns and not {"{", "}"}.intersection(config.system)
        if is_text and len(config.system.split()) < 2:
            raise DataError(
                f"task.system: {config.system!r} is neither a column, a template nor a text of "
                f"several words; {nearest(config.system, columns)}"
            )
        if is_text:
            return {"system": config.system}, []
        return {"system": resolve_template(config.system, "task.system", columns)}, []
    read = {
        name for key in ("prompt", "completion") for name in template_columns(keys.get(key) or "")
    }
    column = _named(SYSTEM_NAMES, columns, read)
    if column is None:
        return {}, []
    field = _system_field(column, columns[column])
    return {"system": field}, [f"system prompt: column {column!r}, by its name"]


def _system_field(column: str, values: Sequence[Any]) -> str:
    """Return the field of a system prompt: a text, or the only part of a content."""
    path, known = "", [value for value in values if value]
    if all(isinstance(value, Mapping) and value.get("parts") for value in known):
        path, known = "[parts]", [value["parts"] for value in known]
    if all(isinstance(value, list) and len(value) == 1 for value in known):
        path, known = f"{path}[0]", [value[0] for value in known]
    if path and all(isinstance(value, Mapping) and "text" in value for value in known):
        path = f"{path}[text]"
    return f"{{{column}{path}}}"


def _choose_history(config: PromptConfig, columns: Columns, keys: Keys) -> Choice:
    if config.history is not None:
        column, _ = find_column(config.history, "history", columns, (), ())
        return {"history": column}, []
    known = _named(HISTORY_NAMES, columns, ())
    if known is None or not any(columns[known]):
        return {}, []
    return {"history": known}, [f"history: column {known!r}, earlier turns of the dialogue"]


def _named(names: Sequence[str], columns: Columns, read: Any) -> str | None:
    """Return the column with one of these names that has values and is not read already."""
    lowered = {name.lower(): name for name in columns if name not in read}
    found = [lowered[name] for name in names if name in lowered]
    return next((name for name in found if any(columns[name])), None)


# Keys of columns beside dialogues, prompts and texts, in the order of their notes.
_BESIDE = {"messages": ("tools", "system"), "prompt": ("system", "history"), "text": ()}
_CHOICES_BESIDE = {"tools": _choose_tools, "system": _choose_system, "history": _choose_history}


# ---- detection


def _detect(config: PromptConfig, columns: Columns) -> Choice:
    refuse_other_sets(columns)
    lowered = {name.lower(): name for name in columns}
    readings = _prompt_readings(lowered, columns)
    dialogues = [name for name, values in columns.items() if is_dialogue(values)]
    named = [lowered[name] for name in MESSAGE_NAMES if lowered.get(name) in dialogues]
    of_prompts = {
        name for reading in readings for each in reading for name in template_columns(each)
    }
    of_prompts |= {lowered.get(name, "") for name in HISTORY_NAMES} if readings else set()
    if named or (len(dialogues) == 1 and dialogues[0] not in of_prompts):
        column = [*named, *dialogues][0]
        return {"messages": column}, [f"messages: column {column!r}, which contains dialogues"]
    if len(readings) > 1:
        raise AmbiguityError(
            "the columns have several readings; choose one: "
            + ", or ".join(
                f"task.prompt={prompt.strip()!r} task.completion={completion!r}"
                for prompt, completion in readings
            )
        )
    if readings:
        ((prompt, completion),) = readings
        note = f"prompt: {prompt.strip()!r}, completion: {completion!r}, by the columns' names"
        return {"prompt": prompt, "completion": completion}, [note]
    if len(dialogues) > 1:
        keys = ", or ".join(f"task.messages={name}" for name in dialogues)
        raise AmbiguityError(f"several columns hold dialogues; choose one: {keys}")
    return _detect_text(columns)


def _prompt_readings(lowered: Mapping[str, str], columns: Columns) -> list[tuple[str, str]]:
    """Return the (prompt, completion) templates that the names of the columns suggest."""
    pairs = [pair for pair in COLUMN_PAIRS if all(name in lowered for name in pair)]
    if "question" in lowered and _has_answers(lowered, columns):
        pairs.append(("question", "answers"))
    beside = {
        context
        for question, _ in pairs
        for context, _ in CONTEXT_COLUMNS.get(question, ())
        if context in lowered
    }
    pairs = [pair for pair in pairs if pair[0] not in beside]
    return [
        (_prompt_template(question, lowered, columns), _reply(reply, lowered))
        for question, reply in pairs
    ]


def _prompt_template(question: str, lowered: Mapping[str, str], columns: Columns) -> str:
    """Join the question and the columns of its context: "{context}\\n\\n{question}\\n"."""
    fields = [f"{{{lowered[question]}}}"]
    for name, comes_first in CONTEXT_COLUMNS.get(question, ()):
        if name in lowered:
            fields.insert(0 if comes_first else len(fields), f"{{{lowered[name]}}}")
    # A prompt that is formatted as a chat ends where the answer begins.
    is_formatted = any(chat_mark(value) for value in columns[lowered[question]])
    return "\n\n".join(fields) + ("" if is_formatted else "\n")


def _reply(reply: str, lowered: Mapping[str, str]) -> str:
    if reply != ANSWERS[0]:
        return f"{{{lowered[reply]}}}"
    return f"{{{ANSWERS[1].replace(ANSWERS[0], lowered[reply], 1)}}}"


def _has_answers(lowered: Mapping[str, str], columns: Columns) -> bool:
    """True if a column holds the answers of SQuAD, {"text": ["1066", ...], ...}."""
    values = [value for value in columns.get(lowered.get(ANSWERS[0], ""), ()) if value is not None]
    return bool(values) and all(
        isinstance(value, Mapping) and isinstance(value.get("text"), list) for value in values
    )


def _detect_text(columns: Columns) -> Choice:
    prose = prose_columns(columns)
    lowered = {name.lower() for name in columns}
    if len(prose) > 1 and not lowered.intersection(TEXT_NAMES):
        first, second = prose[:2]
        raise AmbiguityError(
            f"columns {listed(map(repr, prose), 6)} hold sentences, and no name says which of them"
            f" is to be written: set task.prompt={first} task.completion={second}, or"
            f" task.prompt={second} task.completion={first}, or task.text=COLUMN for plain text;"
            f" {_nothing_fits(columns, prose)}"
        )
    if len(prose) != 1 and not lowered.intersection(TEXT_NAMES):
        raise DataError(_nothing_fits(columns, prose))
    text, note = find_column(None, "text", columns, TEXT_NAMES, prose)
    known = [value for value in columns[text] if value is not None]
    if known and not any(isinstance(value, str) for value in known):
        raise AmbiguityError(
            f"column {text!r} holds the text by its name, but its values are"
            f" {_kind_of(known, is_prose=False)}, such as {known[0]!r:.80}; write them as text with"
            " data.map=file.py:function"
        )
    if text.lower() in QUESTION_NAMES:
        raise AmbiguityError(
            f"column {text!r} holds prompts by its name, and no column their answers by its name; "
            f"set task.prompt={text} with task.completion=COLUMN, or task.text={text} to learn it "
            "as plain text"
        )
    others = [name for name in prose if name != text and is_free_text(columns[name])]
    if others := [name for name in others if not plain_name(name).endswith(TITLE_NAMES)]:
        raise AmbiguityError(
            f"column {text!r} holds texts by its name, and {listed(map(repr, others), 6)} sentences"
            f" beside it: set task.text={text} to learn the first alone, as plain text, or"
            f" task.prompt={text} task.completion={others[0]}, or task.prompt={others[0]}"
            f" task.completion={text}"
        )
    return {"text": f"{{{text}}}"}, [note] if note else []


def _nothing_fits(columns: Columns, prose: Sequence[str]) -> str:
    """Say what was looked for, what was seen, and which keys choose."""
    pairs = listed((f"{question} and {reply}" for question, reply in COLUMN_PAIRS), 6)
    seen = ", ".join(
        f"{name} ({_kind_of(values, name in prose)})" for name, values in columns.items()
    )
    return (
        f"no layout of text generation fits. Looked for: dialogues, a column of lists of messages "
        f"({', '.join(MESSAGE_NAMES)}); a prompt and a completion by name ({pairs}); plain text "
        f"({', '.join(TEXT_NAMES)}, or a single column of sentences). Columns seen: {seen}. "
        "Set task.messages=COLUMN, or task.prompt and task.completion, or task.text=COLUMN"
    )


def _kind_of(values: Sequence[Any], is_prose: bool) -> str:
    value = next((value for value in values if value is not None), None)
    if isinstance(value, str):
        return "sentences" if is_prose else "short texts"
    kinds = {bool: "booleans", int: "numbers", float: "numbers", list: "lists", dict: "objects"}
    return "empty" if value is None else kinds.get(type(value), type(value).__name__)
