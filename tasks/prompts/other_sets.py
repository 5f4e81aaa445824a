"""Data sets of related tasks that would pass as dialogues or prompts, refused by name.

They are recognized by their columns. Explicit keys (task.prompt, task.messages, task.text) read
them nonetheless, as the messages here say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import AmbiguityError, DataError, listed
from tasks.cells.choice_columns import find_answer, find_choices
from tasks.prompts.messages import ROLE_KEYS, ROLES, is_dialogue, media_parts, message_list

Columns = Mapping[str, Sequence[Any]]

# Column of preferred answers -> names of the column of rejected ones.
PREFERENCES = {
    "chosen": ("rejected", "reject"),
    "chosen_response": ("rejected_response",),
    "preferred_output": ("non_preferred_output",),
    "accepted": ("rejected",),
    "messages": ("rejected_response", "rejected_messages", "rejected"),
    "conversations": ("rejected",),
    "response": ("rejected", "rejected_response"),
}
# Words of two columns: chosen_messages, rejected_messages; response_win, response_lose.
PREFERENCE_WORDS = (
    ("chosen", "rejected"),
    ("chosen", "reject"),
    ("accepted", "rejected"),
    ("preferred", "rejected"),
    ("preferred", "dispreferred"),
    ("preferred", "non_preferred"),
    ("winner", "loser"),
    ("win", "lose"),
)
_DIALOGUES = ("messages", "conversations", "conversation", "history", "context")
VERDICTS = ("label", "kto_tag", "labels")
MEDIA_WORDS = ("image", "video", "audio", "file", "document")
MEDIA_NAMES = ("image", "images", "image_path", "img", "video", "videos", "audio", "audios")
PLACEHOLDERS = ("<image>", "<video>", "<audio>", "<|image|>", "<image_soft_token>")
_EXAMPLE = {"input", "output"}
TRUTH_VALUES = {True, False, "true", "false", "True", "False"}


def refuse_other_sets(columns: Columns) -> None:
    """Raise AmbiguityError if the columns are those of another task; it names the keys to use."""
    lowered = {name.lower(): name for name in columns}
    checks = (_preference, _verdicts, _media, _choices, _instances, _turns, _translation, _pairs)
    for check in checks:
        message = check(lowered, columns)
        if message:
            raise AmbiguityError(message)


def refuse_placeholders(column: str, dialogues: Sequence[Any], columns: Columns) -> None:
    """Raise DataError if dialogues mark the places of pictures that text generation does not see.

    Even a configured column of dialogues is refused: "<image>" would be learned as text.
    """
    parts = set().union(*map(media_parts, dialogues))
    if parts:
        raise DataError(
            f"task.messages={column}: messages have {_parts_in_words(parts)}; drop these rows or "
            "parts with data.map=file.py:function"
        )
    media = [name for name in columns if name.lower() in MEDIA_NAMES]
    texts = [text for dialogue in dialogues for text in _texts(message_list(dialogue))]
    marks = [mark for mark in PLACEHOLDERS if any(mark in text for text in texts)]
    if media and marks:
        raise DataError(
            f"task.messages={column}: messages contain {marks[0]}, the place of a picture of "
            f"column {media[0]!r}, which text generation does not read; drop these rows with "
            "data.map=file.py:function"
        )


def _preference(lowered: Mapping[str, str], columns: Columns) -> str:
    for chosen, rejected in _preference_pairs(lowered):
        answers = [value for name in (chosen, rejected) for value in columns[name]]
        if all(value is None or isinstance(value, bool | int | float) for value in answers):
            continue  # ratings, or which of two answers is chosen
        keys = _alone(chosen, lowered, columns)
        alone = f"{keys} learns the preferred answers alone"
        if not keys:
            alone = "write the preferred answers as text or messages with data.map=file.py:function"
        return (
            f"a preference set: column {chosen!r} holds preferred answers, {rejected!r} "
            f"rejected ones, and learning from both (DPO) is not a task of this kit; {alone}"
        )
    return ""


def _preference_pairs(lowered: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the columns of preferred and of rejected answers, by their names."""
    for chosen, others in PREFERENCES.items():
        for other in others:
            if chosen in lowered and other in lowered:
                yield lowered[chosen], lowered[other]
    for word, counterpart in PREFERENCE_WORDS:
        for name in lowered:
            words = re.split(r"([^a-z]+)", name)
            if word in words:
                words[words.index(word)] = counterpart
                if "".join(words) in lowered:
                    yield lowered[name], lowered["".join(words)]


