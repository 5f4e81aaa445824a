"""A gradient that is not finite never reaches the weights."""

from __future__ import annotations

import torch

from finetune.errors import FinetuneError


class FiniteGuard:
    """Keeps a gradient that is not finite from reaching the weights.

    On a CPU, and for optimizers without a fused kernel, `check` raises before the update. A fused
    optimizer on a CUDA device is told to skip the update on the device instead, and every one after
    it, until `confirm` raises on a step that logs: no step waits for the host. (Kernels of other
    devices do not all heed that.) Under a loss scaler the scaler's own skips are normal, and are
    counted.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, scaled: bool, device: torch.device
    ) -> None:
        self.optimizer = optimizer
        self.scaled = scaled
        self.deferred = device.type == "cuda" and bool(optimizer.defaults.get("fused"))
        self.found: torch.Tensor | None = None

    def check(self, norm: torch.Tensor, step: int) -> None:
        """Take the L2 norm of the whole gradient into account before update `step`."""
        bad = ~torch.isfinite(norm)
        if self.scaled:
            self.found = bad.float() if self.found is None else self.found + bad.float()
            return
        if not self.deferred:
            self._raise_if(bool(bad), step)
            return
        self.found = bad.float() if self.found is None else torch.maximum(self.found, bad.float())
        self.optimizer.found_inf = self.found  # type: ignore[attr-defined]  # read by fused kernels, as GradScaler sets it

    def confirm(self, step: int) -> int:
        """Raise if an update was skipped on the device; how many the loss scaler has skipped since
        it was asked last.
        """
        if self.scaled:
            skipped = 0 if self.found is None else int(self.found)
            self.found = None
            return skipped
        self._raise_if(self.found is not None and bool(self.found > 0), step)
        return 0

    def _raise_if(self, bad: bool, step: int) -> None:
        if bad:
            raise FinetuneError(
                f"step {step}: the gradient is not finite; the weights are as they were before it, "
                "and the last checkpoint is good. Lower optim.lr, lengthen optim.warmup_steps, or "
                "set train.precision=fp32"
            )
