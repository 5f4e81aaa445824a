"""Which detector a reference means, how it wants its pictures, and the network with new heads.

timm/<name>, a folder of timm   FCOS on that network
a hub id or a folder            a detector of transformers
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import resolve_model
from finetune.model import TransferModel
from tasks.backbones.pretrained import from_pretrained, label_keys, load_network
from tasks.backbones.pyramid import PYRAMID_STRIDES
from tasks.backbones.vision_sources import VisionSource, create_timm, find_source, timm_name
from tasks.detection.detectors import FcosModel, QueryModel, class_heads, describe_fcos, make_fcos
from tasks.detection.fcos import FcosHead
from tasks.detection.queries import QueryHead, family_of
from tasks.image.canvas import Canvas, from_detection_processor, to_detection_processor

AUTO = "AutoModelForObjectDetection"
SIDE = 512
"""Pixels of the side of FCOS's input, where nothing else is asked for."""
PRIOR = 0.01
"""What a new head of classes says of any box: else its first loss is all background."""
Head = FcosHead | QueryHead


@dataclass(frozen=True)
class DetectorSource:
    """Where a detector comes from, settled before its weights are read.

    Attributes:
        vision: the network of timm under FCOS; None: a detector of transformers.
        processor: config of the image processor of a detector of transformers.
    """

    model: ModelConfig
    canvas: Canvas
    note: str
    vision: VisionSource | None = None
    processor: Mapping[str, Any] | None = None


def find_detector(
    model: ModelConfig, detector: str | None, side: int | None, names: Sequence[str]
) -> DetectorSource:
    """The detector of a reference; `side` pixels of its square input, if asked. Raises
    ModelError.
    """
    if timm_name(model) is not None:
        if detector == "native":
            raise ModelError(
                f"task.detector=native: {model.name} is a network of timm, which has no boxes; "
                "write task.detector=fcos, or name a checkpoint of a detector"
            )
        side = side or SIDE
        coarsest = PYRAMID_STRIDES[-2]
        if side % coarsest:
            near = max(coarsest, round(side / coarsest) * coarsest)
            raise ModelError(
                f"task.image_size={side}: is no multiple of {coarsest}; write "
                f"task.image_size={near}"
            )
        vision = find_source(model, side, None)
        held = vision.preprocessing
        canvas = Canvas((side, side), True, held.mean, held.std, held.scale)
        return DetectorSource(model, canvas, "detector: FCOS, new on the backbone", vision)
    if detector == "fcos" or model.weights is not None:
        asked = "task.detector=fcos" if detector == "fcos" else "model.weights"
        raise ModelError(f"{asked}: goes with a network of timm, model.name=timm/<name>")
    config = from_pretrained("AutoConfig", model)
    processor = json.loads(from_pretrained("AutoImageProcessor", model).to_json_string())
    canvas = from_detection_processor(processor, side)
    processor = to_detection_processor(processor, canvas)
    same = list(config.id2label.values()) == list(names)
    said = (
        f"heads: those of the checkpoint, whose {len(names)} labels are the same"
        if same
        else f"heads: new for {len(names)} labels; the checkpoint has {config.num_labels}"
    )
    return DetectorSource(model, canvas, said, None, processor)


def build_detector(
    source: DetectorSource, names: Sequence[str], *, width: int, convolutions: int
) -> TransferModel:
    """The pretrained network with heads for `names`."""
    if source.vision is None:
        return _build_native(source, names)
    body = create_timm(source.vision, 2, classifies=False)  # its classifier is cut off
    facts = describe_fcos(
        body,
        _timm_arguments(source),
        names,
        source.canvas,
        width=width,
        convolutions=convolutions,
    )
    return FcosModel(make_fcos(facts, body), facts)


def load_detector(source: ModelConfig, *, is_native: bool) -> TransferModel:
    """What was saved, by its own library."""
    if not is_native:
        return FcosModel.load(Path(source.name))
    network = load_network(AUTO, source)
    return QueryModel(network, class_heads(network))


def make_detection_head(source: DetectorSource, names: Sequence[str]) -> Head:
    """How the outputs of a detector with heads for `names` are judged. Raises ModelError."""
    if source.vision is not None:
        return FcosHead(source.canvas.size)
    config = from_pretrained("AutoConfig", source.model, **_config_keys(source, names))
    return QueryHead(family_of(config), config)


def load_head(source: ModelConfig, canvas: Canvas, *, is_native: bool) -> Head:
    """The same for a detector that was saved."""
    if not is_native:
        return FcosHead(canvas.size)
    config = from_pretrained("AutoConfig", source)
    return QueryHead(family_of(config), config)


def _config_keys(source: DetectorSource, names: Sequence[str]) -> dict[str, Any]:
    """What the config of a detector of transformers has in training beside its checkpoint's."""
    facts = label_keys(names)
    held = from_pretrained("AutoConfig", source.model)
    if getattr(held, "num_denoising", 0):
        # Noised copies of the true boxes would be drawn anew for every micro-batch.
        facts["num_denoising"] = 0
    if getattr(held, "anchor_image_size", None):
        facts["anchor_image_size"] = list(source.canvas.size)
    return facts


def _build_native(source: DetectorSource, names: Sequence[str]) -> TransferModel:
    held = from_pretrained("AutoConfig", source.model)
    facts = _config_keys(source, names)
    network = load_network(AUTO, source.model, ignore_mismatched_sizes=True, **facts)
    family = family_of(network.config)
    heads = class_heads(network)
    if list(held.id2label.values()) != list(names):
        for name in heads:
            _begin_anew(network.get_submodule(name), is_focal=family != "detr")
    return QueryModel(network, heads)


def _begin_anew(head: nn.Module, *, is_focal: bool) -> None:
    """Let a head of classes know nothing: 0.01 for each class under a focal loss."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            with torch.no_grad():
                layer.bias.fill_(-math.log((1 - PRIOR) / PRIOR) if is_focal else 0.0)


def _timm_arguments(source: DetectorSource) -> dict[str, Any]:
    """What timm needs beside the architecture to build the network again."""
    assert source.vision is not None
    name = str(source.vision.timm_name)
    arguments: dict[str, Any] = {}
    if name.startswith("local-dir:"):
        config = Path(resolve_model(source.model.name)) / "config.json"
        arguments = json.loads(config.read_text(encoding="utf-8")).get("model_args", {})
    return {key: value for key, value in arguments.items() if key != "num_classes"}
