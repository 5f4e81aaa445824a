"""Synthetic feature vectors that bring every class to the size of the largest one.

They extend the cached features of the training split. A synthetic row has the target of a real row
of its class, and stands in its place wherever a row is read.

Shapes: N real rows, M synthetic ones, H features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from finetune.batching.data_loader import Features, Split
from finetune.errors import ConfigError
from finetune.robustness.feature_gan import generate_rows
from finetune.robustness.smote import check_smote, interpolate_rows
from finetune.task_parts.samples import Sample

GENERATORS = {"smote": interpolate_rows, "gan": generate_rows}


@dataclass(frozen=True)
class ExtendedFeatures:
    """Features of real rows, followed by synthetic ones.

    Attributes:
        name: of the only feature.
        synthetic: float32 [M, H].
        parents: real row [M] whose target each synthetic row has.
    """

    real: Features
    rows: int
    name: str
    synthetic: Tensor
    parents: np.ndarray

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]:
        places = self._real_rows(indices)
        values = self.real.take(places, turns)[self.name].clone()
        for position, index in enumerate(indices):
            if index >= self.rows:
                values[position] = self.synthetic[index - self.rows]
        return {self.name: values}

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        return self.real.samples(self._real_rows(indices))

    def _real_rows(self, indices: Sequence[int]) -> list[int]:
        return [
            index if index < self.rows else int(self.parents[index - self.rows])
            for index in indices
        ]


def check_synthetic(kind: Literal["smote", "gan"], classes: np.ndarray) -> None:
    """Raise ConfigError if no rows of these classes, int64 [N] from 0, can be made."""
    if kind == "smote" and (wanted := missing_rows(classes)):
        check_smote(classes, wanted)


def missing_rows(classes: np.ndarray) -> dict[int, int]:
    """Return how many rows each smaller class lacks to the size of the largest one."""
    sizes = np.bincount(classes)
    missing = {label: int(sizes.max() - size) for label, size in enumerate(sizes)}
    return {label: count for label, count in missing.items() if count}


def extend_split(
    split: Split, classes: np.ndarray, kind: Literal["smote", "gan"], seed: int
) -> tuple[Split, str]:
    """Add synthetic rows to a split with cached features; also return a note.

    `classes` are those of all rows, int64 [N] from 0. The first process makes the rows for all.
    Raises ConfigError without cached features of one vector a row.
    """
    values = {} if split.features is None else split.features.take(range(len(split)))
    if [value.ndim for value in values.values()] != [2]:
        raise ConfigError(
            f"train.synthetic={kind}: extends cached features of one vector a row; use "
            "method=frozen with a head on one vector (task.head=pooled) and method.cache=auto"
        )
    assert split.features is not None
    ((name, vectors),) = values.items()
    sizes, wanted = np.bincount(classes), missing_rows(classes)
    if not wanted:
        return split, "synthetic rows: none, all classes have the same size"
    made: list[Any] = [GENERATORS[kind](vectors.numpy(), classes, wanted, seed)]
    broadcast_object_list(made)
    synthetic = torch.from_numpy(np.concatenate([made[0][label] for label in wanted]))
    parents = np.concatenate(
        [np.resize(np.flatnonzero(classes == label), count) for label, count in wanted.items()]
    )
    places = [*range(len(split)), *parents.tolist()]
    rows: Any = split.rows
    numbers = split.positions
    extended = replace(
        split,
        rows=rows.select(places),
        lengths=split.lengths[places],
        features=ExtendedFeatures(split.features, len(split), name, synthetic, parents),
        positions=places if numbers is None else [numbers[place] for place in places],
        memo={},
    )
    note = (
        f"synthetic rows: {len(parents)} by {kind}, for {len(wanted)} classes, so that all have "
        f"{sizes.max()} rows; the smallest had {sizes.min()}"
    )
    return extended, note
