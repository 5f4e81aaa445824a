"""Steps that the engine takes with a task before training, for tests of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.task import Task


def resolve(task: Task, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Choose the columns that a task reads and settle them in the task; return the notes."""
    resolved = task.rows.resolve(columns)
    task.settle(resolved.keys)
    return resolved.notes
