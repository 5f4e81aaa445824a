"""Metadata of a model card, which hubs index: license, base model, pipeline, data, metrics."""

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
from finetune.task_parts.views import REPOSITORY, CardFacts

UNKNOWN = "unknown"
IN_MEMORY = "in-memory data"
LICENSE_KEYS = ("license", "license_name", "license_link")


def front_matter(
    config: RunConfig, about: CardFacts, results: Mapping[str, Mapping[str, float]], relation: str
) -> str:
    """Return the YAML header of a card; `relation` to the base model is "finetune" or "adapter"."""
    from huggingface_hub import ModelCardData

    base, data = base_id(config, about), dataset_id(config)
    card = ModelCardData(
        tags=["finetune-kit", config.task.name.rpartition(":")[2], config.method.name],
        **find_license(config, base),
        base_model=base or None,
        base_model_relation=relation if base else None,
        library_name="peft" if relation == "adapter" else about.library,
        pipeline_tag=about.pipeline or None,
        datasets=[data] if data else None,
        model_name=REPOSITORY,
        eval_results=list(_eval_results(config, about, results)),
    )
    return f"---\n{card.to_yaml()}\n---"


def base_id(config: RunConfig, about: CardFacts) -> str:
    """Return the hub id of the pretrained network, or ""."""
    if config.output.base_model is not None:
        return config.output.base_model
    if about.base is not None:
        return about.base
    return config.model.name if is_on_hub(config.model.name) else ""


def base_reference(config: RunConfig, about: CardFacts) -> str:
    """Return the public name of the pretrained network: a hub id, pkg://..., or a folder name."""
    name = config.model.name
    return base_id(config, about) or (name if "://" in name else Path(name).name)


def dataset_id(config: RunConfig) -> str:
    """Return the hub id of the dataset, or ""."""
    source = config.data.source
    return source if source is not None and is_on_hub(source) else ""


def data_reference(config: RunConfig) -> str:
    """Return the public name of the data: a hub id, pkg://..., a file name, or IN_MEMORY."""
    name = config.data.source or config.data.train or ""
    return name if "://" in name or is_on_hub(name) else Path(name).name or IN_MEMORY


def is_on_hub(reference: str) -> bool:
    """True if a reference is a hub id, not a file or a package."""
    try:
        return bool(reference) and locate(reference) is None
    except FinetuneError:
        return False


def find_license(config: RunConfig, base: str) -> dict[str, Any]:
    """Return output.license, else the license keys of the base model's card, else unknown."""
    if config.output.license is not None:
        return {"license": config.output.license}
    card = _base_card(config.model, base)
    keys = {key: str(card[key]) for key in LICENSE_KEYS if isinstance(card.get(key), str)}
    return keys if "license" in keys else {"license": UNKNOWN}


def _base_card(model: ModelConfig, base: str) -> Mapping[str, Any]:
    """Return the metadata of the base model's card; {} if there is none or it is unavailable."""
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
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (
        *(OSError, UnicodeDecodeError, yaml.YAMLError, FinetuneError),
        *(HfHubHTTPError, HFValidationError, LocalEntryNotFoundError),
    ):
        return {}
    return metadata if isinstance(metadata, Mapping) else {}


def _eval_results(
    config: RunConfig, about: CardFacts, results: Mapping[str, Mapping[str, float]]
) -> Any:
    """Yield the finite metrics of each split as entries of the hub's model-index."""
    from huggingface_hub import EvalResult

    data = data_reference(config)
    for split, metrics in results.items():
        for name, value in overall(metrics).items():
            # Metrics per class or loss term (iou/cat) are left to the card's text: there may be
            # hundreds.
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
