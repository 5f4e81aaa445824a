"""Ranking of rows by how doubtful their label is (confident learning, arXiv:1911.00068)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from finetune.errors import ConfigError
from finetune.task_parts.views import LabelScores

INSTALL = "pip install 'finetune-kit[report]'"


def has_cleanlab() -> bool:
    """True if the library that ranks labels is installed."""
    return find_spec("cleanlab") is not None


def load_cleanlab() -> Any:
    """Import the filters of cleanlab. Raises ConfigError if it is not installed."""
    try:
        from cleanlab import filter as filters
    except ModuleNotFoundError as error:
        raise ConfigError(f"label issues: cleanlab is not installed; {INSTALL}") from error
    return filters


def rank_doubtful(scores: LabelScores) -> list[int]:
    """Return the positions of rows with a suspicious label, the most suspicious first.

    The probabilities must be of a model that did not learn from these rows.
    """
    filters = load_cleanlab()
    labels: Any = scores.truth.argmax(1)
    if not scores.exclusive:
        labels = [np.flatnonzero(row).tolist() for row in scores.truth]
    found = filters.find_label_issues(
        labels,
        scores.scores.astype(np.float64),
        filter_by="prune_by_class",  # of cleanlab's filters the best in benchmarks/label_errors.py
        return_indices_ranked_by="self_confidence",
        multi_label=not scores.exclusive,
        n_jobs=1,
    )
    return [int(position) for position in found]
