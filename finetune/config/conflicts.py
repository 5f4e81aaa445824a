"""Keys that are empty, that exclude each other, or that have no effect together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError, raise_for_faults


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
    """Raise ConfigError for empty keys, and keys that exclude each other or have no effect."""
    raise_for_faults("the config", [*_empty_keys(config), *config.task.key_faults()])
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


def _empty_keys(config: RunConfig) -> Iterator[str]:
    """Yield the faults of texts such as data.field="", which name nothing."""
    for section in ("model", "data", "output"):
        for key, value in getattr(config, section):
            if value == "":
                yield f"{section}.{key}: is empty; give a value, or leave the key out"


def _refuse(keys: Mapping[str, Any], why: str) -> None:
    for key, value in keys.items():
        if value is not None:
            raise ConfigError(f"{key}={value}: {why}")