def _alone(column: str, lowered: Mapping[str, str], columns: Columns) -> str:
    """Return the keys that read the preferred answers without the rejected ones; "" if none do."""
    others = {name: lowered[name] for name in lowered if lowered[name] != column}
    asked = [others[name] for name in ("prompt", "question") if name in others]
    asked += [
        others[name] for name in _DIALOGUES if is_dialogue(columns.get(others.get(name, ""), ()))
    ]
    prompt = next(iter(asked), None)
    if is_dialogue(columns[column]):
        whole = any(len(message_list(value)) > 1 for value in columns[column] if value)
        if whole or prompt is None:
            return f"task.messages={column}"
    elif not all(value is None or isinstance(value, str) for value in columns[column]):
        return ""
    if prompt is not None:
        return f"task.prompt={prompt} task.completion={column}"
    return f"task.text={column}"


def _verdicts(lowered: Mapping[str, str], columns: Columns) -> str:
    verdict = next((lowered[name] for name in VERDICTS if name in lowered), None)
    replies = [name for name in ("completion", "response", "answer", "output") if name in lowered]
    dialogues = [name for name, values in columns.items() if is_dialogue(values)]
    if verdict is None or not (dialogues or ("prompt" in lowered and replies)):
        return ""
    values = [value for value in columns[verdict] if value is not None]
    is_verdict = values and all(
        isinstance(value, bool | str) and value in TRUTH_VALUES for value in values
    )
    if not is_verdict:
        return ""
    keys = (
        f"task.messages={dialogues[0]}"
        if dialogues and not replies
        else f"task.prompt={lowered['prompt']} task.completion={lowered[replies[0]]}"
        if "prompt" in lowered and replies
        else f"task.messages={dialogues[0]}"
    )
    return (
        f"a set of answers with verdicts: column {verdict!r} says whether an answer is wanted, and "
        f"learning from both kinds (KTO) is not a task of this kit; {keys} learns every answer, "
        "unwanted ones too, unless data.map=file.py:function drops those"
    )


def _media(lowered: Mapping[str, str], columns: Columns) -> str:
    parts = {part for values in columns.values() for value in values for part in media_parts(value)}
    media = [lowered[name] for name in MEDIA_NAMES if name in lowered]
    media = [name for name in media if any(map(_is_media, columns[name]))]
    if not (parts or media):
        return ""
    if not media:
        found = _parts_in_words(parts)
        return f"{found}; drop these parts with data.map=file.py:function to learn the texts alone"
    remedy = "name their columns with task.prompt and task.completion, or task.text"
    if any(map(is_dialogue, columns.values())):
        remedy = "drop the pictures and the marks of their places with data.map=file.py:function"
    return (
        f"an image-and-text set (column {media[0]!r}): text generation reads text only; to learn "
        f"the texts alone, {remedy}"
    )


def _parts_in_words(parts: Collection[str]) -> str:
    """Say which parts of messages text generation does not read."""
    found = f"parts of type {listed(sorted(parts), 3)}"
    if any(word in part for part in parts for word in MEDIA_WORDS):
        return f"{found}, so this is an image-and-text set, and text generation reads text only"
    return f"{found}, which are not read: those of text, reasoning and tool calls are"


def _is_media(value: Any) -> bool:
    """True for an image or another file, as bytes, as a path, or in a list."""
    if isinstance(value, list):
        return any(map(_is_media, value))
    if isinstance(value, Mapping):
        return "bytes" in value or "path" in value or "array" in value
    if isinstance(value, str):
        endings = (*IMAGE_ENDINGS, ".mp4", ".wav", ".mp3", ".flac", ".avi", ".webm")
        return value.lower().endswith(endings) or value.startswith("data:image/")
    return value is not None and not isinstance(value, int | float | bool)


