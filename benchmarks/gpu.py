"""What only a GPU shows: steps per second, memory, utilization and waits of large networks.

    bash benchmarks/gpu.sh [WHEELS]                          # this and the large table, on one card
    python -m benchmarks.gpu --device cpu --size tiny        # to see that every part works

Every work trains a network with random weights by the kit, and by a bare loop over the same
batches, prepared beforehand, in turn: forward pass, loss and backward pass in bf16, clipping, fused
AdamW. The loops take turns of --steps steps; the ratio is that of the medians. Utilization is the
number of floating-point operations of a step, counted by torch over forward and backward pass,
over what the card does in this time on a matrix product of 8192 x 8192 (measured first). Waits are
calls that make the host wait for the card, counted by torch's profiler over steps that log nothing.

"decoder-4bit" and "decoder-8bit" train LoRA on quantized weights, merge them, save the model, load
it with transformers alone, and say how far its outputs are from those of the trained model.

Each work runs in a process of its own; one that fails is reported, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import random_networks as networks
from benchmarks.sides import this_command
from benchmarks.versus_bare_loop import Clock, micro_batches_of
from finetune.batching.data_loader import load_batches
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.launch import make_accelerator
from finetune.model import Batch
from finetune.registry import INSTALLED, make_task
from finetune.task_parts.samples import take_rows
from finetune.training.loop import train_steps
from finetune.training.setup import assemble
from finetune.training.state import Live, Progress

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


@dataclass(frozen=True)
class Work:
    """A network to train.

    Attributes:
        write: function (folder, is_tiny) that writes the network.
        rows: words of a text, or the kind of pictures.
        keys: those of the run.
        large: keys of the large size.
        tiny: keys of the tiny size, beside two samples a step.
    """

    write: Callable[..., None]
    rows: int | str
    keys: dict[str, Any]
    large: dict[str, Any]
    tiny: dict[str, Any] = field(default_factory=dict)


TEXTS = {"task": "text-classification"}
IMAGES = {"task": "image-classification"}
ANSWERS = {"task": "text-generation"}
LONG_TEXTS = {"max_length": 1024, "batch_size": 16}
PICTURES = {"image_size": 224, "batch_size": 64}
SMALL_PICTURES = {"image_size": 64}
WORKS = {
    "bert-full": Work(
        networks.write_bert,
        400,
        {**TEXTS, "method": "full"},
        {"max_length": 512, "batch_size": 32},
    ),
    "vit-full": Work(
        networks.write_vit,
        "shapes",
        {**IMAGES, "method": "full"},
        PICTURES,
    ),
    "resnet-full": Work(
        networks.write_resnet,
        "shapes",
        {**IMAGES, "method": "full"},
        PICTURES,
        SMALL_PICTURES,
    ),
    "decoder-full": Work(
        networks.write_decoder,
        700,
        {**ANSWERS, "method": "full"},
        LONG_TEXTS,
    ),
    "decoder-lora": Work(
        networks.write_decoder,
        700,
        {**ANSWERS, "method": "lora"},
        LONG_TEXTS,
    ),
    "decoder-4bit": Work(
        networks.write_decoder,
        700,
        {**ANSWERS, "method": "lora", "quantize": "4bit"},
        LONG_TEXTS,
    ),
    "decoder-8bit": Work(
        networks.write_decoder,
        700,
        {**ANSWERS, "method": "lora", "quantize": "8bit"},
        LONG_TEXTS,
    ),
    "fcos": Work(
        networks.write_resnet,
        "scenes",
        {"task": "object-detection", "method": "full"},
        {"image_size": 512, "batch_size": 8},
        SMALL_PICTURES,
    ),
    "unet": Work(
        networks.write_resnet,
        "scenes",
        {"task": "segmentation", "method": "full"},
        {"image_size": 512, "batch_size": 16},
        SMALL_PICTURES,
    ),
}


def keys_of(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write the network and the rows of a work; return the keys of its run."""
    work, is_tiny, data = WORKS[name], options.size == "tiny", folder / "rows"
    network = options.folder / work.write.__name__  # of which several works may train
    if not network.exists():
        work.write(network, is_tiny=is_tiny)
    keys = {**work.keys, "model": str(network), "output": str(folder / "run")}
    keys |= {"batch_size": 2, **work.tiny} if is_tiny else work.large
    rows = keys["batch_size"] * total_steps(options)
    if isinstance(work.rows, str):
        networks.write_pictures(data, work.rows, min(rows, 200))
    else:
        write = networks.write_texts if "classification" in keys["task"] else networks.write_corpus
        data = data.with_suffix(".csv" if write is networks.write_texts else ".jsonl")
        write(data, rows, 20 if is_tiny else work.rows)
    shared: dict[str, Any] = {"data": {"source": str(data), "validation": 0}, "precision": "bf16"}
    shared |= {"max_steps": total_steps(options), "warmup_steps": 0, "log_every": 10**6}
    return {**keys, **shared, "save_every": "never", "evaluate_every": "never"}


