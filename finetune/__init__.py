"""A transfer-learning and fine-tuning kit for language and vision.

    run = finetune.train("text-classification", data="news.csv", model="bert-base-uncased")
    run.metrics, run.predict(["Shares fell ..."]), run.push("me/news")

Names are imported when they are first asked for (PEP 562), so `import finetune` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import Run, compare, train
    from finetune.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        FinetuneError,
        HubError,
        ModelError,
    )
    from finetune.inference.predictor import Predictor, load
    from finetune.model import TransferModel
    from finetune.task import Length, Task

__version__ = "0.1.0"

_HOMES = {
    "Run": "api",
    "compare": "api",
    "train": "api",
    "Predictor": "inference.predictor",
    "load": "inference.predictor",
    "Length": "task",
    "Task": "task",
    "TransferModel": "model",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "FinetuneError": "errors",
    "HubError": "errors",
    "ModelError": "errors",
}

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "FinetuneError",
    "HubError",
    "Length",
    "ModelError",
    "Predictor",
    "Run",
    "Task",
    "TransferModel",
    "compare",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name in _HOMES:
        return getattr(import_module(f"finetune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
