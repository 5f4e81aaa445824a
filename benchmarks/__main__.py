"""Run benchmarks by name, and print and draw one table of their ratios.

    python -m benchmarks                          # all of them
    python -m benchmarks text-full sft-lora --size large --repeats 3

Each row runs its script several times; a script runs both sides in turn. Every run is written to
--results as it ends, so that the same command goes on after an interruption; remove the file to
start over. The ratios are ours / the other side, medians over the runs, by processor time, which
other load on the machine hardly changes, and by the clock. Where both sides train to a quality,
each run has a seed of its own, and the table gives its mean and standard deviation.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.rows import MAKERS, ROWS
from finetune.errors import nearest
from finetune.io.files import drop_torn_line

PROCESSOR = re.compile(r"CPU ([\d.]+)|([\d.]+) CPU|: .* = ([\d.]+)")
CLOCK = re.compile(r"wall clock ([\d.]+)|([\d.]+) wall clock|clock: .* = ([\d.]+)")


def main() -> None:
    """Run what --results lacks, then print and draw the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ROWS))
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=count, default=1, help="on the CPU; 1 is steadiest")
    parser.add_argument("--repeats", type=count, default=3, help="runs of each script")
    parser.add_argument("--results", type=Path, default=Path("runs/benchmarks.jsonl"))
    options = parser.parse_args()
    unknown = sorted(set(options.names) - ROWS.keys())
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; {nearest(unknown[0], ROWS)}")
    names = options.names or list(ROWS)
    for data in sorted({ROWS[name].data for name in names} - {""}):
        if not (ROOT / data).is_dir():
            parser.error(f"{data} is missing; make it with `python {MAKERS[data]}`")
    if options.device == "cuda" and not has_cuda():
        parser.error("--device cuda: torch finds no CUDA device here")
    try:
        options.results.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_line(options.results)
        read_runs(options.results)
    except (OSError, ValueError) as error:
        parser.error(f"--results: {error}")
    for name in names:
        for seed in range(len(runs_of(name, options)), options.repeats):
            run_script(name, seed, options)
    print(table(names, options))
    draw(names, options)


def count(text: str) -> int:
    """Return a number of 1 or more. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def has_cuda() -> bool:
    """True if torch finds a CUDA device."""
    import torch

    return torch.cuda.is_available()


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Return the stored runs of all rows. Raises ValueError with the line that is not one."""
    runs = []
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            run = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; remove the line") from error
        if not isinstance(run, dict):
            raise ValueError(f"{path}, line {number}: {line!r} is not a run; remove the line")
        runs.append(run)
    return runs


def key_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a run must have in common with another one to be its repetition."""
    arguments = getattr(ROWS[name], options.size)
    command = f"python -m benchmarks.{ROWS[name].script} {arguments}".rstrip()
    return {"name": name, "command": command, "device": options.device, "threads": options.threads}


def runs_of(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the stored runs of a row."""
    key = key_of(name, options)
    return [run for run in read_runs(options.results) if key.items() <= run.items()]


def run_script(name: str, seed: int, options: argparse.Namespace) -> None:
    """Run a row's script once and store its ratios. Exits with the script's output if it fails."""
    row = ROWS[name]
    seeds = ["--seed", str(seed)] if row.quality else []
    key, start = key_of(name, options), time.perf_counter()
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    device = {"CUDA_VISIBLE_DEVICES": ""} if options.device == "cpu" else {}
    path = {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    print(f"{name}: {key['command']}", flush=True)
    done = subprocess.run(
        [sys.executable, *key["command"].split()[1:], *seeds],
        cwd=ROOT,
        env=os.environ | threads | device | path,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
    run = {**key, "date": time.strftime("%Y-%m-%d"), "seconds": time.perf_counter() - start}
    lines = done.stdout.splitlines()
    run |= {
        "processor": ratio_in(PROCESSOR, row.figure, lines),
        "clock": ratio_in(CLOCK, row.clock, lines),
    }
    run |= {"quality": qualities_in(row.quality, lines)} if row.quality else {}
    if run["processor"] is None:
        sys.exit(f"{name}: no ratio in its output:\n{done.stdout}")
    with options.results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(run) + "\n")


def ratio_in(pattern: re.Pattern[str], start: str, lines: list[str]) -> float | None:
    """Return the ratio in the last line that begins with `start` and gives one."""
    for line in reversed(lines):
        if line.lstrip().startswith(start) and (found := pattern.search(line)):
            return float(next(filter(None, found.groups())).rstrip("."))
    return None


def qualities_in(name: str, lines: list[str]) -> list[float]:
    """Return the quality of our side and of the other, from the line of each."""
    found = [re.search(rf"{name} (?:from [\d.]+ to )?([\d.]+)", line) for line in lines]
    ours, theirs = [float(match[1]) for match in found if match][-2:]
    return [ours, theirs]


def quality_of(name: str, options: argparse.Namespace) -> str:
    """Return mean and standard deviation of both sides' quality over the runs, in words."""
    pairs = [run["quality"] for run in runs_of(name, options) if "quality" in run]
    sides = [f"{mean(side):.4g} +- {pstdev(side):.2g}" for side in zip(*pairs, strict=True)]
    return f"{ROWS[name].quality} {' / '.join(sides)}" if sides else ""


def ratio_of(name: str, kind: str, options: argparse.Namespace) -> float | None:
    """Return the median of a ratio over the stored runs, None if they do not give it."""
    ratios = [run[kind] for run in runs_of(name, options) if run[kind] is not None]
    return median(ratios) if ratios else None


def table(names: list[str], options: argparse.Namespace) -> str:
    """Return the table of all rows in Markdown."""
    lines = [
        "| work | other side | at most | processor | clock | runs | quality |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        row, ratios = ROWS[name], [ratio_of(name, kind, options) for kind in ("processor", "clock")]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        runs = len(runs_of(name, options))
        lines.append(
            f"| {row.work} | {row.other} | {row.aim:.2f} | {' | '.join(cells)} | {runs} | "
            f"{quality_of(name, options)} |"
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
