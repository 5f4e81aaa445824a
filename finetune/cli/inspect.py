"""The command `inspect`: a dry run that shows the config, one row's path, steps, memory and time.

Nothing is trained: gradients are computed to time them, but no update is made. Nothing is written
except a contact sheet, on request.
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
from finetune.distributed.devices import as_float32, to_device
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
# Steps from which the cost of an epoch is extrapolated.
SAMPLED_STEPS = 200
_EXCERPT = 160
_DEFAULT = "default"


def inspect_run(
    loaded: Loaded, task: Task, sheet: Path | None = None, *, with_defaults: bool = False
) -> None:
    """Print what `train` would do with this config; draw a contact sheet if `sheet` is given.

    First how the data were read, then one row on its way to a prediction, then the config: keys
    that were set or chosen, and those at their default `with_defaults`.

    Raises the FinetuneError that `train` would.
    """
    config = loaded.config
    if sheet is not None:
        check_sheet(sheet)
    check_optimizer(config.optim.name)
    state = this_process()
    console = Console(enabled=state.is_main_process)
    splits = open_splits(config.data, task)
    accelerator = make_accelerator(choose_precision(config.train.precision, state.device)[0])
    prepared = assemble(config, task, splits, accelerator)
    if sheet is not None and state.is_main_process:
        draw_contact_sheet(prepared.live, sheet)

    console.heading("data")
    console.facts({"read": "\n".join([*loaded.notes, *splits.notes, splits.sizes])})
    console.heading("one row")
    console.facts(trace_row(prepared))
    console.heading("run")
    # The section "config" below shows the defaults.
    facts = describe_run(prepared, splits).lines(with_defaults=False)
    console.facts(facts | task.views.survey(splits.train))
    console.heading("config")
    for line in config_lines(loaded, prepared, with_defaults=with_defaults):
        console.print(f"  {line}")
    console.heading("estimates")
    console.facts(estimate(prepared))
    if sheet is None:
        console.print("dry run: nothing was trained, nothing was written")
    else:
        console.print(f"dry run: nothing was trained; contact sheet written to {sheet}")


def config_lines(
    loaded: Loaded, prepared: Prepared, *, with_defaults: bool = False
) -> Iterator[str]:
    """Yield the keys that were set or chosen, each with its value and the origin of the value.

    `with_defaults` adds the keys at their default; without, a last line counts them.
    """
    before, values = flatten(loaded.config), flatten(prepared.live.config)
    origins = {key: _origin(key, loaded, prepared, values[key] != before[key]) for key in values}
    shown = [key for key in values if with_defaults or origins[key] != _DEFAULT]
    items = {key: f"{key}={_json(values[key])}" for key in shown}
    width = max((len(item) for item in items.values() if len(item) < 60), default=0)
    for key, item in items.items():
        yield f"{item:<{width}}  {origins[key]}"
    if len(shown) < len(values):
        yield f"and {len(values) - len(shown)} keys at their default; --all lists them"


def _origin(key: str, loaded: Loaded, prepared: Prepared, is_chosen: bool) -> str:
    if key in prepared.reasons:
        return prepared.reasons[key]
    return "chosen, see above" if is_chosen else loaded.origins.get(key, _DEFAULT)


# ---- one row


def trace_row(prepared: Prepared) -> dict[str, str]:
    """Trace the first row of the first step from the row to its prediction, {stage: text}."""
    live = prepared.live
    micro_batch = live.plan.micro_batches(0, live.accelerator.process_index)[0]
    row: Row = take_rows(live.train.rows, [micro_batch.indices[0]])[0]
    sample = live.task.encode(row)
    batch = _batch(live, micro_batch)
    live.model.eval()
    with torch.inference_mode(), live.accelerator.autocast():
        outputs = as_float32(live.model(batch))  # as in the training loop
        alone = encode_batch(live.task, [row])
        prediction = live.task.predict(live.model, to_device(alone, live.accelerator.device))[0]
    sums = {term: float(value) for term, value in live.task.loss(outputs, batch).items()}
    losses = mean_loss(sums, {term: float(count) for term, count in batch["count"].items()})
    facts = {
        "row": "\n".join(f"{name}: {_excerpt(value)}" for name, value in row.items()),
        "sample": _outline(sample),
        "read as": live.task.views.show(sample)[: 4 * _EXCERPT],
        "batch": _outline(batch),
        "outputs": _outline(outputs),
        "loss": ", ".join(f"{name} {value:.4f}" for name, value in losses.items()) + ", untrained",
        "prediction": f"{_excerpt(_json(prediction))}, untrained",
    }
    return {name: text for name, text in facts.items() if text}


def _batch(live: Live, micro_batch: MicroBatch) -> Batch:
    device, seed = live.accelerator.device, live.config.train.seed
    _, batch = next(load_batches(live.train, live.task, [micro_batch], seed=seed, device=device))
    return to_device(batch, device)  # type: ignore[no-any-return]


# ---- steps, memory, time


def estimate(prepared: Prepared) -> dict[str, str]:
    """Estimate memory (weights, gradients, optimizer state), and the time of a step and the run."""
    live = prepared.live
    total = sum(p.nbytes for p in live.model.network.parameters())
    trained = sum(p.nbytes for group in live.optimizer.param_groups for p in group["params"])
    kind = OPTIMIZERS.get(live.config.optim.name)
    states = (
        f"{kind.states * trained / MIB:.1f} MiB optimizer" if kind else "plus the optimizer state"
    )
    facts = {
        "memory": f"{total / MIB:.1f} MiB weights, {trained / MIB:.1f} MiB gradients, {states}"
    }
    cost = time_steps(prepared)
    if cost.peak_bytes:
        facts["memory"] += f", {cost.peak_bytes / MIB:.0f} MiB peak on the longest batch"
    rows = f"{cost.longest_rows} rows"
    if live.train.lengths.max() > 1:
        rows += f" of {cost.longest} {live.task.views.length_unit}"
    facts["longest"] = f"{rows} take {cost.longest_seconds:.2f} s"
    times = [f"{part} about {format_duration(each)}" for part, each in cost.parts.items()]
    facts["time"] = "\n".join(times)
    return facts


@dataclass(frozen=True)
class Cost:
    """Timings of the longest micro-batch on this machine, and estimates for the whole run.

    Attributes:
        longest: length of its longest row.
        longest_rows: its number of rows.
        longest_seconds: time of one pass over it.
        peak_bytes: peak GPU memory of that pass; 0 on a CPU.
        parts: estimates, {"training, 100 steps:": seconds, ...}.
    """

    longest: int
    longest_rows: int
    longest_seconds: float
    peak_bytes: int
    parts: dict[str, float]


def time_steps(prepared: Prepared) -> Cost:
    """Time the longest micro-batch; extrapolate the run from the padded lengths of the others."""
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
        parts = {
            "features, computed once and cached:": unit * sum(int(s.lengths.sum()) for s in every)
        }
    else:
        epoch = (
            unit * sum(_padded(live, p) for p in micro_batches) * live.plan.steps_per_epoch / steps
        )
        epochs = live.total_steps / live.plan.steps_per_epoch
        parts = {f"training, {live.total_steps} steps:": epoch * epochs}
        parts["one evaluation of the held-out rows:"] = held_out
    if (tuned := live.method.contrastive) is not None:
        batch = live.config.train.batch_size * float(live.train.lengths.mean())
        # A backward pass costs about twice a forward pass.
        parts[f"contrastive tuning, {tuned.steps} steps:"] = 3 * forward * tuned.steps * batch
    length = int(live.train.lengths[list(longest.indices)].max())
    return Cost(length, len(longest.indices), seconds, peak, parts)


def _padded(live: Live, micro_batch: MicroBatch) -> int:
    """Return the compute cost of a micro-batch, padding included."""
    return live.task.cost(live.train.lengths[list(micro_batch.indices)].tolist())


def _seconds(live: Live, micro_batch: MicroBatch, *, backward: bool) -> float:
    """Time two passes in train mode and return the shorter time."""
    batch, device = _batch(live, micro_batch), live.accelerator.device
    live.method.train_mode(live.model)
    times = []
    for _ in range(2):  # the first pass may include one-time setup
        _wait(device)
        start = time.perf_counter()
        with torch.set_grad_enabled(backward):
            with live.accelerator.autocast():
                outputs = as_float32(live.model(batch))
            loss = torch.stack(list(live.task.loss(outputs, batch).values())).sum()
        if backward:
            loss.backward()  # type: ignore[no-untyped-call]
        _wait(device)
        times.append(time.perf_counter() - start)
        live.optimizer.zero_grad()
    return min(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


# ---- formatting of values


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for the leaves of nested dicts; a list of scalars is one leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list) and any(isinstance(item, Tensor | dict) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}.{place}" if name else str(place))
    else:
        yield name, value


def _outline(nested: Any) -> str:
    """Describe each leaf of a nested value in a line: its name, type and shape."""
    leaves = _leaves(nested)
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
