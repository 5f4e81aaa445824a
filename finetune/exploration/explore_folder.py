"""Results of an exploration, and the folder that they are written to.

index.html         map of the rows, to open in a browser without network
explore.parquet    per row: coordinates, clusters, unit of the map, outlier score
explore.json       the figures that are printed
features.parquet   the vectors, reused when the command is repeated
*.png              maps, silhouettes, self-organizing map, mosaics of pictures
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from matplotlib.figure import Figure
from PIL import Image

from finetune.analysis.clusters import agreement
from finetune.audit.shown_rows import as_data_url
from finetune.errors import ConfigError, format_count
from finetune.exploration.explore_page import MapColor, write_page
from finetune.exploration.explored_rows import ExploredRows
from finetune.exploration.map_plots import plot_map, plot_silhouettes, plot_units
from finetune.exploration.row_analysis import RowAnalysis
from finetune.exploration.thumbnails import save_mosaic
from finetune.io.files import atomic, write_json
from finetune.reporting.console import Console

_OUTLIERS = 5  # that are printed
_PREVIEW = 80  # characters of a row
_IN_LEGEND = 5  # pictures of a cluster


@dataclass(frozen=True)
class Exploration:
    """What was found about the rows.

    Attributes:
        rows: their numbers in the table, from 0, int64 [N].
        names: a name of each k-means cluster.
        thumbnails: pictures of rows, by index.
        typical: indices of the rows nearest to each center.
    """

    title: str
    seed: int
    rows: np.ndarray
    described: ExploredRows
    analysis: RowAnalysis
    names: Sequence[str]
    thumbnails: Mapping[int, Image.Image]
    typical: Sequence[Sequence[int]]

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of the exploration, JSON-able."""
        analysis = self.analysis
        silhouettes = analysis.clusters.silhouettes
        count = len(self.names)
        units = analysis.trained_map.units.shape
        figures: dict[str, Any] = {
            "rows": len(self.rows),
            "seed": self.seed,
            "components": analysis.points.shape[1],
            "explained_variance": round(analysis.explained, 4),
            "clusters": count,
            "silhouettes": {str(k): round(value, 4) for k, value in silhouettes.items()},
            "hdbscan": {
                "clusters": int(analysis.dense.max()) + 1,
                "noise": round(float((analysis.dense < 0).mean()), 4),
            },
            "self_organizing_map": {
                "rows": units[0],
                "columns": units[1],
                "quantization_error": round(analysis.trained_map.quantization_error, 4),
                "topographic_error": round(analysis.trained_map.topographic_error, 4),
            },
            "near_duplicates": int((analysis.duplicate_of >= 0).sum()),
        }
        if labels := self.described.labels:
            known = [index for index, label in enumerate(labels) if label]
            truth = [labels[index] for index in known]
            by_name = {"k_means": analysis.clusters.of_rows, "hdbscan": analysis.dense}
            for name, found in by_name.items():
                scores = agreement(truth, found[known])
                figures[f"agreement_{name}"] = {k: round(v, 4) for k, v in scores.items()}
        return figures


def write_exploration(found: Exploration, folder: Path, console: Console) -> None:
    """Print what was found, and write the tables, the pictures and the page."""
    figures = found.figures
    lines = describe_figures(figures)
    try:
        write_json(folder / "explore.json", figures | {"names": list(found.names)})
        _write_table(found, folder / "explore.parquet")
        _write_pictures(found, folder)
        write_page(
            folder / "index.html",
            found.title,
            found.rows.tolist(),
            found.described.texts,
            {**found.analysis.maps, "self-organizing map": _jittered_cells(found)},
            _colors(found),
            lines,
            {index: as_data_url(picture) for index, picture in found.thumbnails.items()},
        )
    except OSError as error:
        raise ConfigError(
            f"-o {folder}: cannot be written: {error}; name another folder"
        ) from error
    for line in lines:
        console.print(line)
    console.table("clusters", ["cluster", "rows", "a typical row"], _cluster_lines(found))
    scores = found.analysis.outliers
    order = np.argsort(-scores, kind="stable")[:_OUTLIERS]
    console.table(
        "outliers",
        ["row", "score", "text"],
        [(f"row {found.rows[n] + 1}", float(scores[n]), _preview(found, n)) for n in order],
    )
    console.print(f"written to {folder}; open {folder / 'index.html'} in a browser")


