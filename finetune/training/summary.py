"""The header of a run: a readable summary of what is about to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from finetune.config.yaml import flatten
from finetune.errors import format_count, listed
from finetune.optim.unusual_values import unusual_values
from finetune.reporting.run_facts import NOT_APPLICABLE, RunFacts, cut_note
from finetune.task_parts.samples import Lengths
from finetune.training.setup import LabelCounts, Prepared
from finetune.training.state import Live

MOST_LABELS = 20


def describe_run(prepared: Prepared) -> RunFacts:
    """Summarize data, network, steps and defaults of a prepared run."""
    live = prepared.live
    config = live.config
    trained, total = count_parameters(live)
    tuned = ", the backbone by contrastive tuning" if live.method.contrastive is not None else ""
    values = flatten(config)
    processes = format_count(live.accelerator.num_processes, "process", "es")
    network = getattr(live.model.network, "backbone", live.model.network)  # the library's class
    return RunFacts(
        labels=_label_counts(prepared.labels["train"], live.task.rows.label_unit),
        length=_lengths(prepared),
        network=f"{type(network).__name__} from {config.model.name}",
        parameters=f"{trained:,} of {total:,} trained ({trained / total:.2%}){tuned}",
        device=f"{_device(live.accelerator.device)}, {processes}, {config.train.precision}",
        steps=_steps(prepared),
        batch=_batch(prepared),
        choices=(*prepared.notes, *_unusual(values, live.total_steps)),
        defaults=tuple(
            f"{key}={_number(values[key])}: {why}"
            for key, why in prepared.reasons.items()
            if why != NOT_APPLICABLE
        ),
    )


def _unusual(values: Mapping[str, Any], steps: int) -> list[str]:
    return [
        f"unusual: {value}; the network may not learn" for value in unusual_values(values, steps)
    ]


def count_parameters(live: Live) -> tuple[int, int]:
    """Count the trained parameters, and all parameters of the network."""
    trained = sum(p.numel() for group in live.optimizer.param_groups for p in group["params"])
    return trained, sum(p.numel() for p in live.model.network.parameters())


def _device(device: torch.device) -> str:
    if device.type != "cpu":
        return device.type
    return f"cpu, {format_count(torch.get_num_threads(), 'thread')}"


def _label_counts(labels: LabelCounts, unit: str) -> str:
    """Summarize how many rows or objects have each label; "" if there are no labels."""
    counts, without = labels
    if not counts:
        return ""
    named = listed((f"{label} {count}" for label, count in counts.most_common()), MOST_LABELS)
    rest = f"; {format_count(without, 'row')} without a label" if without else ""
    counted = "" if unit == "rows" else f", counted by {unit}"
    return f"{format_count(len(counts), 'label')} in train{counted}: {named}{rest}"


def _lengths(prepared: Prepared) -> str:
    """Summarize how many rows are truncated and how much is lost; "" for rows without a length."""
    arrays = [Lengths.of(part).array for part in prepared.lengths.values()]
    lengths = Lengths(np.concatenate(arrays))
    longest = int(lengths.used.max())
    if longest == 1:
        return ""
    unit = prepared.live.task.views.length_unit
    return cut_note(lengths, unit) or f"at most {longest} {unit}, nothing is truncated"


def _steps(prepared: Prepared) -> str:
    live = prepared.live
    if live.method.solves_head:
        return "none, the head is solved exactly"
    epochs = live.total_steps / live.plan.steps_per_epoch
    ending = "" if epochs == 1 else "s"
    return f"{live.total_steps} ({live.plan.steps_per_epoch} per epoch, {epochs:g} epoch{ending})"


def _batch(prepared: Prepared) -> str:
    live = prepared.live
    plan = live.plan
    micro_batches = [plan.micro_batches(0, process) for process in range(plan.processes)]
    sizes = [
        [len(micro_batch.indices) for micro_batch in of_process if not micro_batch.filler]
        for of_process in micro_batches
    ]
    batch = f"{plan.batch_size} samples, first step in micro-batches {', '.join(map(str, sizes))}"
    if live.train.features is not None:
        return f"{batch} of cached features"
    if plan.lengths.max() == 1:
        return batch
    useful = plan.useful_share(min(plan.steps_per_epoch, 200), live.task.cost)
    unit = live.task.views.length_unit
    return f"{batch}; {useful:.0%} of the computed {unit} are not padding"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
