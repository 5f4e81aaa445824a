"""FixMatch (Sohn et al. 2020, arXiv:2001.07685) on features: a head that predicts of a strongly
altered view of a row what it confidently predicts of the row itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from finetune.semisupervised.gan_head import balanced_draw
from finetune.semisupervised.partly_labeled import Floats, PartlyLabeled

_STEPS, _LABELED, _UNLABELED = 400, 64, 448
_THRESHOLD = 0.95
_RATE, _DECAY = 0.03, 5e-4
_SCALE = 10.0  # of vectors of length 1, so that confident predictions need no large weights


def train_fixmatch_head(data: PartlyLabeled, seed: int) -> Floats:
    """Return class probabilities of the unlabeled rows [N, C]."""
    assert data.strong, "the caller computes the strong views"
    labeled, weak = (torch.from_numpy(x) * _SCALE for x in (data.labeled, data.unlabeled))
    strong = torch.from_numpy(np.stack(data.strong)) * _SCALE  # [views, N, H]
    classes, rng = torch.from_numpy(data.classes), np.random.default_rng(seed)
    head = nn.Linear(labeled.shape[1], data.count)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(
        head.parameters(), _RATE, momentum=0.9, nesterov=True, weight_decay=_DECAY
    )
    for _ in range(_STEPS):
        known = balanced_draw(data.classes, rng, _LABELED)
        rows = rng.integers(0, len(weak), _UNLABELED)
        views = rng.integers(0, len(strong), _UNLABELED)
        with torch.no_grad():
            confidence, pseudo = head(weak[rows]).softmax(1).max(1)
        losses = functional.cross_entropy(head(strong[views, rows]), pseudo, reduction="none")
        loss = functional.cross_entropy(head(labeled[known]), classes[known])
        loss = loss + (losses * (confidence >= _THRESHOLD)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found: Floats = head(weak).softmax(1).numpy()
    return found
