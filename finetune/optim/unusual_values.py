"""Unusual values of config keys, named in the summary of a run and when training diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

USUAL: dict[str, tuple[float, float]] = {
    "optim.lr": (0, 1),
    "optim.head_lr": (0, 10),
    "optim.weight_decay": (0, 10),
    "optim.l1_head": (0, 10),
    "optim.max_grad_norm": (1e-6, 1e12),
    "method.alpha": (0, 10_000),
    "method.dropout": (0, 0.95),
    "task.label_smoothing": (0, 0.95),
}
"""{key: (smallest, largest)}, far wider than any recipe; 0, which turns a key off, is usual."""


def unusual_values(values: Mapping[str, Any], steps: int) -> list[str]:
    """Return "key=value (usual: ...)" for each unusual value of a flat config.

    `steps` is the number of optimizer steps of the run; a warm-up should be shorter.
    """
    found = []
    for key, (low, high) in USUAL.items():
        value = values.get(key)
        if isinstance(value, int | float) and value != 0 and not low <= value <= high:
            usual = f"at most {high:g}" if value > high else f"at least {low:g}"
            found.append(f"{key}={value:g} (usual: {usual})")
    warmup = values.get("optim.warmup_steps") or 0
    if warmup >= steps > 0:
        found.append(
            f"optim.warmup_steps={warmup:g} (usual: fewer than the {steps} steps of the run)"
        )
    return found


def divergence_remedy(values: Mapping[str, Any], steps: int) -> str:
    """Return the remedy for weights or gradients that are not finite, the likely cause first."""
    unusual = unusual_values(values, steps)
    if unusual:
        return f"Likely cause: {', '.join(unusual)}; change it"
    precision = values.get("train.precision")
    or_precise = "" if precision == "fp32" else ", or use train.precision=fp32"
    return f"Lower optim.lr and optim.head_lr, raise optim.warmup_steps{or_precise}"
