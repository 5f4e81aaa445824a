"""A transfer-learning and fine-tuning kit for language and vision.

    run = finetune.train("text-classification", data="news.csv", model="bert-base-uncased")
    run.metrics, run.predict(["Shares fell ..."]), run.push("me/news")

Authors of tasks and methods import their base classes from here, too: `Task`, its parts, the types
that pass through it, and `Method`. Names are imported on first access (PEP 562), so
`import finetune` does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.api import Run, Search, check, compare, inspect, search, train
    from finetune.cluster.predict_and_embed import embed, predict
    from finetune.config.formats import DataFormat, TaskTables
    from finetune.config.schema import MethodConfig, ModelConfig, TaskConfig
    from finetune.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        FinetuneError,
        HubError,
        ModelError,
    )
    from finetune.exploration.explore import explore
    from finetune.inference.predictor import Predictor, load
    from finetune.labeling.suggest import suggest
    from finetune.methods.base import Method, Recipe
    from finetune.model import HEAD, Batch, TransferModel, named_parts
    from finetune.reports.evaluate_rows import evaluate
    from finetune.task import Task
    from finetune.task_parts.optional_parts import Embedder, Onnx
    from finetune.task_parts.rows import Finding, Resolved, Rows
    from finetune.task_parts.samples import Length, Lengths, Prediction, Rng, Row, Sample, Stats
    from finetune.task_parts.views import CardFacts, NamedRow, Outcome, PredictionForm, Views

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("Run", "Search", "check", "compare", "inspect", "search", "train"), "api"),
    **dict.fromkeys(("embed", "predict"), "cluster.predict_and_embed"),
    "explore": "exploration.explore",
    "suggest": "labeling.suggest",
    "evaluate": "reports.evaluate_rows",
    **dict.fromkeys(("Predictor", "load"), "inference.predictor"),
    **dict.fromkeys(("HEAD", "Batch", "TransferModel", "named_parts"), "model"),
    **dict.fromkeys(("Method", "Recipe"), "methods.base"),
    **dict.fromkeys(("DataFormat", "TaskTables"), "config.formats"),
    **dict.fromkeys(("MethodConfig", "ModelConfig", "TaskConfig"), "config.schema"),
    **dict.fromkeys(("Embedder", "Onnx"), "task_parts.optional_parts"),
    **dict.fromkeys(("Finding", "Resolved", "Rows"), "task_parts.rows"),
    **dict.fromkeys(
        ("Length", "Lengths", "Prediction", "Rng", "Row", "Sample", "Stats"), "task_parts.samples"
    ),
    **dict.fromkeys(
        ("CardFacts", "NamedRow", "Outcome", "PredictionForm", "Views"), "task_parts.views"
    ),
    "Task": "task",
    **dict.fromkeys(("CheckpointError", "ConfigError", "DataError"), "errors"),
    **dict.fromkeys(("FinetuneError", "HubError", "ModelError"), "errors"),
}

__all__ = [
    "HEAD",
    "Batch",
    "CardFacts",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DataFormat",
    "Embedder",
    "Finding",
    "FinetuneError",
    "HubError",
    "Length",
    "Lengths",
    "Method",
    "MethodConfig",
    "ModelConfig",
    "ModelError",
    "NamedRow",
    "Onnx",
    "Outcome",
    "Prediction",
    "PredictionForm",
    "Predictor",
    "Recipe",
    "Resolved",
    "Rng",
    "Row",
    "Rows",
    "Run",
    "Sample",
    "Search",
    "Stats",
    "Task",
    "TaskConfig",
    "TaskTables",
    "TransferModel",
    "Views",
    "check",
    "compare",
    "embed",
    "evaluate",
    "explore",
    "inspect",
    "load",
    "named_parts",
    "predict",
    "search",
    "suggest",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name in _HOMES:
        return getattr(import_module(f"finetune.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'finetune' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
