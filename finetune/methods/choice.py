"""A method by its config."""

from __future__ import annotations

from finetune.config.schema import FrozenConfig, FullConfig, LoraConfig, PartialConfig
from finetune.methods.base import Method
from finetune.methods.frozen import Frozen
from finetune.methods.full import Full
from finetune.methods.lora import Lora
from finetune.methods.partial import Partial


def make_method(config: FullConfig | PartialConfig | LoraConfig | FrozenConfig) -> Method:
    """The method that a config section asks for."""
    match config:
        case FullConfig():
            return Full(config)
        case PartialConfig():
            return Partial(config)
        case LoraConfig():
            return Lora(config)
        case FrozenConfig():
            return Frozen(config)
