"""Conditional GAN on feature vectors, which makes vectors of rare classes.

The generator adds a residual to the mean of a class, and learns residuals from all classes: how
rows of frequent classes vary about their mean tells how those of rare ones might. The critic has
spectral norm (Miyato et al. 2018, arXiv:1802.05957), a hinge loss, and a penalty on its gradient at
real vectors (Mescheder et al. 2018, arXiv:1801.04406). All randomness is a function of the seed.

Shapes: B vectors in a batch, H features, Z noise, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

NOISE, HIDDEN, BATCH = 64, 256, 128
STEPS, CRITIC_STEPS = 300, 1
MAKER_RATE, CRITIC_RATE, PENALTY = 1e-4, 2e-3, 0.1


def generate_rows(
    features: np.ndarray, classes: np.ndarray, wanted: Mapping[int, int], seed: int
) -> dict[int, np.ndarray]:
    """Train on vectors [N, H] of classes [N]; return `wanted` new ones of each class, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        values, labels = torch.from_numpy(features), torch.from_numpy(classes)
        means = torch.stack(
            [values[labels == each].mean(0) for each in range(int(classes.max()) + 1)]
        )  # [C, H]
        scale = (values - means[labels]).std(0).clamp(min=1e-6)  # [H], within the classes
        scaled, means = values / scale, means / scale
        generator = _train(scaled, labels, means)
        with torch.no_grad():
            centers = {label: means[[label] * count] for label, count in wanted.items()}
            return {
                label: ((each + generator(each)) * scale).numpy() for label, each in centers.items()
            }


class _Generator(nn.Module):
    """Residuals about centers [B, H]: a Gaussian along the directions of real ones, then an MLP.

    From noise alone, so short a training ends in one or two directions.
    """

    def __init__(self, residuals: Tensor) -> None:
        super().__init__()
        width, count = residuals.shape[1], min(NOISE, *residuals.shape)
        _, spread, directions = torch.linalg.svd(residuals, full_matrices=False)
        self.axes = nn.Parameter(spread[:count, None] / len(residuals) ** 0.5 * directions[:count])
        last = nn.Linear(HIDDEN, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(2 * width, HIDDEN), nn.LeakyReLU(0.2), last)

    def forward(self, centers: Tensor) -> Tensor:
        start = torch.randn(len(centers), len(self.axes)) @ self.axes
        return start + self.layers(torch.cat([start, centers], 1))  # type: ignore[no-any-return]


def _train(values: Tensor, labels: Tensor, means: Tensor) -> nn.Module:
    """Train a generator of residuals on values [N, H] with labels [N]."""
    width, residuals = values.shape[1], values - means[labels]
    generator = _Generator(residuals)
    critic = nn.Sequential(
        spectral_norm(nn.Linear(2 * width, HIDDEN)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(HIDDEN, HIDDEN)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(HIDDEN, 1)),
    )
    makes = torch.optim.Adam(generator.parameters(), MAKER_RATE, betas=(0.5, 0.9))
    judges = torch.optim.Adam(critic.parameters(), CRITIC_RATE, betas=(0.5, 0.9))
    for _ in range(STEPS):
        for _ in range(CRITIC_STEPS):
            rows = torch.randint(len(values), (BATCH,))
            centers = means[labels[rows]]
            real = residuals[rows].requires_grad_()
            with torch.no_grad():
                fake = generator(centers)
            judged = critic(torch.cat([real, centers], 1))
            hinge = (1 - judged).relu() + (1 + critic(torch.cat([fake, centers], 1))).relu()
            (gradient,) = torch.autograd.grad(judged.sum(), real, create_graph=True)
            loss = hinge.mean() + PENALTY / 2 * gradient.square().sum(1).mean()
            judges.zero_grad()
            loss.backward()
            judges.step()
        centers = means[labels[torch.randint(len(values), (BATCH,))]]
        loss = -critic(torch.cat([generator(centers), centers], 1)).mean()
        makes.zero_grad()
        loss.backward()
        makes.step()
    return generator
