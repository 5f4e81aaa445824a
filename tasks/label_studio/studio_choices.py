"""Choices for images in Label Studio, read as images with labels.

    {"data": {"image": "/data/upload/1/1a2b3c4d-1.jpg"}, "annotations": [{"result": [
        {"type": "choices", "from_name": "animal", "value": {"choices": ["cat"]}}]}]}

A field of the data with the path of an image is the image; `data.field` names the choice if there
are several.
"""

from __future__ import annotations

from pathlib import Path

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks.exports.export_files import naming_file
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.label_studio.studio_images import image_key
from tasks.label_studio.studio_tasks import (
    LOOKED_FOR,
    TOOL,
    StudioFile,
    find_studio,
    load_studio,
)
from tasks.label_studio.studio_texts import choices_of, choose_control
from tasks.objects.annotated import AnnotatedImage


def find_studio_choices(path: Path) -> dict[str, list[Path]]:
    """Return the exports by split if they have choices for images; {} otherwise."""
    files = find_studio(path)
    try:
        loaded = [load_studio(file) for some in files.values() for file in some]
    except DataError:  # which reading them reports
        return files
    return files if loaded and not any(each.has_texts for each in loaded) else {}


def read_studio_choices(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split with their labels, and notes. Raises DataError."""
    return read_exports(path, find_studio(path), _read_file, config, TOOL, LOOKED_FOR)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    with naming_file(file, TOOL, "images with choices"):
        return _read(file, split, load_studio(file), config)


def _read(file: Path, split: str, content: StudioFile, config: DataConfig) -> Reading:
    reading = Reading(unread=content.unread.copy())
    tasks = [task for task in content.tasks if task.results is not None]
    answers = [dict(choices_of(task, reading.unread)) for task in tasks]
    controls = list(dict.fromkeys(name for each in answers for name in each))
    if not controls:
        raise DataError(
            f"{file}: none of its {len(content.tasks)} tasks has a choice; found {content.kinds()}"
        )
    control = choose_control(file, controls, config.field, reading.unread)
    wanted = None if config.field in controls else config.field
    key = image_key(file, tasks[0], wanted)
    for task, answer in zip(tasks, answers, strict=True):
        name = task.data.get(key)
        if not isinstance(name, str):
            raise TypeError(f"{task.place} has the image {name!r:.60}, not a path")
        labels = answer.get(control)
        reading.add(AnnotatedImage("", name, place=task.place, labels=labels), split)
    reading.notes += find_images(file, reading.splits, config)
    return reading
