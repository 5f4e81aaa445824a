"""Heads of two examples beside the plain linear head, on the same frozen features of MiniLM.

BBC News, first 64 tokens: the plain head reads the mean of the token features, the recurrent head
(examples/recurrent_head.py) all of them in order, the dressed quantum circuit
(examples/quantum_head.py) the mean, through four angles. Each trains on the same rows, with the
kit's defaults or --epochs and --head-lr; no split selects a checkpoint.

    python -m benchmarks.other_heads --per-class 16 80 --seeds 0 1 2
    python -m benchmarks.other_heads --per-class 16 --seeds 0 1 2 --epochs 60 --head-lr 1e-2

Prints the mean and standard deviation over seeds of the test accuracy, the number of trained
parameters, and the processor seconds of a run whose features are cached.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.few_examples import MODEL, write_rows
from benchmarks.processes import ROOT

EXAMPLES = ROOT / "examples"
HEADS = {
    "linear": "text-classification",
    "recurrent": f"{EXAMPLES}/recurrent_head.py:RecurrentHead",
    "quantum": f"{EXAMPLES}/quantum_head.py:QuantumHead",
}


def parse_arguments() -> argparse.Namespace:
    """Parse sizes and heads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, nargs="+", default=[16, 80])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--heads", choices=list(HEADS), nargs="+", default=list(HEADS))
    parser.add_argument("--epochs", type=float, help="default: the kit's")
    parser.add_argument("--head-lr", type=float, help="default: the kit's")
    parser.add_argument("--max-length", type=int, default=64, help="in tokens")
    parser.add_argument("--test-rows", type=int, default=50, help="per topic")
    parser.add_argument("--folder", type=Path, default=Path("runs/other-heads"))
    return parser.parse_args()


def train(head: str, per_class: int, seed: int, arguments: argparse.Namespace) -> Any:
    """Train a head on the features of some rows; return the run."""
    import finetune

    folder: Path = arguments.folder
    keys = {"name": HEADS[head], "max_length": arguments.max_length}
    if head == "linear":
        keys["head"] = "pooled"
    return finetune.train(
        keys,
        data={
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "validation": 0,
            "per_class": per_class,
            "split_seed": seed,
        },
        model=MODEL,
        method="frozen",
        seed=seed,
        epochs=arguments.epochs,
        head_lr=arguments.head_lr,
        output=str(folder / "run"),
        fresh=True,
        report={"slices": "none"},
    )


def main() -> None:
    """Train every head on the same rows and print the table."""
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not (arguments.folder / "train.jsonl").is_file():
        write_rows(arguments.folder, arguments.test_rows)
    columns = [f"{count} per class | seconds" for count in arguments.per_class]
    table = [f"| head | parameters | {' | '.join(columns)} |"]
    table.append("|---|" + "---|" * (1 + 2 * len(columns)))
    for head in arguments.heads:
        cells = []
        for per_class in arguments.per_class:
            found = list[float]()
            for seed in arguments.seeds:
                run = train(head, per_class, seed, arguments)
                found.append(float(run.metrics["test"]["accuracy"]))
            start = time.process_time()
            train(head, per_class, seed, arguments)  # its features are cached by now
            seconds = time.process_time() - start
            spread = stdev(found) if len(found) > 1 else 0.0
            cells += [f"{mean(found):.4f} +- {spread:.4f}", f"{seconds:.1f}"]
        trained = run.folder.read("results.json")["parameters"]["trained"]
        table.append(f"| {head} | {trained:,} | {' | '.join(cells)} |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
