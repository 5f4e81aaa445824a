"""Kinds of folders that transformers does not read: of timm, of smp, and of FCOS of this kit."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from finetune.config.model_folders import read_model_config
from finetune.errors import ModelError
from finetune.io.references import resolve_model

FolderKind = Literal["timm", "smp", "fcos"]
FCOS = "fcos"
USES: dict[FolderKind, str] = {
    "timm": "a network of timm, for images",
    "smp": "a network of segmentation_models_pytorch, for task=segmentation",
    "fcos": "a detector of this kit (FCOS), for task=object-detection",
}


def folder_kind(name: str) -> FolderKind | None:
    """Return the kind of a local folder; None for a folder of transformers and for a hub id."""
    config = read_model_config(resolve_model(name))
    if "_model_class" in config:
        return "smp"
    if config.get("architecture") == FCOS:
        return "fcos"
    return "timm" if "architecture" in config else None


def refuse_folder(name: str) -> None:
    """Raise ModelError for a folder that needs another library than transformers."""
    kind = folder_kind(name)
    if kind is not None:
        raise ModelError(
            f"model.name: {name} is {USES[kind]}; give a network for this task, as a hub id or as "
            "a folder with config.json and safetensors"
        )


def missing_processor(name: str, auto: str) -> str:
    """Return why a folder has no tokenizer or no image processor, if it is for the other; or ""."""
    folder = Path(resolve_model(name))
    has_text, has_images = (
        (folder / file).is_file() for file in ("tokenizer_config.json", "preprocessor_config.json")
    )
    if auto == "AutoTokenizer" and has_images and not has_text:
        return "it is a network for images"
    if auto == "AutoImageProcessor" and has_text and not has_images:
        return "it is a network for texts"
    return ""
