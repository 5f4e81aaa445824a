"""Fine-tuning methods: which parameters of a network are trained, and how; one file per method.

A method sees a `TransferModel`, never a task. Optimizers are in `finetune.optim`.
"""

from finetune.methods.method_configs import (
    BitFitConfig,
    FrozenConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    PartialConfig,
)

__all__ = [
    "METHODS",
    "BitFitConfig",
    "FrozenConfig",
    "FullConfig",
    "Ia3Config",
    "LoraConfig",
    "PartialConfig",
]

METHODS = {
    "frozen": "finetune.methods.frozen:Frozen",
    "lora": "finetune.methods.lora:Lora",
    "ia3": "finetune.methods.ia3:Ia3",
    "bitfit": "finetune.methods.bitfit:BitFit",
    "partial": "finetune.methods.partial:Partial",
    "full": "finetune.methods.full:Full",
}
"""Built-in methods by name, from cheapest to most expensive; imported when used."""
