"""Held-out rows that are nearly those of train by cached features."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch

from finetune.batching.data_loader import Split
from finetune.checks.feature_leaks import feature_leak_note


class Cached:
    """Features of rows, as a frozen run keeps them."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = torch.from_numpy(vectors.astype(np.float32))

    def take(self, indices: Any, turns: Any = ()) -> dict[str, torch.Tensor]:
        return {"pooled": self.vectors[list(indices)]}


def split(name: str, vectors: np.ndarray | None, rows: int) -> Split:
    features = None if vectors is None else cast(Any, Cached(vectors))
    return Split(name, cast(Any, range(rows)), np.ones(rows, dtype=np.int64), features)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 32))


def test_rows_with_nearly_the_features_of_train_are_noted(vectors: np.ndarray) -> None:
    train, test = vectors[:200], vectors[200:].copy()
    noise = np.random.default_rng(1).normal(size=(3, 32))
    test[[4, 30, 31]] = train[[7, 8, 9]] + 0.1 * noise
    both = split("train", train, 200), split("test", test, 100)
    note = feature_leak_note(*both, range(201, 301))
    assert note.startswith("warning: leakage: 3 of 100 test rows are nearly those of train")
    assert note.endswith("rows 205, 231, 232")
    others = feature_leak_note(*both, range(201, 301), leaked={205, 231})
    assert others.startswith("warning: leakage: 1 further of 100 test rows")
    assert feature_leak_note(*both, range(201, 301), leaked={205, 231, 232}) == ""


def test_nothing_is_noted_without_near_rows_or_vectors(vectors: np.ndarray) -> None:
    train, test = split("train", vectors[:200], 200), split("test", vectors[200:], 100)
    assert feature_leak_note(train, test, range(100)) == ""
    assert feature_leak_note(train, split("test", None, 100), range(100)) == ""
    tokens = split("test", np.repeat(vectors[200:, None], 4, axis=1), 100)
    assert feature_leak_note(train, tokens, range(100)) == ""
