"""Loss terms as sums over explicit counts, across micro-batches, processes and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.batching.plan import MicroBatch
from finetune.inference.evaluation_loop import TINY, total_loss
from finetune.model import Batch
from finetune.training.state import Progress


def global_counts(
    batches: Sequence[tuple[MicroBatch, Batch]],
    terms: Sequence[str],
    groups: int,
    stops: bool,
    accelerator: Accelerator,
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Sum the count of each term in each group over all batches and processes, fillers apart.

    Also count the processes with `stops`: one collective serves both. Reading that on a GPU
    synchronizes with the host.
    """
    local = [
        float(
            sum(
                float(batch["count"][term])
                for micro_batch, batch in batches
                if micro_batch.group == group and not micro_batch.filler
            )
        )
        for group in range(groups)
        for term in terms
    ]
    vector = torch.tensor([*local, float(stops)])
    if accelerator.num_processes > 1:
        vector = accelerator.reduce(vector.to(accelerator.device), "sum")
    counts = [
        {
            term: vector[group * len(terms) + place].clamp(min=TINY)
            for place, term in enumerate(terms)
        }
        for group in range(groups)
    ]
    return counts, vector[-1]


class RunningLoss:
    """Sums of this process's loss terms since the last logged line, kept on the device.

    `progress` counts the steps and stores the sums of every process in checkpoints, so that a
    resumed run logs bitwise the same losses.
    """

    def __init__(self, progress: Progress, accelerator: Accelerator) -> None:
        self._progress = progress
        self._accelerator = accelerator
        rank, device = accelerator.process_index, accelerator.device
        self._sums: dict[str, Tensor] = {}
        for term, sums in progress.loss_sums.items():
            # If the number of processes has changed, the first one takes over the whole sum.
            same = len(sums) == accelerator.num_processes
            local = sums[rank] if same else sum(sums) * (rank == 0)
            self._sums[term] = torch.tensor(local, device=device)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one more step."""
        for term, value in terms.items():
            self._sums[term] = self._sums[term] + value if term in self._sums else value
        self._progress.loss_steps += 1

    def take(self) -> dict[str, float]:
        """Return the mean over steps, summed over processes, and reset."""
        vector = torch.stack(list(self._sums.values()))
        if self._accelerator.num_processes > 1:
            vector = self._accelerator.reduce(vector, "sum")
        steps = self._progress.loss_steps
        mean = {
            term: value / steps for term, value in zip(self._sums, vector.tolist(), strict=True)
        }
        self._sums, self._progress.loss_steps = {}, 0
        return total_loss(mean)

    def store(self) -> None:
        """Store the sums of every process in `progress`, for a checkpoint."""
        gather = self._accelerator.gather
        self._progress.loss_sums = {
            term: gather(value.reshape(1)).tolist() for term, value in self._sums.items()
        }
