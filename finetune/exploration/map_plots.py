"""Pictures of an exploration: its maps, the silhouettes, and the self-organizing map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from finetune.analysis.self_organizing_map import SelfOrganizingMap, unit_distances
from finetune.reporting.plots import Drawing

_NAMED = 20  # clusters in a legend; more would fill the picture


def plot_map(coordinates: np.ndarray, clusters: np.ndarray, names: Sequence[str]) -> Drawing:
    """Plot a map [N, 2], each cluster in its color."""
    figure = Drawing(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    size = float(np.clip(20_000 / max(len(coordinates), 1), 1, 16))
    for number, name in enumerate(names):
        own = coordinates[clusters == number]
        label = name.replace("$", r"\$") if number < _NAMED else None
        color = f"C{number % 10}"
        axes.scatter(own[:, 0], own[:, 1], s=size, color=color, linewidths=0, label=label)
    axes.set(xticks=[], yticks=[])
    figure.legend(loc="outside right upper", frameon=False, markerscale=3, fontsize="small")
    return figure


def plot_silhouettes(silhouettes: Mapping[int, float]) -> Drawing:
    """Plot the mean silhouette against the number of clusters."""
    figure = Drawing(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(list(silhouettes), list(silhouettes.values()), marker="o")
    axes.set(xlabel="clusters", ylabel="mean silhouette")
    axes.grid(alpha=0.3)
    return figure


def plot_units(trained: SelfOrganizingMap) -> Drawing:
    """Plot how far each unit is from the adjacent ones, and how many rows it matches best."""
    figure = Drawing(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    hits = np.zeros(trained.units.shape[:2])
    np.add.at(hits, tuple(trained.cells.T), 1)
    panels = (
        (left, unit_distances(trained.units), "distance to adjacent units"),
        (right, hits, "rows"),
    )
    for axes, values, title in panels:
        figure.colorbar(axes.imshow(values, cmap="viridis"), ax=axes)
        axes.set(title=title, xticks=[], yticks=[])
    return figure