def _choices(lowered: Mapping[str, str], columns: Columns) -> str:
    choices, answer = find_choices(columns), find_answer(columns)
    if not choices:
        return ""
    found = f"a multiple-choice set (choices: {listed(map(repr, choices), 4)})"
    if answer is None or "question" not in lowered:
        return f"{found}; write the prompt and the answer as columns with data.map=file.py:function"
    shown, by_text = f"{{{choices[0]}}}", f", or '{{{choices[0]}@{answer}}}' for its text"
    if len(choices) > 1:
        shown, by_text = "\\n".join(f"{name}. {{{name}}}" for name in choices), ""
    return (
        f"{found}, whose answer may be learned as a letter or as a text: "
        f'task.prompt="{{{lowered["question"]}}}\\n{shown}" with '
        f"task.completion='{{{answer}:letter}}' for the letter{by_text}"
    )


def _instances(lowered: Mapping[str, str], columns: Columns) -> str:
    """Refuse lists of {"input", "output"} beside an instruction, which are no turns of a dialogue.

    Self-Instruct: {"instruction": "Translate.", "instances": [{"input": "one", "output": "eins"}]}
    """
    asked = next((lowered[name] for name in ("instruction", "task") if name in lowered), None)
    for name, values in columns.items() if asked is not None else ():
        items = [item for value in values if isinstance(value, list) for item in value]
        if items and all(isinstance(item, Mapping) and {*item} == _EXAMPLE for item in items):
            return (
                f"column {name!r} holds lists of examples of the instruction in {asked!r}: "
                f"task.prompt='{{{asked}}}\\n\\n{{{name}[0][input]}}' "
                f"task.completion='{{{name}[0][output]}}' learns the first of each row, "
                "data.map=file.py:function makes a row of each, or task.messages="
                f"{name} reads them as turns of a dialogue without the instruction"
            )
    return ""


def _turns(lowered: Mapping[str, str], columns: Columns) -> str:
    """Refuse tables with a turn a row, such as the trees of messages of OpenAssistant."""
    for column in (lowered[key] for key in ROLE_KEYS if key in lowered):
        seen = {str(value).strip().lower() for value in columns[column] if value is not None}
        if {"user", "assistant"} <= {ROLES.get(word) for word in seen}:
            roles = ", ".join(sorted(seen))
            return (
                f"column {column!r} holds the role of a single turn ({roles}), so "
                "the turns of a dialogue are in several rows; make one row of them, with a column "
                'messages of objects {"role": ..., "content": ...}, or set task.text=COLUMN to '
                "learn each turn as a text on its own"
            )
    return ""


def _translation(lowered: Mapping[str, str], columns: Columns) -> str:
    column = lowered.get("translation")
    values = [value for value in columns.get(column or "", ()) if value is not None]
    if column is None or not values or not isinstance(values[0], Mapping):
        return ""
    languages = list(values[0])
    readings = [
        f"task.prompt='{{{column}.{a}}}' task.completion='{{{column}.{b}}}' from {a} to {b}"
        for a, b in (languages[:2], languages[1::-1])
        if len(languages) > 1
    ]
    return (
        f"a translation set (column {column!r}: {listed(languages, 6)}), whose direction is "
        f"undecided: {', or '.join(readings)}"
    )


def _pairs(lowered: Mapping[str, str], columns: Columns) -> str:
    if not {"anchor", "positive"} <= lowered.keys():
        return ""
    return (
        f"a set of text pairs for embeddings (columns {lowered['anchor']!r} and "
        f"{lowered['positive']!r}), which is not text to generate; to learn to write the second "
        f"from the first, set task.prompt={lowered['anchor']} "
        f"task.completion={lowered['positive']}"
    )


def _texts(dialogue: Any) -> list[str]:
    messages = dialogue if isinstance(dialogue, list) else []
    return [
        item
        for message in messages
        if isinstance(message, Mapping)
        for item in message.values()
        if isinstance(item, str)
    ]
