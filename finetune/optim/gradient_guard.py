"""Guard that keeps non-finite gradients from reaching the weights."""

from __future__ import annotations

import torch

from finetune.errors import FinetuneError


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
        self.nonfinite: torch.Tensor | None = None

    def check(self, norm: torch.Tensor, step: int) -> None:
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
