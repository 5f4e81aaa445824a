"""A GAN head: a classifier of C classes and "fake", against a generator of fake feature vectors.

After GAN-BERT (Croce et al. 2020, aclanthology.org/2020.acl-main.191): unlabeled rows must not look
fake, which moves the boundaries between classes to where no rows are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.semisupervised.partly_labeled import Floats, Indices, PartlyLabeled

_STEPS, _BATCH, _RATE = 200, 64, 1e-3
_NOISE, _HIDDEN, _DROPOUT = 100, 256, 0.2


class _Discriminator(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, _HIDDEN), nn.LeakyReLU(0.2))
        self.drop = nn.Dropout(_DROPOUT)
        self.logits = nn.Linear(_HIDDEN, classes + 1)  # the last one is "fake"

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(self.drop(vectors))
        return hidden, self.logits(self.drop(hidden))


def train_gan_head(data: PartlyLabeled, seed: int) -> Floats:
    """Return class probabilities of the unlabeled rows [N, C]."""
    width = data.labeled.shape[1]
    scale = width**0.5  # so that a feature is about 1
    labeled, unlabeled = (torch.from_numpy(each) * scale for each in (data.labeled, data.unlabeled))
    classes = torch.from_numpy(data.classes)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = _Discriminator(width, data.count)
        forger = nn.Sequential(
            nn.Linear(_NOISE, _HIDDEN), nn.LeakyReLU(0.2), nn.Linear(_HIDDEN, width)
        )
        judge_steps = torch.optim.AdamW(judge.parameters(), _RATE)
        forger_steps = torch.optim.AdamW(forger.parameters(), _RATE)
        for _ in range(_STEPS):
            known = balanced_draw(data.classes, rng)
            real = unlabeled[rng.integers(0, len(unlabeled), _BATCH)]
            fake = forger(torch.randn(_BATCH, _NOISE))
            loss = _judge_loss(judge, labeled[known], classes[known], real, fake.detach())
            _step(judge_steps, loss)
            _step(forger_steps, _forger_loss(judge, real, fake))
        judge.eval()
        with torch.no_grad():
            found: Floats = judge(unlabeled)[1][:, :-1].softmax(1).numpy()
    return found


def balanced_draw(classes: Indices, rng: np.random.Generator, size: int = _BATCH) -> Indices:
    """Draw labeled rows with replacement, each class as often as the others on average."""
    chances = 1 / np.bincount(classes)[classes]
    return rng.choice(len(classes), size, p=chances / chances.sum())


def _judge_loss(
    judge: _Discriminator, labeled: Tensor, classes: Tensor, real: Tensor, fake: Tensor
) -> Tensor:
    supervised = functional.cross_entropy(judge(labeled)[1][:, :-1], classes)
    not_fake = _log_real(judge(real)[1]).mean()
    is_fake = judge(fake)[1].log_softmax(1)[:, -1].mean()
    total: Tensor = supervised - not_fake - is_fake
    return total


def _forger_loss(judge: _Discriminator, real: Tensor, fake: Tensor) -> Tensor:
    """Return the loss of being found out, and the distance between mean hidden features."""
    hidden, logits = judge(fake)
    with torch.no_grad():
        wanted = judge(real)[0].mean(0)
    matched: Tensor = functional.mse_loss(hidden.mean(0), wanted)
    return matched - _log_real(logits).mean()


def _log_real(logits: Tensor) -> Tensor:
    """Return the log probability of any class but "fake", [B]."""
    return logits[:, :-1].logsumexp(1) - logits.logsumexp(1)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
