"""Balanced sampling: epochs with equally many rows of each class, as a function of position.

Shapes: N rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError
from finetune.task import Task
from finetune.task_parts.rows import shorten


def classes_of(task: Task, rows: Any, key: str) -> np.ndarray:
    """Return the class of each row, int64 [N] from 0, as the config key `key` needs.

    Raises ConfigError if a row does not have exactly one class.
    """
    known: dict[str, int] = {}
    labels = list(task.rows.labels_of(rows))
    if others := [each for each in labels if len(each) != 1]:
        found = shorten(", ".join(others[0])) if others[0] else "none"
        raise ConfigError(
            f"{key}: only for rows with exactly one class, which {len(others)} of {len(labels)} "
            f"rows do not have (the first has {found}); remove the key"
        )
    return np.array([known.setdefault(name, len(known)) for (name,) in labels], dtype=np.int64)


def check_classes(config: RunConfig, task: Task, rows: Any) -> np.ndarray | None:
    """Return the class of each row, int64 [N], if a key is set that needs one; None otherwise.

    Raises ConfigError if a row does not have exactly one class then. Only labels are read, so it
    can run before the network is loaded and features are computed.
    """
    train = config.train
    needed = {
        f"train.semi={train.semi}": train.semi is not None,
        f"train.synthetic={train.synthetic}": train.synthetic is not None,
        "train.sampling=balanced": train.sampling == "balanced" and train.group_by is None,
        "method.contrastive": bool(getattr(config.method, "contrastive", None)),
    }
    key = next((key for key, is_set in needed.items() if is_set), None)
    return None if key is None else classes_of(task, rows, key)


def balanced_rows(classes: np.ndarray, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw N rows, equally many of each class, and how often each was drawn before; int64 [N].

    `classes` are the classes of all rows, int64 [N] from 0. The classes take turns in one endless
    stream; epoch e is its slice from e * N on. A class deals all of its rows, shuffled, before it
    repeats one, so that no row of a large class is missed over the epochs.
    """
    count, members = len(classes), split_by_class(classes)
    rows, turns = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    begin = epoch * count
    for label, class_rows in enumerate(members):
        places = np.arange((label - begin) % len(members), count, len(members))
        turn, card = np.divmod((begin + places) // len(members), len(class_rows))
        turns[places] = turn
        # The turns ascend, so each has a slice of its own: a rare class may have thousands.
        each_turn, starts = np.unique(turn, return_index=True)
        for each, start, end in zip(each_turn, starts, [*starts[1:], len(turn)], strict=True):
            deck = np.random.default_rng([seed, int(each), 0xBA1A, label]).permutation(class_rows)
            rows[places[start:end]] = deck[card[start:end]]
    return rows, turns


def split_by_class(classes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each class."""
    ends = np.cumsum(np.bincount(classes))[:-1]
    return np.split(np.argsort(classes, kind="stable"), ends)
