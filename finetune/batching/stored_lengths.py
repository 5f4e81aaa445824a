"""Lengths of rows that were measured before, such as numbers of tokens, kept by their content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from finetune.batching.content_cache import entry_key, open_entry, store_entry
from finetune.distributed.launch import this_process
from finetune.task import Task
from finetune.task_parts.samples import Length, Lengths

FEWEST_ROWS = 10_000
"""Rows from which lengths are kept: fewer are measured in a second."""
_KIND, _FILE, _NAME = "lengths", "lengths.safetensors", "lengths"


def recall_lengths(
    task: Task, digest: str | None, rows: int, measure: Callable[[], Lengths]
) -> Lengths:
    """Return the lengths of rows from the cache, else measure and keep them.

    `digest` is that of the content of the rows, as the task reads it; None if it is unknown.
    """
    facts = task.views.length_facts() if digest is not None and rows >= FEWEST_ROWS else None
    key = None if facts is None else entry_key(type(task), [digest, rows, facts])
    if key is None:
        return measure()
    known = _read(open_entry(_KIND, key), rows)
    if known is not None:
        return known
    lengths = measure()
    if this_process().is_main_process:
        store_entry(_KIND, key, lambda folder: save_file({_NAME: lengths.array}, folder / _FILE))
    return lengths


def _read(folder: Path | None, rows: int) -> Lengths | None:
    if folder is None:
        return None
    try:
        array = load_file(folder / _FILE)[_NAME]
    except (OSError, SafetensorError, KeyError):
        return None
    is_fitting = array.dtype == np.int32 and array.shape == (rows, len(Length._fields))
    return Lengths(array) if is_fitting else None
