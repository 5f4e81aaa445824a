"""What is made of classes of unequal size: a weight of each, and how likely each is beforehand.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from finetune.errors import ConfigError, nearest


def class_weights(
    wanted: Literal["balanced"] | Mapping[str, float] | None,
    names: Sequence[str],
    targets: Sequence[int],
) -> list[float] | None:
    """The weight of each class; balanced ones have a mean of 1 over the rows."""
    if wanted is None:
        return None
    if wanted == "balanced":
        return [float(len(targets) / (len(names) * count)) for count in _counts(names, targets)]
    for name in wanted:
        if name not in names:
            raise ConfigError(f"task.class_weights: {name!r} is no label; {nearest(name, names)}")
    if missing := [name for name in names if name not in wanted]:
        more = ", ".join(f"{name}: 1" for name in missing)
        raise ConfigError(
            f"task.class_weights: has no weight of {', '.join(map(repr, missing))}; add {{{more}}}"
        )
    return [float(wanted[name]) for name in names]


def log_priors(names: Sequence[str], targets: Sequence[int]) -> list[float]:
    """The logarithm of each class's share of the rows."""
    shares = _counts(names, targets) / max(len(targets), 1)
    return [float(logarithm) for logarithm in np.log(shares)]


def _counts(names: Sequence[str], targets: Sequence[int]) -> np.ndarray:
    """The rows of each class [C]; one that has none counts as if it had one."""
    return np.maximum(np.bincount(np.asarray(targets, dtype=int), minlength=len(names)), 1)
