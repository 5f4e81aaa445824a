"""Choices for texts in Label Studio, read as rows with a text and a label.

    {"data": {"text": "Good."}, "annotations": [{"result": [
        {"type": "choices", "from_name": "sentiment", "value": {"choices": ["Positive"]}}]}]}

gives {"text": "Good.", "label": "Positive"}. With several texts or several choices, the columns
have the names of the fields and of the choices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError
from finetune.task_parts.samples import Row
from tasks.exports.export_files import label_name, naming_file, no_export, only_export, show_count
from tasks.label_studio.studio_tasks import (
    LOOKED_FOR,
    TOOL,
    StudioFile,
    StudioTask,
    find_studio,
    load_studio,
)


def has_studio_texts(path: Path) -> bool:
    """True if a path has an export of texts."""
    try:
        files = [file for some in find_studio(path).values() for file in some]
        return any(load_studio(file).has_texts for file in files)
    except DataError:
        return False


def read_studio_texts(path: Path, config: DataConfig) -> TaskTables:
    """Return rows of text classification by split. Raises DataError."""
    files = find_studio(path)
    if not files:
        raise no_export(path, TOOL, LOOKED_FOR)
    splits: dict[str, list[Row]] = {}
    notes: list[str] = []
    for split, candidates in files.items():
        file = only_export(path, split, candidates)
        with naming_file(file, TOOL, "texts with choices"):
            splits[split], file_notes = _read(file, load_studio(file), config.field)
        notes += file_notes
    return TaskTables(splits, notes)


def _read(file: Path, content: StudioFile, wanted: str | None) -> tuple[list[Row], list[str]]:
    unread = content.unread.copy()
    tasks = [task for task in content.tasks if task.results is not None]
    is_labeled = bool(tasks)
    tasks = tasks or list(content.tasks)
    answers = [dict(choices_of(task, unread)) for task in tasks]
    controls = list(dict.fromkeys(name for each in answers for name in each))
    control = choose_control(file, controls, wanted, unread) if controls else ""
    kept = [(t, a) for t, a in zip(tasks, answers, strict=True) if a.get(control) or not is_labeled]
    unread["tasks without a choice"] += len(tasks) - len(kept)
    if not kept:
        found = content.kinds()
        raise DataError(
            f"{file}: none of its {len(content.tasks)} tasks has a choice; found {found}"
        )
    several = any(len(answer.get(control, ())) > 1 for _, answer in kept)
    text = _text_field(tasks)
    rows = []
    for task, answer in kept:
        row = {text.get(name, name): value for name, value in task.data.items()}
        if is_labeled:
            labels = answer[control]
            row["label" if "label" not in row else control] = labels if several else labels[0]
        rows.append({**row, "file": task.place})
    notes = [f"{file.name}: not read: {show_count(+unread)}"] if +unread else []
    if control:
        field = "".join(f"field {name!r} as text, " for name in text)
        notes.insert(0, f"{file}: read as an export of {TOOL}: {field}choice {control!r} as label")
    return rows, notes


def choose_control(
    file: Path, controls: Sequence[str], wanted: str | None, unread: Counter[str]
) -> str:
    """Choose the control whose choices are the labels; count the others as not read.

    Raises AmbiguityError if there are several and `wanted` (data.field) is not one of them.
    """
    if len(controls) > 1 and wanted not in controls:
        raise AmbiguityError(
            f"{file}: tasks have several choices: {', '.join(controls)}; choose one with"
            f" data.field={controls[0]}"
        )
    control = next((name for name in controls if name == wanted), controls[0])
    unread.update({f"choices of {name!r}": 1 for name in controls if name != control})
    return control


def choices_of(task: StudioTask, unread: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield the choices of each control of a task; count other results."""
    for result in task.results or ():
        choices = result.value.get("choices")
        if result.kind == "choices" and isinstance(choices, list) and "start" not in result.value:
            yield result.control, [label_name(choice) for choice in choices]
        else:
            unread[f"results of type {result.kind}"] += 1


def _text_field(tasks: Sequence[StudioTask]) -> Mapping[str, str]:
    """Return {field: "text"} if the data of the tasks have a single field of text."""
    fields: dict[str, Any] = {}
    for task in tasks:
        fields.update({name: value for name, value in task.data.items() if isinstance(value, str)})
    return dict.fromkeys(fields, "text") if len(fields) == 1 else {}


STUDIO_TEXTS = DataFormat("label-studio", has_studio_texts, read_studio_texts)
