"""The terms of a loss: sums over their own counts, over micro-batches, processes and steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from finetune.inference.evaluation_loop import TINY, total_loss
from finetune.model import Batch
from finetune.training.state import Progress


def global_counts(
    batches: Iterable[Batch], terms: Sequence[str], told: bool, accelerator: Accelerator
) -> tuple[dict[str, Tensor], Tensor]:
    """The count of each term over all batches of all processes, and on how many of them `told`.

    Both in one collective; on a GPU, reading the second makes the host wait.
    """
    own = [float(sum(float(batch["count"][term]) for batch in batches)) for term in terms]
    vector = torch.tensor([*own, float(told)])
    if accelerator.num_processes > 1:
        vector = accelerator.reduce(vector.to(accelerator.device), "sum")
    counts = {term: vector[place].clamp(min=TINY) for place, term in enumerate(terms)}
    return counts, vector[-1]


class RunningLoss:
    """The loss terms of this process since the last line of the log.

    They stay on the device until they are asked for. `progress` counts the steps, and takes the
    sums of every process into a checkpoint: only so does a resumed run log the same bits.
    """

    def __init__(self, progress: Progress, accelerator: Accelerator) -> None:
        self._progress = progress
        self._accelerator = accelerator
        rank, device = accelerator.process_index, accelerator.device
        self._sums: dict[str, Tensor] = {}
        for term, sums in progress.loss_sums.items():
            # After a change of the number of processes, all of it counts as the first one's.
            same = len(sums) == accelerator.num_processes
            own = sums[rank] if same else sum(sums) * (rank == 0)
            self._sums[term] = torch.tensor(own, device=device)

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take the terms of one more step."""
        for term, value in terms.items():
            self._sums[term] = self._sums[term] + value if term in self._sums else value
        self._progress.loss_steps += 1

    def take(self) -> dict[str, float]:
        """The mean over the steps and all processes; counting begins anew."""
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
        """Put the sums of every process into `progress`, for a checkpoint."""
        gather = self._accelerator.gather
        self._progress.loss_sums = {
            term: gather(value.reshape(1)).tolist() for term, value in self._sums.items()
        }
