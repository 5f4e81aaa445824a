"""What only a GPU shows: steps per second, memory, utilization and waits of large networks.

    bash benchmarks/gpu.sh [WHEELS]                          # this and the large table, on one card
    python -m benchmarks.gpu --device cpu --size tiny        # to see that every part works

Every work trains a network with random weights by the kit, and by a bare loop over the same
batches, prepared beforehand, in turn: forward pass, loss and backward pass in bf16, clipping, fused
AdamW. The loops take turns of --steps steps, of which the last three quarters are timed, when the
workers have started; the ratio is that of the medians. Utilization is the number of floating-point
operations of a step, counted by torch over forward and backward pass, over what the card does in
this time on a matrix product of 8192 x 8192. Waits are calls that make the host wait for the card,
counted by torch's profiler over steps that log nothing. "-compiled" has train.compile, "-masks"
attention with masks instead of boundaries for packed rows, "-fused" task.fused_loss.

"decoder-4bit" and "decoder-8bit" train LoRA on quantized weights, merge them, save the model, load
it with transformers alone, and say how far its outputs are from those of the trained model.

Some works are also done by transformers.Trainer, in its default precision and in bf16. Each side of
a work runs in a process of its own; one that fails is reported, and the others go on.
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
from benchmarks.gpu_trainer import train_by_trainer
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

STEP = "seconds a step"
WORKERS = 8  # that load batches, of either side
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


_SHORT = {"max_length": 64}


def texts(**keys: Any) -> Work:
    """Return the training of BERT-base on texts of 200 to 400 words."""
    keys = {"task": "text-classification", "method": "full", **keys}
    return Work(networks.write_bert, 400, keys, {"max_length": 512, "batch_size": 32}, _SHORT)


def pictures(network: Callable[..., None], side: int, **keys: Any) -> Work:
    """Return the training of a network on pictures of 224 pixels, or in tiny size of `side`."""
    keys = {"task": "image-classification", "method": "full", **keys}
    large, tiny = {"image_size": 224, "batch_size": 64}, {"image_size": side}
    return Work(network, "shapes", keys, large, tiny)


def answers(network: Callable[..., None] = networks.write_decoder, **keys: Any) -> Work:
    """Return the training of a decoder on prompts and answers of very unequal length."""
    keys = {"task": "text-generation", "method": "lora", **keys}
    return Work(network, 700, keys, {"max_length": 1024, "batch_size": 16}, _SHORT)


def scenes(task: str, batch_size: int) -> Work:
    """Return the training of a ResNet-50 under a detector or a Unet, on 512 pixels."""
    large = {"image_size": 512, "batch_size": batch_size}
    keys = {"task": task, "method": "full"}
    return Work(networks.write_resnet, "scenes", keys, large, {"image_size": 64})


COMPILED: dict[str, Any] = {"train.compile": True}
WORKS = {
    "bert-full": texts(),
    "bert-full-compiled": texts(**COMPILED),
    "vit-full": pictures(networks.write_vit, 224),
    "vit-full-compiled": pictures(networks.write_vit, 224, **COMPILED),
    "resnet-full": pictures(networks.write_resnet, 64),
    "decoder-full": answers(method="full"),
    "decoder-full-compiled": answers(networks.write_decoder, method="full", **COMPILED),
    "decoder-lora": answers(),
    "decoder-lora-compiled": answers(networks.write_decoder, **COMPILED),
    "decoder-lora-masks": answers(networks.write_decoder, **{"model.attention": "sdpa"}),
    "decoder-4bit": answers(quantize="4bit"),
    "decoder-8bit": answers(quantize="8bit"),
    "vocabulary": answers(networks.write_wide_decoder),
    "vocabulary-fused": answers(networks.write_wide_decoder, **{"task.fused_loss": True}),
    "fcos": scenes("object-detection", 8),
    "unet": scenes("segmentation", 16),
}
TRAINER = {
    "bert-full": ("fp32", "bf16"),
    "vit-full": ("fp32", "bf16"),
    "decoder-full": ("bf16",),
    "decoder-lora": ("bf16",),
}
"""{work that transformers.Trainer does as well: the precisions it does it in, its default first}"""


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
    shared["workers"] = 0 if is_tiny else WORKERS
    return {**keys, **shared, "save_every": "never", "evaluate_every": "never"}


def total_steps(options: argparse.Namespace) -> int:
    """Return the steps of our loop: to warm up, to be profiled, and those that are measured."""
    return int(options.steps * (options.blocks + 2))


def measure(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a work by both loops, in turn; return its figures."""
    loaded = load_config(None, keys_of(name, options, folder), INSTALLED)
    config, accelerator = loaded.config, make_accelerator("bf16")
    task = make_task(config.task)
    live = assemble(config, task, open_splits(config.data, task), accelerator).live
    device = accelerator.device
    loaded_batches = load_batches(live.train, task, micro_batches_of(live), seed=0, device=device)
    bare = BareLoop(live, [batch for _, batch in loaded_batches])
    sides: dict[str, Callable[[int, int], float]] = {
        "ours": partial(our_steps, live),
        "bare": bare.run,
    }
    # The first block warms up, the second is profiled; the memory is that without a bare loop.
    begin(device)
    our_steps(live, 0, options.steps)
    peak = peak_memory(device)
    waits = count_waits(live, options.steps)
    bare.run(0, options.steps)
    seconds = {side: list[float]() for side in sides}
    for block in range(2, options.blocks + 2):
        for side, run in [*sides.items()][:: 1 if block % 2 else -1]:
            seconds[side].append(run(block * options.steps, options.steps))
    step, last = median(seconds["ours"]), range(*measured(total_steps(options), options.steps))
    flops = sum(bare.count_flops(step) for step in last) / len(last)
    figures = {
        STEP: round(step, 4),
        "over a bare loop": round(step / median(seconds["bare"]), 3),
        "utilization": round(flops / seconds["ours"][-1] / matrix_rate(device), 3),
        "peak GB": round(peak, 2),
        "waits a step": round(waits, 2),
    }
    return figures | (round_trip(live, folder) if "quantize" in WORKS[name].keys else {})