def total_steps(options: argparse.Namespace) -> int:
    """Return the steps of one loop: a block that warms up, and those that are measured."""
    return int(options.steps * (options.blocks + 1))


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a work by both loops, in turn; return its figures."""
    loaded = load_config(None, keys_of(name, options, folder), INSTALLED)
    config, accelerator = loaded.config, make_accelerator("bf16")
    task = make_task(config.task)
    live = assemble(config, task, open_splits(config.data, task), accelerator).live
    device = accelerator.device
    loaded_batches = load_batches(live.train, task, micro_batches_of(live), seed=0, device=device)
    bare = BareLoop(live, [batch for _, batch in loaded_batches])
    sides: dict[str, Callable[[int, int], None]] = {
        "ours": partial(our_steps, live),
        "bare": bare.run,
    }
    seconds, peaks, waits = {side: list[float]() for side in sides}, dict[str, float](), 0
    for block in range(options.blocks + 1):
        start = block * options.steps
        if block == 0:  # warms up; the kit's steps are profiled in it
            bare.run(start, options.steps)
            waits = count_waits(partial(sides["ours"], start, options.steps), device)
            continue
        for side, run in [*sides.items()][:: 1 if block % 2 else -1]:
            began = begin(device)
            run(start, options.steps)
            seconds[side].append((end(device) - began) / options.steps)
            peaks[side] = peak_memory(device)
    step, flops = median(seconds["ours"]), bare.count_flops(len(bare.batches) - 1)
    return {
        "seconds a step": round(step, 4),
        "over a bare loop": round(step / median(seconds["bare"]), 3),
        "utilization": round(flops / step / matrix_rate(device), 3),
        "peak GB": round(peaks["ours"], 2),
        "waits a step": round(waits / options.steps, 2),
        **(round_trip(live, folder) if "quantize" in WORKS[name].keys else {}),
    }


def our_steps(live: Live, start: int, steps: int) -> None:
    """Run some steps of the kit's loop, which loads their batches itself."""
    train_steps(replace(live, total_steps=start + steps), Progress(step=start), Clock(), None)


@dataclass
class BareLoop:
    """A hand-written loop that trains the same network, on batches that are on the device."""

    live: Live
    batches: list[Batch]

    def __post_init__(self) -> None:
        groups = self.live.optimizer.optimizer.param_groups
        settings = [{"params": group["params"], "lr": group["lr"]} for group in groups]
        self.trained = [part for group in groups for part in group["params"]]
        fused = self.live.accelerator.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(settings, fused=fused)

    def run(self, start: int, steps: int) -> None:
        """Run some steps."""
        self.live.method.train_mode(self.live.model)
        for step in range(start, start + steps):
            self.pass_through(step)
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def pass_through(self, step: int) -> None:
        """Compute the gradients of one step."""
        kind, batch = self.live.accelerator.device.type, self.batches[step]
        with torch.autocast(kind, torch.bfloat16):
            outputs = self.live.model(batch)
        sums = self.live.task.loss(outputs, batch)
        terms = [value / batch["count"][name].clamp(min=1) for name, value in sums.items()]
        torch.autograd.backward(torch.stack(terms).sum())

    def count_flops(self, step: int) -> int:
        """Count the floating-point operations of a forward and backward pass."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.pass_through(step)
        self.optimizer.zero_grad()
        return int(counter.get_total_flops())


def begin(device: torch.device) -> float:
    """Wait for the device, forget its peak of memory, and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    return time.perf_counter()


def end(device: torch.device) -> float:
    """Wait for the device and return the time in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """Return the peak of the device's memory since `begin`, in GB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0


def count_waits(work: Callable[[], None], device: torch.device) -> int:
    """Count the calls of `work` that wait for the card; none on a CPU."""
    if device.type != "cuda":
        work()
        return 0
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        work()
    return sum(event.count for event in profiler.key_averages() if event.key in WAITS)


def matrix_rate(device: torch.device) -> float:
    """Measure the floating-point operations a second of a matrix product in bf16."""
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 3)
    one, two = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    one @ two
    began = begin(device)
    for _ in range(repeats):
        one @ two
    return 2 * size**3 * repeats / (end(device) - began)


def round_trip(live: Live, folder: Path) -> dict[str, Any]:
    """Merge and save a model trained on quantized weights; compare it with what it was."""
    from finetune.export.final_model import compute_outputs, relative_difference

    rows, device = take_rows(live.train.rows, [0]), live.accelerator.device
    before = compute_outputs(live.model, live.task, rows, device)
    live.model.dequantize()
    live.method.merge(live.model)
    live.task.save(live.model, folder / "final")
    source = live.config.model.model_copy(
        update={"name": str(folder / "final"), "quantize": None, "weights": None}
    )
    after = compute_outputs(live.task.load_model(source).to(device), live.task, rows, device)
    return {"after merging": f"{relative_difference(before, after):.1e}"}


def main() -> None:
    """Measure each work in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(WORKS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--size", choices=["tiny", "large"], default="large")
    parser.add_argument("--steps", type=int, default=10, help="of a block")
    parser.add_argument("--blocks", type=int, default=3, help="of each loop")
    parser.add_argument("--limit", type=int, default=90, help="seconds for each work")
    parser.add_argument("--work", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(options.work, options, Path(folder))))
        return
    unknown = sorted(set(options.names) - WORKS.keys())
    if unknown:
        parser.error(f"unknown work {unknown[0]!r}; choose from {', '.join(WORKS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or WORKS:
            print(f"{name}: {run_work(name, folder, options.limit)}", flush=True)


def run_work(name: str, folder: str, limit: float) -> str:
    """Measure a work in a process of its own; return its figures, or its failure, in words."""
    command = [*this_command(), "--work", name, "--folder", folder]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"not ended within {limit:g} s"
    if done.returncode != 0:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    figures = json.loads(done.stdout.splitlines()[-1])
    return ", ".join(f"{what} {value}" for what, value in figures.items())


if __name__ == "__main__":
    main()
