"""Class weights and log priors for imbalanced classes.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from finetune.errors import ConfigError
from tasks.classification.label_config import weight_faults


def class_weights(
    configured: Literal["balanced"] | Mapping[str, float] | None,
    names: Sequence[str],
    targets: np.ndarray,
) -> list[float] | None:
    """Return the weight of each class [C]; balanced weights have a mean of 1 over the rows."""
    if configured is None:
        return None
    if configured == "balanced":
        return [float(len(targets) / (len(names) * count)) for count in _counts(names, targets)]
    for fault in weight_faults(configured, names):
        raise ConfigError(fault)
    return [float(configured[name]) for name in names]


def log_priors(names: Sequence[str], targets: np.ndarray) -> list[float]:
    """Return the logarithm of each class's share of the rows [C]."""
    shares = _counts(names, targets) / max(len(targets), 1)
    return [float(logarithm) for logarithm in np.log(shares)]


def _counts(names: Sequence[str], targets: np.ndarray) -> np.ndarray:
    """Count the rows of each class [C]; a class without rows counts as one row."""
    return np.maximum(np.bincount(np.asarray(targets, dtype=int), minlength=len(names)), 1)
