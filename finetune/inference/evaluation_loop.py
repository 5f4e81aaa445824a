"""How good a model is on a split: every row once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import accelerate
import torch
from accelerate.utils import gather_object
from torch import Tensor

from finetune.batching.data_loader import Split, load_batches
from finetune.batching.parts import rows_at_once
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.distributed.devices import as_float32, to_device
from finetune.distributed.precision import cast_once
from finetune.model import TransferModel
from finetune.task import Task
from finetune.task_parts import Prediction, Stats, take_rows

# A term without an item has the sum 0, and 0 / tiny is 0.
TINY = 1e-12


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a split, and the statistics [N, ...] behind them, in the order of the rows.

    Attributes:
        predictions: one for each row where the task scores predictions, else none.
    """

    metrics: dict[str, float]
    stats: Stats
    predictions: list[Prediction] = field(default_factory=list)


class _Part(NamedTuple):
    """What one batch of a split gives."""

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
    """Metrics of the unwrapped `model` on a split; the same on every process.

    Rows are sorted by length and cut into blocks that do not depend on the number of processes, so
    that no row is counted twice and any number of processes gives the same metrics.
    """
    block, score = rows_at_once(task, block), task.score
    micro_batches = blocks_by_length(
        split.lengths, block, accelerator.process_index, accelerator.num_processes
    )
    batches = load_batches(
        split, task, micro_batches, seed=0, device=accelerator.device, workers=workers
    )
    found: list[_Part] = []
    model.eval()
    with torch.inference_mode(), cast_once(model, accelerator.mixed_precision):
        for micro_batch, batch in batches:
            batch = to_device(batch, accelerator.device)
            with accelerator.autocast():
                outputs = model(batch)
                predictions = task.predict(model, batch) if score is not None else []
            outputs = as_float32(outputs)
            sums = {term: float(value) for term, value in task.loss(outputs, batch).items()}
            counts = {term: float(value) for term, value in batch["count"].items()}
            stats = {name: value.cpu() for name, value in task.measure(outputs, batch).items()}
            found.append(_Part(micro_batch, stats, sums, counts, predictions))
    # One collective for the whole split; blocks in equal order give equal sums everywhere.
    found = sorted(gather_object(found), key=lambda part: part.micro_batch.slot)

    order = torch.argsort(
        torch.tensor([index for part in found for index in part.micro_batch.indices])
    )
    stats = {name: _join([part.stats[name] for part in found])[order] for name in found[0].stats}
    losses = mean_loss(
        _summed([part.sums for part in found]), _summed([part.counts for part in found])
    )
    metrics = losses | task.summarize(stats)
    said: list[Prediction] = []
    if score is not None:
        unordered = [prediction for part in found for prediction in part.predictions]
        said = [unordered[place] for place in order.tolist()]
        metrics |= score(said, take_rows(split.rows, range(len(split))))
    return Evaluation(metrics, stats, said)


def _summed(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {term: sum(part[term] for part in parts) for term in parts[0]}


def _join(parts: Sequence[Tensor]) -> Tensor:
    """Batches of a statistic in one tensor [N, ...]; later axes are padded with 0 to the widest."""
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
    """Each term over its own count, and their sum."""
    return total_loss({term: value / max(counts[term], TINY) for term, value in sums.items()})


def total_loss(terms: Mapping[str, float]) -> dict[str, float]:
    """The sum of the loss terms, and each by name where there are several."""
    named = {f"loss/{term}": value for term, value in terms.items()} if len(terms) > 1 else {}
    return {"loss": sum(terms.values()), **named}
