"""What a run would do, before it does it: the config, one row on its way, steps, memory and time.

Nothing is trained, and nothing is written but a sheet of pictures that was asked for: gradients are
computed to time them, no update is made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.batching.data_loader import encode_batch, load_batches
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.batching.row_cache import BLOCK
from finetune.cli.contact_sheet import check_sheet, draw_contact_sheet
from finetune.config.loading import Loaded
from finetune.config.yaml import flatten
from finetune.data.opening import open_splits
from finetune.distributed.devices import to_device
from finetune.distributed.launch import make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.inference.evaluation_loop import mean_loss
from finetune.model import Batch
from finetune.optim.optimizers import OPTIMIZERS, check_optimizer
from finetune.reporting.console import Console, format_duration
from finetune.task import Task
from finetune.task_parts import Row, take_rows
from finetune.training.setup import Prepared, assemble, caches_features
from finetune.training.state import Live
from finetune.training.summary import describe_run

MIB = 2**20
# Steps over which the cost of an epoch is measured; the others are like them.
SAMPLED_STEPS = 200
_EXCERPT = 160


def inspect_run(loaded: Loaded, task: Task, sheet: Path | None = None) -> None:
    """Print what `train` would do with this config, and draw what its network would see on a sheet.

    Raises the FinetuneError that `train` would.
    """
    given = loaded.config
    if sheet is not None:
        check_sheet(sheet)
    check_optimizer(given.optim.name)
    state = this_process()
    console = Console(speaks=state.is_main_process)
    splits = open_splits(given.data, task)
    accelerator = make_accelerator(choose_precision(given.train.precision, state.device)[0])
    prepared = assemble(given, task, splits, accelerator)
    if sheet is not None and state.is_main_process:
        draw_contact_sheet(prepared.live, sheet)

    console.heading("config")
    for line in config_lines(loaded, prepared):
        console.print(f"  {line}")
    console.heading("run")
    facts = {"data": "\n".join([*loaded.notes, *splits.notes, splits.sizes])}
    # The defaults stand beside their keys.
    facts |= describe_run(prepared, splits).lines(with_defaults=False)
    console.facts(facts | task.views.survey(splits.train))
    console.heading("one row")
    console.facts(walk_row(prepared))
    console.heading("estimates")
    console.facts(estimate(prepared))
    if sheet is None:
        console.print("nothing was trained, nothing was written")
    else:
        console.print(f"nothing was trained; what the network will see is drawn in {sheet}")


def config_lines(loaded: Loaded, prepared: Prepared) -> Iterator[str]:
    """Every key with its value, and where that comes from."""
    before, values = flatten(loaded.config), flatten(prepared.live.config)
    short = [key for key, value in values.items() if len(_json(value)) < 40]
    width = max(len(f"{key}={_json(values[key])}") for key in short)
    for key, value in values.items():
        origin = loaded.origins.get(key, "default")
        if key in prepared.reasons:
            origin = prepared.reasons[key]
        elif value != before[key]:
            origin = "chosen, see below"
        yield f"{f'{key}={_json(value)}':<{width}}  {origin}"


# ---- one row


def walk_row(prepared: Prepared) -> dict[str, str]:
    """The first row of the first step: {what: as what it looks}, from the row to its prediction."""
    live = prepared.live
    micro_batch = live.plan.micro_batches(0, live.accelerator.process_index)[0]
    row: Row = take_rows(live.train.rows, [micro_batch.indices[0]])[0]
    sample = live.task.encode(row)
    batch = _batch(live, micro_batch)
    live.model.eval()
    with torch.inference_mode(), live.accelerator.autocast():
        outputs = live.model(batch)
        alone = encode_batch(live.task, [row])
        said = live.task.predict(live.model, to_device(alone, live.accelerator.device))[0]
    sums = {term: float(value) for term, value in live.task.loss(outputs, batch).items()}
    losses = mean_loss(sums, {term: float(count) for term, count in batch["count"].items()})
    facts = {
        "row": "\n".join(f"{name}: {_excerpt(value)}" for name, value in row.items()),
        "sample": _outline(sample),
        "read as": live.task.views.show(sample)[: 4 * _EXCERPT],
        "batch": _outline(batch),
        "outputs": _outline(outputs),
        "loss": ", ".join(f"{name} {value:.4f}" for name, value in losses.items()) + ", untrained",
        "prediction": f"{_excerpt(_json(said))}, untrained",
    }
    return {name: text for name, text in facts.items() if text}


def _batch(live: Live, micro_batch: MicroBatch) -> Batch:
    device, seed = live.accelerator.device, live.config.train.seed
    _, batch = next(load_batches(live.train, live.task, [micro_batch], seed=seed, device=device))
    return to_device(batch, device)  # type: ignore[no-any-return]


# ---- steps, memory, time


def estimate(prepared: Prepared) -> dict[str, str]:
    """Memory for weights, gradients and optimizer; the time of a step and of the whole run."""
    live = prepared.live
    total = sum(p.nbytes for p in live.model.network.parameters())
    trained = sum(p.nbytes for group in live.optimizer.param_groups for p in group["params"])
    kind = OPTIMIZERS.get(live.config.optim.name)
    known = (
        f"{kind.states * trained / MIB:.1f} MiB optimizer" if kind else "the optimizer beside it"
    )
    facts = {"memory": f"{total / MIB:.1f} MiB weights, {trained / MIB:.1f} MiB gradients, {known}"}
    cost = time_steps(prepared)
    if cost.peak_bytes:
        facts["memory"] += f", {cost.peak_bytes / MIB:.0f} MiB at the peak of the longest batch"
    rows = f"{cost.longest_rows} rows of {cost.longest}"
    facts["longest"] = f"{rows} take {cost.longest_seconds:.2f} s"
    times = [f"{what} about {format_duration(each)}" for what, each in cost.parts.items()]
    facts["time"] = "\n".join(times)
    return facts


@dataclass(frozen=True)
class Cost:
    """What was timed on this machine, and what follows for the whole run."""

    longest: int
    longest_rows: int
    longest_seconds: float
    peak_bytes: int
    parts: dict[str, float]
    """{"training": seconds, ...}"""


def time_steps(prepared: Prepared) -> Cost:
    """Time the longest micro-batch, and the rest of the run by its share of the padded length."""
    live = prepared.live
    cached = caches_features(live)
    steps = min(live.plan.steps_per_epoch, SAMPLED_STEPS)
    micro_batches = [
        p
        for step in range(steps)
        for p in live.plan.micro_batches(step, live.accelerator.process_index)
    ]
    if cached:
        micro_batches = blocks_by_length(live.train.lengths, BLOCK)
    longest = max(micro_batches, key=lambda micro_batch: _padded(live, micro_batch))
    if live.accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = _seconds(live, longest, backward=not cached)
    peak = torch.cuda.max_memory_allocated() if live.accelerator.device.type == "cuda" else 0
    unit = seconds / _padded(live, longest)
    forward = unit if cached else _seconds(live, longest, backward=False) / _padded(live, longest)

    held_out = sum(int(split.lengths.sum()) for split in prepared.held_out) * forward
    if cached:
        every = (live.train, *prepared.held_out)
        parts = {"features, once, and then kept:": unit * sum(int(s.lengths.sum()) for s in every)}
    else:
        epoch = (
            unit * sum(_padded(live, p) for p in micro_batches) * live.plan.steps_per_epoch / steps
        )
        epochs = live.total_steps / live.plan.steps_per_epoch
        parts = {f"training, {live.total_steps} steps:": epoch * epochs}
        parts["one evaluation of the held-out rows:"] = held_out
    if (tuned := live.method.contrastive) is not None:
        batch = live.config.train.batch_size * float(live.train.lengths.mean())
        # A backward pass costs about two forward ones.
        parts[f"contrastive tuning, {tuned.steps} steps:"] = 3 * forward * tuned.steps * batch
    length = int(live.train.lengths[list(longest.indices)].max())
    return Cost(length, len(longest.indices), seconds, peak, parts)


def _padded(live: Live, micro_batch: MicroBatch) -> int:
    """What a batch costs the network, padding included."""
    return live.task.cost(live.train.lengths[list(micro_batch.indices)].tolist())


def _seconds(live: Live, micro_batch: MicroBatch, *, backward: bool) -> float:
    """The shorter of two forward passes in the mode of training, each with its backward pass."""
    batch, device = _batch(live, micro_batch), live.accelerator.device
    live.method.train_mode(live.model)
    found = []
    for _ in range(2):  # the first one may pay for set-up
        _wait(device)
        start = time.perf_counter()
        with torch.set_grad_enabled(backward), live.accelerator.autocast():
            outputs = live.model(batch)
            loss = torch.stack(list(live.task.loss(outputs, batch).values())).sum()
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        _wait(device)
        found.append(time.perf_counter() - start)
        live.optimizer.zero_grad()
    return min(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# ---- how values are shown


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in a nest of dicts; lists of plain values are one."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list) and any(isinstance(item, Tensor | dict) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}.{place}" if name else str(place))
    else:
        yield name, value


def _outline(nest: Any) -> str:
    """A line for each value of a nest: its name, type and shape."""
    leaves = _leaves(nest)
    return "\n".join(f"{name or type(value).__name__}: {_shape(value)}" for name, value in leaves)


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, list):
        return f"{len(value)} values"
    return _excerpt(value)


def _excerpt(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} ... ({len(text)} characters)"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
