"""transformers.Trainer on the rows and networks of `benchmarks.gpu`, as its users would write it.

Rows are tokenized, and pictures decoded, beforehand; everything else is the Trainer's default:
random order, a collator that pads, fused AdamW, SDPA attention.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

AUTO = {
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
}
"""{task of the kit: the class of transformers that loads its networks}"""


def train_by_trainer(
    keys: Mapping[str, Any], folder: Path, *, precision: str, first: int, steps: int
) -> dict[str, float]:
    """Train with the keys of a run; return the seconds of a step after `first`, and peak GB."""
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, kind = keys["model"], keys["task"]
    rows, collate, labels = read_rows(keys)
    torch.manual_seed(0)
    options: dict[str, Any] = {} if labels is None else {"num_labels": labels}
    options |= {"ignore_mismatched_sizes": True} if kind == "image-classification" else {}
    network = getattr(transformers, AUTO[kind]).from_pretrained(
        model, dtype=torch.float32, **options
    )
    if keys["method"] == "lora":
        from peft import LoraConfig, get_peft_model

        targets = "all-linear"  # as the kit adapts all linear layers of the blocks
        network = get_peft_model(
            network, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules=targets)
        )
    on_gpu, times = torch.cuda.is_available(), list[float]()

    class Times(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step in (first, first + steps):
                if on_gpu:
                    torch.cuda.synchronize()
                times.append(time.perf_counter())

    settings = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=first + steps,
        per_device_train_batch_size=keys["batch_size"],
        bf16=precision == "bf16",
        use_cpu=not on_gpu,
        dataloader_num_workers=keys["workers"],
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(network, settings, collate, rows, callbacks=[Times()]).train()
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    return {"seconds": (times[1] - times[0]) / steps, "peak": peak}


def read_rows(keys: Mapping[str, Any]) -> tuple[list[dict[str, Any]], Any, int | None]:
    """Return the rows, the collator, and the number of labels if there are some."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, DataCollatorWithPadding

    source = Path(keys["data"]["source"])
    if keys["task"] == "image-classification":
        return read_pictures(source / "train", keys["image_size"])
    tokenizer = AutoTokenizer.from_pretrained(keys["model"])
    longest = keys["max_length"]
    if keys["task"] == "text-classification":
        with source.open(newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        labels = sorted({row["label"] for row in table})
        rows = [
            {
                **tokenizer(row["text"], truncation=True, max_length=longest),
                "labels": labels.index(row["label"]),
            }
            for row in table
        ]
        return rows, DataCollatorWithPadding(tokenizer), len(labels)
    rows = []
    for line in source.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt, answer = (
            tokenizer(row[key], add_special_tokens=False)["input_ids"]
            for key in ("prompt", "completion")
        )
        answer = [*answer, tokenizer.eos_token_id]
        prompt = prompt[-max(longest - len(answer), 0) :]
        ids = [*prompt, *answer]
        learned = [*[-100] * len(prompt), *answer]
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": learned})
    return rows, DataCollatorForSeq2Seq(tokenizer), None


def read_pictures(folder: Path, side: int) -> tuple[list[dict[str, Any]], None, int]:
    """Return pictures, decoded and resized, of folders that are classes."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    classes = sorted(path.name for path in folder.iterdir())
    rows = []
    for number, name in enumerate(classes):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                pixels = functional.pil_to_tensor(image.convert("RGB").resize((side, side)))
            rows.append({"pixel_values": pixels.float() / 127.5 - 1, "labels": number})
    return rows, None, len(classes)
