"""The methods: which parameters of a network are trained, and how; one file a method.

A method sees a `TransferModel` and never a task. Optimizers are in `finetune.optim`.
"""

METHODS = {
    "frozen": "finetune.methods.frozen:Frozen",
    "lora": "finetune.methods.lora:Lora",
    "ia3": "finetune.methods.ia3:Ia3",
    "bitfit": "finetune.methods.bitfit:BitFit",
    "partial": "finetune.methods.partial:Partial",
    "full": "finetune.methods.full:Full",
}
"""The methods of this kit by name, from the cheapest to the dearest; imported when used."""
