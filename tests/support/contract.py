"""What the engine does with the parts of a task before training, for tests of one task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.task import Task


def resolve(task: Task, columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Choose the columns that a task reads, and let it settle them; the notes on that."""
    found = task.rows.resolve(columns)
    task.settle(found.keys)
    return found.notes
