"""What happens to gradients before an update: clipping, and a guard against non-finite ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm

from finetune.distributed.fsdp import full_tensor
from finetune.errors import FinetuneError

TINY = 1e-6
"""Added to the norm, as `clip_grad_norm_` does."""


def clip_gradients(
    optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], most: float | None
) -> Tensor:
    """Clip the gradients of the next update to the global norm `most`; return their norm before.

    A fused optimizer on a CPU divides gradients itself while it reads them, by the `grad_scale`
    that torch.amp.GradScaler would set. This saves a pass over all of them.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # The kernels read the scale as a float32 number, in which float64 would lose its precision.
    are_plain = all(
        type(each) is Tensor and each.is_cpu and each.dtype == torch.float32 for each in gradients
    )
    if not (are_plain and optimizer.defaults.get("fused")):
        return full_tensor(clip_grad_norm_(parameters, most or math.inf))
    norm = get_total_norm(gradients)
    scale = (norm + TINY) / (most or math.inf)
    optimizer.grad_scale = scale if scale > 1 else None  # type: ignore[attr-defined]
    return norm


class FiniteGuard:
    """Guard of the weights against non-finite gradients, with no host synchronization per step.

    On a CPU, and for optimizers without a fused kernel, `check` raises before the update. A fused
    optimizer on a CUDA device instead skips that update on the device, and all later ones, until
    `confirm` raises on a step that logs. (Not all fused kernels of other devices support that.)
    Under a loss scaler, skipped updates are normal and only counted.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        scaled: bool,
        device: torch.device,
        remedy: str = "Lower optim.lr",
    ) -> None:
        """Guard the weights of an optimizer; `remedy` is the last sentence of its error."""
        self.optimizer, self.remedy = optimizer, remedy
        self.scaled = scaled
        self.deferred = device.type == "cuda" and bool(optimizer.defaults.get("fused"))
        self.nonfinite: Tensor | None = None

    def check(self, norm: Tensor, step: int) -> None:
        """Check the global gradient norm before update `step`. Raises FinetuneError."""
        bad = ~torch.isfinite(norm)
        if self.scaled:
            self.nonfinite = bad.float() if self.nonfinite is None else self.nonfinite + bad.float()
            return
        if not self.deferred:
            self._raise_if(bool(bad), step)
            return
        self.nonfinite = (
            bad.float() if self.nonfinite is None else torch.maximum(self.nonfinite, bad.float())
        )
        self.optimizer.found_inf = self.nonfinite  # type: ignore[attr-defined]  # read by fused kernels, as GradScaler sets it

    def confirm(self, step: int) -> int:
        """Raise FinetuneError if the device skipped an update.

        Returns the number of updates that the loss scaler skipped since the last call.
        """
        if self.scaled:
            skipped = 0 if self.nonfinite is None else int(self.nonfinite)
            self.nonfinite = None
            return skipped
        self._raise_if(self.nonfinite is not None and bool(self.nonfinite > 0), step)
        return 0

    def _raise_if(self, bad: bool, step: int) -> None:
        if bad:
            raise FinetuneError(
                f"step {step}: the gradient is not finite; the update was not applied, and the "
                f"last checkpoint is good. {self.remedy}"
            )
