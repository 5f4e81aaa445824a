"""Detectors built or loaded from `model.name`, with their input size and new heads.

timm/<name>, or a folder of timm   FCOS on that backbone
a hub id or a folder               a detector of transformers
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

from finetune.config.model_folders import read_model_config
from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, format_count
from finetune.io.integrity import restoring
from finetune.io.references import resolve_model
from finetune.model import TransferModel
from tasks.backbones.load_faults import check_network_config, check_outputs
from tasks.backbones.network_folders import folder_kind
from tasks.backbones.pretrained import from_pretrained, label_keys, load_network, load_whole
from tasks.backbones.pyramid import PYRAMID_STRIDES
from tasks.backbones.vision_sources import (
    VisionSource,
    check_saved_channels,
    create_timm,
    find_source,
    timm_name,
)
from tasks.detection.detectors import FcosModel, QueryModel, class_heads, describe_fcos, make_fcos
from tasks.detection.fcos import FcosHead
from tasks.detection.queries import QueryHead, family_of
from tasks.image.canvas import Canvas, from_detection_processor, to_detection_processor

AUTO = "AutoModelForObjectDetection"
SIDE = 512
"""Default side of FCOS's input in pixels."""
PRIOR = 0.01
"""Initial class probability of a new classification head; a higher one lets the many background
boxes dominate the first losses.
"""
Head = FcosHead | QueryHead


@dataclass(frozen=True)
class DetectorSource:
    """Resolved source of a detector, before its weights are loaded.

    Attributes:
        canvas: the preprocessing of its input.
        note: one sentence about its kind, for the run's header.
        vision: timm backbone of a new FCOS; None: the checkpoint is a detector.
        processor: config of the image processor of a transformers detector; None: FCOS.
        fcos: config of a saved FCOS; None: another detector.
    """

    model: ModelConfig
    canvas: Canvas
    note: str
    vision: VisionSource | None = None
    processor: Mapping[str, Any] | None = None
    fcos: dict[str, Any] | None = None

    @property
    def takes_any_size(self) -> bool:
        """True for a new FCOS, unless its backbone is bound to a size."""
        return self.vision is not None and self.vision.takes_any_size


def find_detector(
    model: ModelConfig,
    detector: str | None,
    side: int | None,
    names: Sequence[str],
    channels: int | None = None,
) -> DetectorSource:
    """Resolve a model reference to a detector with labels `names`.

    `side` is that of its square input in pixels, `channels` the number of its channels; None: the
    default. Raises ModelError if `detector`, `side` or `channels` does not fit the network.
    """
    if folder_kind(model.name) == "fcos":
        source = _find_fcos(model, detector, side, names)
        check_saved_channels(model, channels, source.canvas.preprocessing)
        return source
    if timm_name(model) is not None:
        if detector == "native":
            raise ModelError(
                f"task.detector=native: {model.name} is a timm network without a detection head; "
                "set task.detector=fcos, or choose a detector checkpoint"
            )
        side = side or SIDE
        _check_side(side)
        vision = find_source(model, side, None, channels)
        preprocessing = vision.preprocessing
        canvas = Canvas(
            (side, side), True, preprocessing.mean, preprocessing.std, preprocessing.scale
        )
        return DetectorSource(model, canvas, "detector: new FCOS on the backbone", vision)
    if detector == "fcos" or model.weights is not None:
        key = "task.detector=fcos" if detector == "fcos" else "model.weights"
        raise ModelError(f"{key}: requires a timm network, model.name=timm/<name>")
    if channels not in (None, 3):
        raise ModelError(
            f"task.channels={channels}: {model.name}, a detector of transformers, reads RGB;"
            " use FCOS on a network of timm, whose first layer is adapted: model=timm/NAME"
        )
    config = from_pretrained("AutoConfig", model)
    processor = json.loads(from_pretrained("AutoImageProcessor", model).to_json_string())
    canvas = from_detection_processor(processor, side)
    processor = to_detection_processor(processor, canvas)
    same = list(config.id2label.values()) == list(names)
    known = format_count(len(names), "label")
    note = (
        f"heads: kept from the checkpoint, which has the same labels ({len(names)})"
        if same
        else f"heads: new, for {known}; the checkpoint has {config.num_labels}"
    )
    return DetectorSource(model, canvas, note, None, processor)