def measure_trainer(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a work by transformers.Trainer; return its figures."""
    keys = keys_of(name, options, folder)
    first, steps = options.steps, options.steps * options.blocks
    times = train_by_trainer(keys, folder, precision=options.trainer, first=first, steps=steps)
    return {STEP: round(times["seconds"], 4), "peak GB": round(times["peak"], 2)}


def measured(end: int, steps: int) -> tuple[int, int]:
    """Return the steps of a block that are timed: after its workers have started."""
    return end - steps + steps // 4, end


class SteadyClock(Clock):
    """Times the steps of a block once its workers have started."""

    def __init__(self, start: int, steps: int, device: torch.device) -> None:
        super().__init__()
        self.first, self.last = measured(start + steps, steps)
        self.device, self.seconds_a_step = device, 0.0

    def tick(self, step: int) -> None:
        if step == self.first:
            self.seconds_a_step = -end(self.device)
        elif step == self.last:
            self.seconds_a_step = (self.seconds_a_step + end(self.device)) / (
                self.last - self.first
            )


def our_steps(live: Live, start: int, steps: int, clock: Clock | None = None) -> float:
    """Run some steps of the kit's loop, which loads their batches itself; return seconds a step."""
    steady = SteadyClock(start, steps, live.accelerator.device)
    part = replace(live, total_steps=start + steps)
    train_steps(part, Progress(step=start), clock or steady, None)
    return steady.seconds_a_step


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

    def run(self, start: int, steps: int) -> float:
        """Run some steps; return seconds a step, over those that are timed."""
        device = self.live.accelerator.device
        self.live.method.train_mode(self.live.model)
        first, last = measured(start + steps, steps)
        for step in range(start, last):
            if step == first:
                began = end(device)
            self.pass_through(step)
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return (end(device) - began) / (last - first)

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


class Profiled(Clock):
    """Profiles the steps of a block, once its workers have started; none of them logs."""

    def __init__(self, start: int, steps: int, device: torch.device) -> None:
        super().__init__()
        from torch.profiler import ProfilerActivity, profile

        self.first, self.last = measured(start + steps, steps)
        kinds = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
        self.profiler, self.waits, self.device = profile(activities=kinds), 0.0, device

    def tick(self, step: int) -> None:
        if step == self.first:
            end(self.device)
            self.profiler.start()
        elif step == self.last - 1:  # the last step of a run logs
            self.profiler.stop()
            count = sum(event.count for event in self.profiler.key_averages() if event.key in WAITS)
            self.waits = count / (step - self.first)


def count_waits(live: Live, steps: int) -> float:
    """Return the calls a step that wait for the card, in the second block; none on a CPU."""
    if live.accelerator.device.type != "cuda":
        our_steps(live, steps, steps)
        return 0.0
    profiled = Profiled(steps, steps, live.accelerator.device)
    our_steps(live, steps, steps, profiled)
    return profiled.waits


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
    parser.add_argument("--trainer", choices=["fp32", "bf16"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        with tempfile.TemporaryDirectory() as folder:
            measured_side = measure if options.trainer is None else measure_trainer
            print(json.dumps(measured_side(options.work, options, Path(folder))))
        return
    unknown = sorted(set(options.names) - WORKS.keys())
    if unknown:
        parser.error(f"unknown work {unknown[0]!r}; choose from {', '.join(WORKS)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or WORKS:
            ours = run_work([name, "--folder", folder], options.limit)
            print(f"{name}: {in_words(ours)}", flush=True)
            for precision in TRAINER.get(name, ()):
                side = [name, "--folder", folder, "--trainer", precision]
                theirs = run_work(side, options.limit)
                if STEP in ours and STEP in theirs:
                    theirs["ours / Trainer"] = round(ours[STEP] / theirs[STEP], 3)
                print(f"    Trainer, {precision}: {in_words(theirs)}", flush=True)


def run_work(arguments: list[str], limit: float) -> dict[str, Any]:
    """Measure one side of a work in a process of its own; return its figures, or its failure."""
    command = [*this_command(), "--work", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"not ended within": f"{limit:g} s"}
    if done.returncode != 0:
        return {"failed:": " | ".join(done.stderr.strip().splitlines()[-3:])}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def in_words(figures: dict[str, Any]) -> str:
    """Return figures as a list in words."""
    return ", ".join(f"{what} {value}" for what, value in figures.items())


if __name__ == "__main__":
    main()
