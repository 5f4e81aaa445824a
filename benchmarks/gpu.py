"""What only a GPU shows: steps per second, memory, utilization and waits of large networks.

    bash benchmarks/gpu.sh [WHEELS]                          # this and the large table, on one card
    python -m benchmarks.gpu --device cpu --size tiny        # to see that every part works

Every work trains a network with random weights by the kit, and by a bare loop over the same
batches, prepared beforehand, in turn: forward pass, loss and backward pass in bf16, clipping, fused
AdamW. The loops take turns of --steps steps, each twice: first for the new lengths of its batches,
then timed over its last three quarters, when the workers have started; the ratio is that of the
medians. Utilization is the number of floating-point
operations of a step, counted by torch over forward and backward pass, over what the card does in
this time on a matrix product of 8192 x 8192. Waits are calls that make the host wait for the card,
counted by torch's check of synchronization over steps that log nothing, with their places.
"-compiled" has train.compile, "-masks" attention with masks instead of boundaries for packed rows,
"-fused" task.fused_loss.

"decoder-4bit" and "decoder-8bit" train LoRA on quantized weights, merge them, save the model, load
it with transformers alone, and say how far its outputs are from those of the trained model.

Some works are also done by transformers.Trainer, in its default precision and in bf16. Each side of
a work runs in a process of its own; one that fails is reported, and the others go on.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import random_networks as networks
from benchmarks.bare_loops import Clock, micro_batches_of
from benchmarks.gpu_loops import BareLoop, begin, end, matrix_rate, measured, peak_memory
from benchmarks.gpu_trainer import train_by_trainer
from benchmarks.gpu_works import TRAINER, WORKS
from finetune.batching.data_loader import load_batches
from finetune.config.loading import load_config
from finetune.data.opening import open_splits
from finetune.distributed.devices import to_device
from finetune.distributed.launch import make_accelerator
from finetune.errors import nearest
from finetune.registry import INSTALLED, make_task
from finetune.task_parts.samples import take_rows
from finetune.training.loop import train_steps
from finetune.training.setup import assemble
from finetune.training.state import Live, Progress

STEP = "seconds a step"
WORKERS = 8  # that load batches, of either side
FEWEST_STEPS = 4
"""Of a block, of which the first quarter is not timed."""
Side = Callable[[str, argparse.Namespace, Path], dict[str, Any]]


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
    bare = BareLoop(live, [to_device(batch, device) for _, batch in loaded_batches])
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
            run(block * options.steps, options.steps)  # chooses kernels for lengths not seen yet
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


def measure_trainer(
    precision: str, name: str, options: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Train a work by transformers.Trainer; return its figures."""
    keys = keys_of(name, options, folder)
    first, steps = options.steps, options.steps * options.blocks
    times = train_by_trainer(keys, folder, precision=precision, first=first, steps=steps)
    return {STEP: round(times["seconds"], 4), "peak GB": round(times["peak"], 2)}


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


class CountedWaits(Clock):
    """Counts the calls that make the host wait for the card, once the workers have started."""

    def __init__(self, start: int, steps: int) -> None:
        super().__init__()
        self.first, self.last = measured(start + steps, steps)
        self.caught = warnings.catch_warnings(record=True)
        self.waits = 0.0

    def tick(self, step: int) -> None:
        if step == self.first:
            self.messages = self.caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        elif step == self.last - 1:  # the last step of a run logs
            torch.cuda.set_sync_debug_mode("default")
            self.caught.__exit__(None, None, None)
            found = [each for each in self.messages or [] if "synchroniz" in str(each.message)]
            self.waits = len(found) / (step - self.first)
            for place in sorted({f"{each.filename}:{each.lineno}" for each in found}):
                print(f"the host waits for the card in {place}", file=sys.stderr)


def count_waits(live: Live, steps: int) -> float:
    """Return the calls a step that wait for the card, in the second block; none on a CPU."""
    counted = CountedWaits(steps, steps)
    is_on_gpu = live.accelerator.device.type == "cuda"
    our_steps(live, steps, steps, counted if is_on_gpu else None)
    return counted.waits


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
    options = parser.parse_args()
    unknown = sorted(set(options.names) - WORKS.keys())
    if unknown:
        parser.error(f"unknown work {unknown[0]!r}; {nearest(unknown[0], WORKS)}")
    if options.steps < FEWEST_STEPS or options.blocks < 1:
        parser.error(f"expected --steps of {FEWEST_STEPS} or more and --blocks of 1 or more")
    import_libraries()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for name in options.names or WORKS:
            ours = run_work(measure, name, options)
            print(f"{name}: {in_words(ours)}", flush=True)
            for precision in TRAINER.get(name, ()):
                theirs = run_work(partial(measure_trainer, precision), name, options)
                if STEP in ours and STEP in theirs:
                    theirs["ours / Trainer"] = round(ours[STEP] / theirs[STEP], 3)
                print(f"    Trainer, {precision}: {in_words(theirs)}", flush=True)


def run_work(side: Side, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side of a work in a process of its own; return its figures, or its failure.

    It is forked, with all libraries imported and before the card is used.
    """
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)
    process = processes.Process(target=report, args=(sender, side, name, options))
    process.start()
    sender.close()
    try:
        if receiver.poll(options.limit):
            return receiver.recv()  # type: ignore[no-any-return]
        return {"not ended within": f"{options.limit:g} s"}
    except EOFError:
        process.join()
        return {"ended with exit code": process.exitcode}
    finally:
        process.kill()
        process.join()


def report(
    sender: multiprocessing.connection.Connection,
    side: Side,
    name: str,
    options: argparse.Namespace,
) -> None:
    """Send the figures of a side of a work, or its error."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            sender.send(side(name, options, Path(folder)))
        except Exception as error:
            traceback.print_exc()
            sender.send({"failed:": f"{type(error).__name__}: {error}"})


def import_libraries() -> None:
    """Import what most works need, once for all of them, but not peft.

    It imports bitsandbytes, which starts CUDA: forked processes could not use it any more.
    """
    import segmentation_models_pytorch
    import timm
    import torchvision.models.detection
    import transformers

    for name in ("BertModel", "LlamaForCausalLM", "ViTForImageClassification", "AutoTokenizer"):
        getattr(transformers, name)
    assert all((timm, segmentation_models_pytorch, torchvision))


def in_words(figures: dict[str, Any]) -> str:
    """Return figures as a list in words."""
    return ", ".join(f"{what} {value}" for what, value in figures.items())


if __name__ == "__main__":
    main()
