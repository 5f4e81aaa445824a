"""The metadata of a card, by which hubs search: licence, base model, pipeline, data, metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from finetune.config.schema import ModelConfig, RunConfig
from finetune.errors import FinetuneError
from finetune.io.references import locate
from finetune.reporting.metric_tables import overall
from finetune.task_parts import REPOSITORY, CardFacts

UNKNOWN = "unknown"
LICENCE = ("license", "license_name", "license_link")


def front_matter(
    config: RunConfig, about: CardFacts, results: Mapping[str, Mapping[str, float]], relation: str
) -> str:
    """The YAML at the head of a card; `relation` is what the model is to its base model."""
    from huggingface_hub import ModelCardData

    base, data = base_id(config, about), dataset_id(config)
    card = ModelCardData(
        tags=["finetune-kit", config.task.name.rpartition(":")[2], config.method.name],
        **licence(config, base),
        base_model=base or None,
        base_model_relation=relation if base else None,
        library_name="peft" if relation == "adapter" else about.library,
        pipeline_tag=about.pipeline or None,
        datasets=[data] if data else None,
        model_name=REPOSITORY,
        eval_results=list(_results(config, about, results)),
    )
    return f"---\n{card.to_yaml()}\n---"


def base_id(config: RunConfig, about: CardFacts) -> str:
    """The hub id of the pretrained network, or ""."""
    if config.output.base_model is not None:
        return config.output.base_model
    if about.base is not None:
        return about.base
    return config.model.name if is_on_hub(config.model.name) else ""


def base_reference(config: RunConfig, about: CardFacts) -> str:
    """What the pretrained network is called in public: a hub id, pkg://..., or a folder's name."""
    name = config.model.name
    return base_id(config, about) or (name if "://" in name else Path(name).name)


def dataset_id(config: RunConfig) -> str:
    """The hub id of the data set, or ""."""
    source = config.data.source
    return source if source is not None and is_on_hub(source) else ""


def data_reference(config: RunConfig) -> str:
    """What the data are called in public: a hub id, pkg://..., or a file's name."""
    data = config.data
    named = data.source or data.train or ""
    return (
        named if "://" in named or is_on_hub(named) else Path(named).name or "data made in Python"
    )


def is_on_hub(reference: str) -> bool:
    """Whether a reference is a hub id: neither a file nor a package."""
    try:
        return bool(reference) and locate(reference) is None
    except FinetuneError:
        return False


def licence(config: RunConfig, base: str) -> dict[str, Any]:
    """The licence that was asked for, else what the card of the base model says, else unknown."""
    if config.output.license is not None:
        return {"license": config.output.license}
    held = _base_card(config.model, base)
    found = {key: str(held[key]) for key in LICENCE if isinstance(held.get(key), str)}
    return found if "license" in found else {"license": UNKNOWN}


def _base_card(model: ModelConfig, base: str) -> Mapping[str, Any]:
    """The metadata of the base model's card, {} if it has none or cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = None if model.weights else locate(model.name)
        if folder is not None:
            text = (folder / "README.md").read_text(encoding="utf-8")
        elif base:
            card = hf_hub_download(base, "README.md", revision=model.revision)
            text = Path(card).read_text(encoding="utf-8")
        else:
            return {}
        held = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (
        *(OSError, UnicodeDecodeError, yaml.YAMLError, FinetuneError),
        *(HfHubHTTPError, HFValidationError, LocalEntryNotFoundError),
    ):
        return {}
    return held if isinstance(held, Mapping) else {}


def _results(
    config: RunConfig, about: CardFacts, results: Mapping[str, Mapping[str, float]]
) -> Any:
    """Every metric of a whole split that is a number, as the hub's model-index has it."""
    from huggingface_hub import EvalResult

    data = data_reference(config)
    for split, metrics in results.items():
        for name, value in overall(metrics).items():
            # Those of a class or a term (iou/cat) are on the card itself: there may be hundreds.
            if math.isfinite(value) and name != "loss" and "/" not in name:
                yield EvalResult(
                    task_type=about.pipeline or config.task.name.rpartition(":")[2],
                    dataset_type=dataset_id(config) or "local",
                    dataset_name=data,
                    dataset_split=split,
                    metric_type=name,
                    metric_name=name,
                    metric_value=round(float(value), 6),
                )
