"""Near duplicates across splits by cached features, such as cropped pictures and reworded texts."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from torch.nn.functional import normalize

from finetune.analysis.feature_space import nearest_points
from finetune.batching.data_loader import Split
from finetune.checks.checked_rows import list_rows

NEAR = 0.3
"""Distance of near duplicates as a share of the median distance of two random rows."""
_FEWEST_ROWS = 20  # of each split
_MOST_PRODUCTS = 2e10  # about 1 s
_PAIRS = 10_000


def feature_leak_note(
    train: Split, held_out: Split, numbers: Sequence[int], leaked: Collection[int] = ()
) -> str:
    """Return a note on held-out rows that are nearly those of train by their cached features.

    "" if there are none, or if features are missing, are not one vector a row, or take more than
    seconds to compare. `numbers` are those of the held-out rows in their table; those `leaked` are
    known already.
    """
    if not _is_quick(train, held_out):
        return ""
    known, asked = _vectors(train), _vectors(held_out)
    if known is None or asked is None:
        return ""
    _, distances = nearest_points(asked, known, 1)
    near = np.flatnonzero(distances[:, 0] < NEAR * _usual_distance(known)).tolist()
    found = [int(numbers[position]) for position in near]
    rows = [number for number in found if number not in leaked]
    if not rows:
        return ""
    return (
        f"warning: leakage: {len(rows)} {'further ' if leaked else ''}of {len(held_out)} "
        f"{held_out.name} rows are nearly those of train by their features: {list_rows(rows)}"
    )


def _is_quick(train: Split, held_out: Split) -> bool:
    if train.features is None or held_out.features is None:
        return False
    if min(len(train), len(held_out)) < _FEWEST_ROWS:
        return False
    width = sum(vectors.shape[-1] for vectors in train.features.take([0]).values())
    return len(train) * len(held_out) * width <= _MOST_PRODUCTS


def _vectors(split: Split) -> np.ndarray | None:
    """Return the features of length 1, [N, H]; None if they are not one vector a row."""
    assert split.features is not None
    found = list(split.features.take(range(len(split))).values())
    if len(found) != 1 or found[0].ndim != 2:
        return None
    return np.asarray(normalize(found[0].float(), dim=1).cpu().numpy())


def _usual_distance(vectors: np.ndarray) -> float:
    """Return the median distance of two random rows."""
    pairs = np.random.default_rng(0).integers(0, len(vectors), (_PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    gaps = np.linalg.norm(vectors[pairs[:, 0]] - vectors[pairs[:, 1]], axis=1)
    return float(np.median(gaps))
