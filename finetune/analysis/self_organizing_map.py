"""Self-organizing map: a grid of units that is bent into the points, trained in batches.

Kohonen's batch algorithm: in each epoch, a unit becomes the mean of all points, weighted by a
Gaussian of the distance on the grid between it and the point's best-matching unit. It draws no
random numbers: the map starts on the plane of the first two components.

Shapes: N points, D components, U = rows x columns units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MOST_UNITS = 900
EPOCHS = 40
_BLOCK = 4096
_LAST_RADIUS = 0.7  # of the neighborhood, in units of the grid


@dataclass(frozen=True)
class SelfOrganizingMap:
    """A trained map.

    Attributes:
        units: float32 [rows, columns, D].
        cells: row and column of each point's best-matching unit, int64 [N, 2].
        quantization_error: mean distance of a point to its best-matching unit.
        topographic_error: share of points whose two best-matching units are not adjacent.
    """

    units: np.ndarray
    cells: np.ndarray
    quantization_error: float
    topographic_error: float


def train_map(points: np.ndarray, epochs: int = EPOCHS) -> SelfOrganizingMap:
    """Train a map on points [N, D] whose columns are principal components."""
    data = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    rows, columns = _grid_shape(data)
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()  # [U, 2]
    units = _plane(data, places)
    between = torch.cdist(places, places).square()  # [U, U]
    first = max(rows, columns) / 2
    for epoch in range(epochs):
        radius = first * (_LAST_RADIUS / first) ** (epoch / max(epochs - 1, 1))
        sums, counts = _sums_of_units(data, units)
        weights = torch.exp(-between / (2 * radius**2))
        units = (weights @ sums) / (weights @ counts).clamp_min(1e-12)[:, None]
    best, distances = _best_matches(data, units)
    # Adjacent are units that touch on the grid, also at a corner.
    apart = (places[best[:, 0]] - places[best[:, 1]]).abs().amax(1) > 1
    return SelfOrganizingMap(
        units.view(rows, columns, -1).numpy(),
        places[best[:, 0]].long().numpy(),
        float(distances.mean()),
        float(apart.float().mean()),
    )


def unit_distances(units: np.ndarray) -> np.ndarray:
    """Return the mean distance of each unit to the adjacent ones, [rows, columns] (U-matrix)."""
    rows, columns, _ = units.shape
    sums, counts = np.zeros((rows, columns)), np.zeros((rows, columns))
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        left = max(-right, 0)
        here = (slice(0, rows - down), slice(left, columns - max(right, 0)))
        there = (slice(down, rows), slice(left + right, columns + min(right, 0)))
        distances = np.linalg.norm(units[here] - units[there], axis=2)
        for place in (here, there):
            sums[place] += distances
            counts[place] += 1
    return sums / np.maximum(counts, 1)


def _grid_shape(data: Tensor) -> tuple[int, int]:
    """Return rows and columns: about 5 sqrt(N) units, their sides like the data's extents."""
    wanted = min(MOST_UNITS, 5 * math.sqrt(len(data)))
    spread = data.std(0, correction=0)
    ratio = float(spread[1] / spread[0].clamp_min(1e-12)) if data.shape[1] > 1 else 0.5
    rows = max(2, round(math.sqrt(wanted * min(max(ratio, 0.5), 1.0))))
    return rows, max(2, round(wanted / rows))


def _plane(data: Tensor, places: Tensor) -> Tensor:
    """Spread the units over the first two components, two standard deviations to each side."""
    units = data.mean(0).repeat(len(places), 1)
    extent = places.amax(0)
    for axis, component in ((1, 0), (0, 1)):  # the columns along the first component
        if component < data.shape[1]:
            spread = 2 * float(data[:, component].std(correction=0))
            units[:, component] += (2 * places[:, axis] / extent[axis] - 1) * spread
    return units


def _best_matches(data: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two best-matching units of each point, [N, 2], and the distance of the first."""
    found = [
        torch.cdist(block, units).topk(2, largest=False) for block in torch.split(data, _BLOCK)
    ]
    return torch.cat([each.indices for each in found]), torch.cat(
        [each.values[:, 0] for each in found]
    )


def _sums_of_units(data: Tensor, units: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum [U, D] and the number [U] of the points that match each unit best."""
    sums, counts = torch.zeros_like(units), torch.zeros(len(units))
    for block in torch.split(data, _BLOCK):
        best = torch.cdist(block, units).argmin(1)
        sums.index_add_(0, best, block)
        counts += torch.bincount(best, minlength=len(units))
    return sums, counts
