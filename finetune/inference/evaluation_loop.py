"""Evaluation loop: metrics of a model on a split, each row counted once on any process count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import accelerate
import torch
from accelerate.utils import gather_object
from torch import Tensor

from finetune.batching.data_loader import Split, load_batches
from finetune.batching.parts import rows_at_once
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.distributed.devices import as_float32, to_device
from finetune.distributed.precision import quick_inference
from finetune.errors import listed
from finetune.model import TransferModel
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Stats, take_rows

# A loss term without items has the sum 0, and 0 / TINY is 0.
TINY = 1e-12


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split, and the statistics [N, ...] they are computed from, in row order.

    Attributes:
        metrics: the losses, and metrics that are finite, since JSON has no other numbers.
        predictions: one per row if the task scores predictions, else empty.
        undefined: names of metrics that are not a number on these rows.
    """

    metrics: dict[str, float]
    stats: Stats
    predictions: list[Prediction] = field(default_factory=list)
    undefined: tuple[str, ...] = ()

    def undefined_note(self, split: str) -> str:
        """Return a sentence on metrics that are undefined; "" if there are none."""
        if not self.undefined:
            return ""
        return f"{split}: undefined (NaN) on these rows, left out: {listed(self.undefined, 8)}"


class _BatchResult(NamedTuple):
    """Statistics, loss sums and predictions of one batch of a split."""

    micro_batch: MicroBatch
    stats: Stats
    sums: dict[str, float]
    counts: dict[str, float]
    predictions: list[Prediction]


def evaluate_split(
    model: TransferModel,
    task: Task,
    split: Split,
    accelerator: accelerate.Accelerator,
    *,
    block: int,
    workers: int = 0,
) -> Evaluation:
    """Evaluate the unwrapped `model` on a split; the result is the same on every process.

    Rows are sorted by length and divided into blocks independently of the number of processes, so
    no row is counted twice and the metrics do not depend on that number.
    """
    micro_batches = blocks_by_length(
        split.lengths,
        rows_at_once(task, block),
        accelerator.process_index,
        accelerator.num_processes,
    )
    batches = load_batches(
        split, task, micro_batches, seed=0, device=accelerator.device, workers=workers
    )
    results: list[_BatchResult] = []
    model.eval()
    quick = quick_inference(model, accelerator.device, accelerator.mixed_precision)
    with torch.inference_mode(), quick:
        for micro_batch, batch in batches:
            batch = to_device(batch, accelerator.device)
            with accelerator.autocast():
                outputs = model(batch)
                predictions = task.predict(model, batch) if task.score is not None else []
            outputs = as_float32(outputs)
            sums = {term: float(value) for term, value in task.loss(outputs, batch).items()}
            counts = {term: float(value) for term, value in batch["count"].items()}
            stats = {name: value.cpu() for name, value in task.measure(outputs, batch).items()}
            results.append(_BatchResult(micro_batch, stats, sums, counts, predictions))
    # One collective for the whole split. Summing in slot order gives equal sums on all processes.
    results = sorted(gather_object(results), key=lambda result: result.micro_batch.slot)
    return _join_results(results, task, split)


def _join_results(results: Sequence[_BatchResult], task: Task, split: Split) -> Evaluation:
    """Compute the metrics of a split from the results of all of its batches."""
    order = torch.argsort(
        torch.tensor([index for result in results for index in result.micro_batch.indices])
    )
    stats = {
        name: _concatenate([result.stats[name] for result in results])[order]
        for name in results[0].stats
    }
    losses = mean_loss(
        _sum_terms([result.sums for result in results]),
        _sum_terms([result.counts for result in results]),
    )
    metrics = task.summarize(stats)
    predictions = []
    if task.score is not None:
        unordered = [prediction for result in results for prediction in result.predictions]
        predictions = [unordered[position] for position in order.tolist()]
        metrics |= task.score(predictions, take_rows(split.rows, range(len(split))))
    finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
    undefined = tuple(name for name in metrics if name not in finite)
    return Evaluation(losses | finite, stats, predictions, undefined)


def summarize_again(evaluation: Evaluation, task: Task) -> Evaluation:
    """Return the evaluation with the metrics that the task computes of its statistics now."""
    fresh = task.summarize(evaluation.stats)
    finite = {name: value for name, value in fresh.items() if math.isfinite(value)}
    return replace(evaluation, metrics=evaluation.metrics | finite)


def _sum_terms(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {term: sum(part[term] for part in parts) for term in parts[0]}


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate batches of a statistic to [N, ...]; pad later axes with 0 to the widest."""
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    if all(list(part.shape[1:]) == shape for part in parts):
        return torch.cat(list(parts))
    joined = parts[0].new_zeros([sum(len(part) for part in parts), *shape])
    start = 0
    for part in parts:
        rows = slice(start, start + len(part))
        joined[(rows, *map(slice, part.shape[1:]))] = part
        start += len(part)
    return joined


def mean_loss(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Divide each loss term by its count; return the terms and their sum."""
    return total_loss({term: value / max(counts[term], TINY) for term, value in sums.items()})


def total_loss(terms: Mapping[str, float]) -> dict[str, float]:
    """Return the sum of the loss terms, and each term by name if there are several."""
    named = {f"loss/{term}": value for term, value in terms.items()} if len(terms) > 1 else {}
    return {"loss": sum(terms.values()), **named}
