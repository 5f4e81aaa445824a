"""Memory, descriptors and processes of long runs, which must not grow.

Each work is one `finetune train` of a tiny BERT with random weights, watched from outside:

    python -m benchmarks.endurance corpus --gigabytes 2    # 2000 steps over a large Arrow file
    python -m benchmarks.endurance lines --gigabytes 2     # the same, from JSON lines
    python -m benchmarks.endurance evaluations             # 500 of them
    python -m benchmarks.endurance checkpoints             # 200 of them
    python -m benchmarks.endurance workers                 # two workers, started again 50 times

Prints the anonymous memory (resident, without files mapped into memory, which the system takes back
when it needs to), the open descriptors and the child processes in each fifth of the training, by
steps: medians of what was seen every tenth of a second, and the peak. Linux only.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil
import pyarrow as pa

from benchmarks.processes import ROOT
from benchmarks.random_networks import WORDS, write_bert

STEPS = 2000
LARGE = [f"max_steps={STEPS}", "evaluate_every=never", "save_every=never"]
WORKS = {
    "corpus": LARGE,
    "lines": LARGE,
    "evaluations": ["max_steps=1000", "evaluate_every=2", "save_every=never"],
    "checkpoints": ["max_steps=400", "evaluate_every=never", "save_every=2"],
    "workers": ["epochs=50", "workers=2", "evaluate_every=never", "save_every=never"],
}
"""{work: config keys}"""
PARTS, ROWS_AT_ONCE = 5, 1000


class Sample(NamedTuple):
    """What is seen of a run at one moment, its child processes included.

    Attributes:
        step: the last logged one.
        memory: anonymous resident memory of the run's process, in MB.
    """

    step: int
    memory: float
    descriptors: int
    children: int


def make_rows(words: int) -> Iterator[pa.RecordBatch]:
    """Yield texts with labels, without end."""
    chance, row = random.Random(0), 0
    while True:
        numbers = range(row, row := row + ROWS_AT_ONCE)
        texts = [" ".join([f"n{number}", *chance.choices(WORDS, k=words)]) for number in numbers]
        labels = [f"class {number % 5}" for number in numbers]
        yield pa.record_batch([texts, labels], names=["text", "label"])


def write_corpus(path: Path, size: float, words: int) -> int:
    """Write rows of at least `size` bytes, as Arrow or JSON lines by the name; return the size."""
    batches = make_rows(words)
    if path.suffix == ".jsonl":
        with path.open("w") as text:
            while text.tell() < size:
                text.writelines(json.dumps(row) + "\n" for row in next(batches).to_pylist())
        return path.stat().st_size
    schema = pa.schema({"text": pa.string(), "label": pa.string()})
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        while file.tell() < size:
            writer.write_batch(next(batches))
    return path.stat().st_size


def last_step(metrics: Path) -> int:
    """Return the last logged step of a run, 0 before the first."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    return max((json.loads(line)["step"] for line in lines[-3:-1]), default=0)


def watch(process: psutil.Process, metrics: Path) -> Iterator[Sample]:
    """Yield what is seen of a run in training, every tenth of a second, until it ends."""
    status = Path(f"/proc/{process.pid}/status")
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        try:
            memory = re.search(r"RssAnon:\s+(\d+)", status.read_text())
            sample = Sample(
                last_step(metrics),
                int(memory[1]) / 1000 if memory else 0.0,
                process.num_fds(),
                len(process.children(recursive=True)),
            )
        except (psutil.Error, OSError):
            return
        if sample.step:
            yield sample
        time.sleep(0.1)


def run(work: str, folder: Path, gigabytes: float, words: int) -> list[Sample]:
    """Train in a process of its own; return what was seen of it. Exits if the run fails."""
    write_bert(folder / "bert", is_tiny=True)
    is_large = WORKS[work] is LARGE
    size = gigabytes * 1e9 if is_large else 3e5
    rows = folder / ("rows.jsonl" if work == "lines" else "rows.arrow")
    written = write_corpus(rows, size, words=words if is_large else 20)
    print(f"{work}: rows of {written / 1e6:.1f} MB", flush=True)
    keys = [
        f"data={rows}",
        f"model={folder / 'bert'}",
        f"output={folder / 'run'}",
        "task=text-classification",
        "method=full",
        "max_length=64",
        "batch_size=16",
        "log_every=10",
        f"data.validation={0.0001 if is_large else 0.1}",
        "data.on_leak=say",
        *WORKS[work],
    ]
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune", "train", *keys],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
        )
        samples = list(watch(psutil.Process(process.pid), folder / "run" / "metrics.jsonl"))
        if process.wait():
            sys.exit(log.read_text())
    return samples


def table(samples: list[Sample]) -> str:
    """Return a table of medians over each fifth of the steps."""
    last = max(sample.step for sample in samples)
    samples = [sample for sample in samples if sample.step < last]  # the model is saved after it
    lines = ["| steps | anonymous MB | peak MB | descriptors | children |", "|---|---|---|---|---|"]
    for part in range(PARTS):
        start, end = last * part // PARTS, last * (part + 1) // PARTS
        seen = [sample for sample in samples if start < sample.step <= end]
        memories = [sample.memory for sample in seen]
        cells = [f"{median(memories):.1f}", f"{max(memories):.1f}"]
        cells += [f"{median(sample.descriptors for sample in seen):.0f}"]
        cells += [f"{median(sample.children for sample in seen):.0f}"]
        lines.append(f"| {start + 1} to {end} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the named works and print a table for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=list(WORKS))
    parser.add_argument("--gigabytes", type=float, default=2, help="of the corpus")
    parser.add_argument("--words", type=int, default=1000, help="of a row of the corpus")
    options = parser.parse_args()
    for work in options.names:
        with tempfile.TemporaryDirectory() as folder:
            print(table(run(work, Path(folder), options.gigabytes, options.words)), flush=True)


if __name__ == "__main__":
    main()