def _find_fcos(
    model: ModelConfig, detector: str | None, side: int | None, names: Sequence[str]
) -> DetectorSource:
    """Resolve a folder that `FcosModel.save` wrote."""
    if detector == "native" or model.weights is not None:
        key = "model.weights" if model.weights is not None else "task.detector=native"
        raise ModelError(f"{key}: {model.name} is FCOS with weights of its own; remove the key")
    folder = Path(resolve_model(model.name))
    config = read_model_config(folder)
    try:
        if side is not None:
            _check_side(side)
            config["size"] = [side, side]
        check_network_config(config)
        config["size"] = height, width = [int(side) for side in config["size"]]
        canvas = Canvas((height, width), True, tuple(config["mean"]), tuple(config["std"]))
        shape = f"{config['width']} channels and {config['convolutions']} convolutions"
        has_same = config["labels"] == list(names)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"model.name: {model.name}: config.json is damaged: {error!r}; {restoring(folder)}"
        ) from error
    head = (
        "kept, for the same labels" if has_same else f"new, for {format_count(len(names), 'label')}"
    )
    note = f"detector: the checkpoint's FCOS, {shape}; class head: {head}"
    return DetectorSource(model, canvas, note, fcos=config)


def _check_side(side: int) -> None:
    coarsest = PYRAMID_STRIDES[-2]
    if side % coarsest:
        near = max(coarsest, round(side / coarsest) * coarsest)
        raise ModelError(
            f"task.image_size={side}: not a multiple of {coarsest}; set task.image_size={near}"
        )


def build_detector(
    source: DetectorSource, names: Sequence[str], *, width: int, convolutions: int
) -> TransferModel:
    """Build the pretrained network with heads for `names`.

    `width` and `convolutions` are FCOS's task.fpn_width and task.head_convs.
    """
    if source.fcos is not None:
        return FcosModel.with_labels(Path(resolve_model(source.model.name)), source.fcos, names)
    if source.vision is None:
        return _build_native(source, names)
    body = create_timm(source.vision, 2, classifies=False)  # the pyramid drops its classifier
    config = describe_fcos(
        body,
        _timm_arguments(source),
        names,
        source.canvas,
        width=width,
        convolutions=convolutions,
    )
    return FcosModel(make_fcos(config, body), config)


def load_detector(source: ModelConfig, names: Sequence[str], *, is_native: bool) -> TransferModel:
    """Load a saved detector of labels `names` with its own library."""
    if not is_native:
        model = FcosModel.load(Path(source.name))
        check_outputs(len(model.build_config["labels"]), names, source)
        return model
    network = load_whole(AUTO, source)
    check_outputs(network.config.num_labels, names, source)
    return QueryModel(network, class_heads(network))


def make_detection_head(source: DetectorSource, names: Sequence[str]) -> Head:
    """Return the losses and decoding of a detector with heads for `names`. Raises ModelError."""
    if source.processor is None:
        return FcosHead(source.canvas.size)
    config = from_pretrained("AutoConfig", source.model, **_config_keys(source, names))
    return QueryHead(family_of(config), config)


def load_head(source: ModelConfig, canvas: Canvas, *, is_native: bool) -> Head:
    """Return the losses and decoding of a saved detector."""
    if not is_native:
        return FcosHead(canvas.size)
    config = from_pretrained("AutoConfig", source)
    return QueryHead(family_of(config), config)


def _config_keys(source: DetectorSource, names: Sequence[str]) -> dict[str, Any]:
    """Return the keys that override a transformers detector's config for training."""
    keys = label_keys(names)
    config = from_pretrained("AutoConfig", source.model)
    if getattr(config, "num_denoising", 0):
        # Denoising queries are noised copies of the true boxes, drawn anew for every micro-batch.
        keys["num_denoising"] = 0
    if getattr(config, "anchor_image_size", None):
        keys["anchor_image_size"] = list(source.canvas.size)
    return keys


def _build_native(source: DetectorSource, names: Sequence[str]) -> TransferModel:
    checkpoint_config = from_pretrained("AutoConfig", source.model)
    keys = _config_keys(source, names)
    network = load_network(AUTO, source.model, ignore_mismatched_sizes=True, **keys)
    family = family_of(network.config)
    heads = class_heads(network)
    if list(checkpoint_config.id2label.values()) != list(names):
        for name in heads:
            _reset_head(network.get_submodule(name), is_focal=family != "detr")
    return QueryModel(network, heads)


def _reset_head(head: nn.Module, *, is_focal: bool) -> None:
    """Reinitialize a classification head; with a focal loss, every class begins at `PRIOR`."""
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            with torch.no_grad():
                layer.bias.fill_(-math.log((1 - PRIOR) / PRIOR) if is_focal else 0.0)


def _timm_arguments(source: DetectorSource) -> dict[str, Any]:
    """Return the arguments besides the architecture with which timm can rebuild the network."""
    assert source.vision is not None
    name = str(source.vision.timm_name)
    arguments: dict[str, Any] = {}
    if name.startswith("local-dir:"):
        config = Path(resolve_model(source.model.name)) / "config.json"
        arguments = json.loads(config.read_text(encoding="utf-8")).get("model_args", {})
    channels = source.vision.preprocessing.channels
    arguments |= {"in_chans": channels} if channels != 3 else {}
    return {key: value for key, value in arguments.items() if key != "num_classes"}
