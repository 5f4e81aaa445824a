"""Which rows an epoch draws where classes are of unequal size: as many of each, by position alone.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.errors import ConfigError
from finetune.task import Task


def classes_of(task: Task, rows: Any, key: str) -> np.ndarray:
    """The class of each row, int64 [N] from 0, which `key` of the config needs.

    Raises ConfigError for rows that do not have one class.
    """
    known: dict[str, int] = {}
    task_rows = task.rows
    found = [task_rows.labels(row) for row in rows]
    if any(len(own) != 1 for own in found):
        raise ConfigError(
            f"{key}: the rows of this task do not have one class each here; leave it out"
        )
    return np.array([known.setdefault(own, len(known)) for (own,) in found], dtype=np.int64)


def balanced_rows(classes: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """N rows, as many of each class, and how often each was drawn before; both int64 [N].

    `classes` are those of all rows, int64 [N] from 0. They take turns in one endless stream, of
    which epoch e is what stands from e * N on. A class deals all of its rows, shuffled, before it
    deals one of them again: over the epochs no row of a large class is left out.
    """
    count, members = len(classes), split_by_class(classes)
    rows, turns = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    begin = epoch * count
    for own, dealt in enumerate(members):
        places = np.arange((own - begin) % len(members), count, len(members))
        turn, card = np.divmod((begin + places) // len(members), len(dealt))
        turns[places] = turn
        for again in np.unique(turn).tolist():
            deck = np.random.default_rng([seed, again, 0xBA1A, own]).permutation(dealt)
            now = turn == again
            rows[places[now]] = deck[card[now]]
    return rows, turns


def split_by_class(classes: np.ndarray) -> list[np.ndarray]:
    """The rows of each class."""
    ends = np.cumsum(np.bincount(classes))[:-1]
    return np.split(np.argsort(classes, kind="stable"), ends)
