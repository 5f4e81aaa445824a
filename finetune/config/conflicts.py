"""Keys that exclude each other, or that have no effect together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError


class MethodFacts(Protocol):
    """Facts about a method, from its config or from its class; see `MethodConfig`."""

    @property
    def takes_quantized(self) -> bool: ...
    @property
    def freezes_backbone(self) -> bool: ...
    @property
    def tunes_backbone(self) -> bool: ...
    @property
    def solves_head(self) -> bool: ...


def check_conflicts(config: RunConfig, method: MethodFacts) -> None:
    """Raise ConfigError for keys that have no effect together, or exclude each other."""
    model, optim = config.model, config.optim
    if model.quantize and (not method.takes_quantized or method.tunes_backbone):
        raise ConfigError(
            f"model.quantize={model.quantize}: quantized weights cannot be trained with "
            f"method={config.method.name}; use method=lora, or leave model.quantize out"
        )
    drops = {"model.dropout": model.dropout, "model.drop_path": model.drop_path}
    _refuse(
        drops if method.freezes_backbone and not method.tunes_backbone else {},
        "method=frozen runs the backbone in evaluation mode, without dropout; leave it out, or use "
        "method=lora, partial or full, or method.contrastive",
    )
    loops = {
        "train.sampling": config.train.sampling if config.train.sampling != "each" else None,
        "optim.l1_head": optim.l1_head or None,
        "optim.ema": optim.ema,
    }
    _refuse(
        loops if method.solves_head else {},
        "no effect with method.solver=exact, which takes no steps; leave it out, or use "
        "method.solver=loop",
    )


def _refuse(keys: Mapping[str, Any], why: str) -> None:
    for key, value in keys.items():
        if value is not None:
            raise ConfigError(f"{key}={value}: {why}")
