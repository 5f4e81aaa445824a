"""SMOTE: synthetic rows on the lines between neighbors of a class (Chawla et al. 2002, JAIR 16)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

import numpy as np

from finetune.errors import ConfigError

INSTALL = "pip install 'finetune-kit[imbalance]'"
NEIGHBORS = 5


def check_smote(classes: np.ndarray, wanted: Mapping[int, int]) -> None:
    """Raise ConfigError without the library, and for a wanted class with a single row."""
    if find_spec("imblearn") is None:
        raise ConfigError(f"train.synthetic=smote: imbalanced-learn is not installed; {INSTALL}")
    sizes = np.bincount(classes)
    if any(sizes[label] < 2 for label in wanted):
        raise ConfigError(
            "train.synthetic=smote: a class has a single row, and SMOTE needs two to interpolate "
            "between; add rows of it, or use train.sampling=balanced"
        )


def interpolate_rows(
    features: np.ndarray, classes: np.ndarray, wanted: Mapping[int, int], seed: int
) -> dict[int, np.ndarray]:
    """Return `wanted` synthetic vectors of each class, float32 [M, H], by imbalanced-learn.

    Raises ConfigError as check_smote does.
    """
    check_smote(classes, wanted)
    from imblearn.over_sampling import SMOTE

    sizes = np.bincount(classes)
    fewest = min(int(sizes[label]) for label in wanted)
    method = SMOTE(
        sampling_strategy={label: int(sizes[label]) + count for label, count in wanted.items()},
        k_neighbors=min(NEIGHBORS, fewest - 1),
        random_state=seed % 2**32,
    )
    vectors, labels = method.fit_resample(features, classes)
    added, of_added = vectors[len(features) :], labels[len(features) :]
    return {label: added[of_added == label].astype(np.float32) for label in wanted}
