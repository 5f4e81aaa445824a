"""Run benchmarks by name, and print and draw one table of their ratios.

    python -m benchmarks                          # all of them
    python -m benchmarks text-full sft-lora --size large --repeats 3

Each row runs its script several times; a script runs both sides in turn. Every run is written to
--results as it ends, so that the same command goes on after an interruption; remove the file to
start over. The ratios are ours / the other side, medians over the runs, by processor time, which
other load on the machine hardly changes, and by the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A row of the table: a script, its arguments by size, and the highest ratio aimed at."""

    work: str
    other: str
    aim: float
    script: str
    small: str
    large: str


TRAINER = "versus_trainer.py", "--repeats 1 --rows 125", "--repeats 1 --rows 2225 --max-length 512"
LOOPS = "--blocks 4 --steps 6"
ROWS = {
    "text-full": Row("text, full, each side's defaults", "Trainer", 0.4, *TRAINER),
    "text-full-bf16": Row(
        "text, full, bf16 on both sides",
        "Trainer",
        0.6,
        TRAINER[0],
        f"{TRAINER[1]} --precision bf16",
        f"{TRAINER[2]} --precision bf16",
    ),
    "sft-lora": Row(
        "SFT with LoRA, rows of unequal length",
        "Trainer, padding",
        0.4,
        "versus_trainer_generation.py",
        "--rows 80 --block 5 --precision bf16",
        "--rows 240 --block 10 --precision bf16",
    ),
    "pictures-full": Row(
        "pictures, full, EfficientNet-Lite0",
        "bare loop",
        1.0,
        "pictures_versus_bare_loop.py",
        "image-classification --blocks 2 --steps 4",
        f"image-classification --batch-size 16 {LOOPS}",
    ),
    "segmentation": Row(
        "segmentation, Unet",
        "smp, bare loop",
        1.0,
        "pictures_versus_bare_loop.py",
        "segmentation --blocks 2 --steps 4",
        f"segmentation {LOOPS}",
    ),
    "detection": Row(
        "detection, FCOS",
        "torchvision",
        0.9,
        "detection_versus_torchvision.py",
        "--side 192 --batch-size 2 --blocks 2 --steps 4",
        f"--side 256 {LOOPS}",
    ),
    "loop": Row(
        "our loop",
        "bare loop",
        1.03,
        "versus_bare_loop.py",
        "--sizes small --blocks 4 --steps 8",
        "--sizes larger --blocks 6 --steps 10",
    ),
    "dropout": Row(
        "dropout by sample and its attention",
        "torch's",
        0.6,
        "dropout_and_attention.py",
        "--repeats 1 --rows 4 --length 128",
        "--repeats 1",
    ),
}
# The line of a script that gives the row's ratio, where not its last one.
LINES = {"dropout": "by-sample", "text-full": "processor", "text-full-bf16": "processor"}
PROCESSOR = re.compile(r"CPU ([\d.]+)|([\d.]+) CPU|processor: .* = ([\d.]+)")
CLOCK = re.compile(r"wall clock ([\d.]+)|([\d.]+) wall clock|training: .* = ([\d.]+)")


def main() -> None:
    """Run what --results lacks, then print and draw the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on the CPU; 1 is steadiest")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each script")
    parser.add_argument("--results", type=Path, default=Path("runs/benchmarks.jsonl"))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - ROWS.keys())
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; choose from {', '.join(ROWS)}")
    names = options.names or list(ROWS)
    for name in names:
        for _ in range(options.repeats - len(runs_of(name, options))):
            run_script(name, options)
    print(table(names, options))
    draw(names, options)


def key_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a run must have in common with another one to be its repetition."""
    arguments = getattr(ROWS[name], options.size)
    command = f"python benchmarks/{ROWS[name].script} {arguments}"
    return {"name": name, "command": command, "device": options.device, "threads": options.threads}


def runs_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the stored runs of a row."""
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    key = key_of(name, options)
    return [run for run in map(json.loads, lines) if key.items() <= run.items()]


def run_script(name: str, options: argparse.Namespace) -> None:
    """Run a row's script once and store its ratios. Exits with the script's output if it fails."""
    key, start = key_of(name, options), time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    device = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    path = {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    print(f"{name}: {key['command']}", flush=True)
    done = subprocess.run(
        [sys.executable, *key["command"].split()[1:]],
        cwd=HERE.parent,
        env=os.environ | threads | device | path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
    run = {**key, "date": time.strftime("%Y-%m-%d"), "seconds": time.perf_counter() - start}
    lines = [line for line in done.stdout.splitlines() if LINES.get(name, "") in line]
    run |= {
        "processor": ratio_in(PROCESSOR, lines),
        "clock": ratio_in(CLOCK, done.stdout.splitlines()),
    }
    if run["processor"] is None:
        sys.exit(f"{name}: no ratio in its output:\n{done.stdout}")
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as file:
        file.write(json.dumps(run) + "\n")


def ratio_in(pattern: re.Pattern[str], lines: list[str]) -> float | None:
    """Return the ratio in the last line that gives one."""
    for line in reversed(lines):
        if found := pattern.search(line):
            return float(next(filter(None, found.groups())).rstrip("."))
    return None


def ratio_of(name: str, kind: str, options: argparse.Namespace) -> float | None:
    """Return the median of a ratio over the stored runs, None if they do not give it."""
    ratios = [run[kind] for run in runs_of(name, options) if run[kind] is not None]
    return median(ratios) if ratios else None


def table(names: list[str], options: argparse.Namespace) -> str:
    """Return the table of all rows in Markdown."""
    lines = [
        "| work | other side | at most | processor | clock | runs |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        row, ratios = ROWS[name], [ratio_of(name, kind, options) for kind in ("processor", "clock")]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        count = len(runs_of(name, options))
        lines.append(
            f"| {row.work} | {row.other} | {row.aim:.2f} | {' | '.join(cells)} | {count} |"
        )
    return "\n".join(lines)


def draw(names: list[str], options: argparse.Namespace) -> None:
    """Draw the ratios by processor time as bars, with their aims, beside the results."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.5 * len(names)), layout="constrained")
    axes = figure.subplots()
    ratios = [ratio_of(name, "processor", options) or 0.0 for name in names]
    labels = [f"{ROWS[name].work}\nto {ROWS[name].other}" for name in names]
    bars = axes.barh(labels, ratios, color="#4c72b0")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.scatter([ROWS[name].aim for name in names], labels, marker="|", s=300, color="black")
    axes.axvline(1, color="gray", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("processor time, ours / other side; black marks: aims")
    picture = options.results.with_suffix(".png")
    figure.savefig(picture)
    print(f"drawn: {picture}")


if __name__ == "__main__":
    main()