def describe_figures(figures: Mapping[str, Any]) -> list[str]:
    """Return the figures as lines of text."""
    count, silhouettes = figures["clusters"], figures["silhouettes"]
    chosen = f" (silhouette {silhouettes[str(count)]:.3f})" if str(count) in silhouettes else ""
    dense, units = figures["hdbscan"], figures["self_organizing_map"]
    lines = [
        f"{format_count(figures['rows'], 'row')}, seed {figures['seed']}",
        f"{figures['components']} principal components explain "
        f"{figures['explained_variance']:.1%} of the variance",
        f"k-means: {format_count(count, 'cluster')}{chosen}",
        f"HDBSCAN: {format_count(dense['clusters'], 'cluster')}, "
        f"{dense['noise']:.1%} of the rows are noise",
        f"self-organizing map of {units['rows']} x {units['columns']} units: quantization error "
        f"{units['quantization_error']:.4f}, topographic error {units['topographic_error']:.4f}",
        f"{format_count(figures['near_duplicates'], 'near duplicate')} of an earlier row",
    ]
    for key, name in (("agreement_k_means", "k-means"), ("agreement_hdbscan", "HDBSCAN")):
        if scores := figures.get(key):
            lines.append(
                f"agreement of {name} with the labels: NMI {scores['nmi']:.3f}, "
                f"ARI {scores['ari']:.3f}, purity {scores['purity']:.3f}"
            )
    return lines


def _cluster_lines(found: Exploration) -> list[tuple[str, int, str]]:
    sizes = Counter(found.analysis.clusters.of_rows.tolist())
    return [
        (name, sizes[number], _preview(found, found.typical[number][0]))
        for number, name in enumerate(found.names)
        if found.typical[number]
    ]


def _preview(found: Exploration, index: int) -> str:
    return " ".join(found.described.texts[index].split())[:_PREVIEW]


def _write_table(found: Exploration, path: Path) -> None:
    columns: dict[str, Any] = {"row": found.rows}
    for name, coordinates in found.analysis.maps.items():
        columns |= {f"{name}_x": coordinates[:, 0], f"{name}_y": coordinates[:, 1]}
    columns |= {
        "cluster": found.analysis.clusters.of_rows,
        "cluster_name": [found.names[number] for number in found.analysis.clusters.of_rows],
        "hdbscan": found.analysis.dense,
        "som_row": found.analysis.trained_map.cells[:, 0],
        "som_column": found.analysis.trained_map.cells[:, 1],
        "outlier_score": found.analysis.outliers,
        "duplicate_of": [
            None if first < 0 else int(found.rows[first]) for first in found.analysis.duplicate_of
        ],
    }
    if found.described.labels:
        columns["label"] = [label or None for label in found.described.labels]
    with atomic(path) as partial:
        pa.parquet.write_table(pa.table(columns), partial)


def _write_pictures(found: Exploration, folder: Path) -> None:
    figures: dict[str, Figure] = {
        name: plot_map(coordinates, found.analysis.clusters.of_rows, found.names)
        for name, coordinates in found.analysis.maps.items()
    }
    figures["self-organizing-map"] = plot_units(found.analysis.trained_map)
    if len(found.analysis.clusters.silhouettes) > 1:
        figures["silhouettes"] = plot_silhouettes(found.analysis.clusters.silhouettes)
    for name, figure in figures.items():
        with atomic(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png", dpi=110)
    for number, indices in enumerate(found.typical if found.thumbnails else ()):
        pictures = [found.thumbnails[index] for index in indices]
        save_mosaic(pictures, folder / f"cluster-{number}.png")


def _colors(found: Exploration) -> list[MapColor]:
    names = [f"HDBSCAN {number}" for number in range(int(found.analysis.dense.max()) + 1)]
    described, copies = found.described, found.analysis.duplicate_of >= 0
    typical = [rows[:_IN_LEGEND] for rows in found.typical] if found.thumbnails else []
    colors = [MapColor("cluster", found.analysis.clusters.of_rows.tolist(), found.names, typical)]
    colors += [MapColor.of_column("label", described.labels)] if described.labels else []
    return [
        *colors,
        MapColor("HDBSCAN", found.analysis.dense.tolist(), names),
        MapColor("outlier score", found.analysis.outliers.tolist()),
        MapColor("near duplicate", (~copies).astype(int).tolist(), ["yes", "no"]),
        *(MapColor.of_column(name, values) for name, values in described.columns.items()),
    ]


def _jittered_cells(found: Exploration) -> np.ndarray:
    """Return the cells as a map, on which the rows of a cell lie beside one another."""
    cells = found.analysis.trained_map.cells[:, ::-1].astype(np.float32)
    shift = np.random.default_rng(found.seed).uniform(-0.35, 0.35, cells.shape)
    jittered: np.ndarray = cells + shift.astype(np.float32)
    return jittered
