"""Segmentation networks built or loaded from `model.name`: a timm encoder with a decoder of
segmentation-models-pytorch (smp), or a network of transformers.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from torch import nn

from finetune.config.model_folders import TASK, read_model_config
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError, format_count
from finetune.io.integrity import restoring
from finetune.io.manifest import check_state
from finetune.io.references import resolve_model
from tasks.backbones.dropout import timm_arguments
from tasks.backbones.load_faults import check_outputs, describe_fault
from tasks.backbones.network_folders import folder_kind
from tasks.backbones.pretrained import label_keys, load_network, load_whole
from tasks.backbones.seams import input_channels
from tasks.backbones.vision_sources import (
    TIMM,
    VisionSource,
    check_saved_channels,
    create_timm,
    find_source,
)
from tasks.image.preprocessing import Preprocessing
from tasks.masks.segmentation_config import DECODERS
from tasks.masks.segmentation_models import SegmentationModel, SmpModel, TransformersSegmenter

SMP_TIMM = "tu-"  # smp's prefix of timm's encoders
AUTO = "AutoModelForSemanticSegmentation"
# Errors that timm and smp raise if an encoder does not fit a decoder.
_MISFITS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)


def find_segmenter(model: ModelConfig, channels: int | None = None) -> VisionSource:
    """Determine the library of a network and its preprocessing. Raises ModelError.

    `channels` is the number of channels of the input; None: that of the network.
    """
    if folder_kind(model.name) != "smp":
        return find_source(model, None, None, channels)
    source = _find_saved(model)
    check_saved_channels(model, channels, source.preprocessing)
    return source


def _find_saved(model: ModelConfig) -> VisionSource:
    """Determine the preprocessing of a network that smp saved."""
    folder = Path(resolve_model(model.name))
    state = read_model_config(folder, TASK).get("state")
    if state is not None:
        try:
            return VisionSource(model, Preprocessing.from_state(state["preprocessing"]))
        except (LookupError, TypeError) as error:
            raise ModelError(
                f"model.name: {model.name}: {TASK} is damaged: {error!r}; {restoring(folder)}"
            ) from error
    encoder = str(read_model_config(folder).get("encoder_name"))
    if encoder.startswith(SMP_TIMM):
        name = TIMM + encoder.removeprefix(SMP_TIMM)
        return replace(find_source(ModelConfig(name=name), None, None), model=model, timm_name=None)
    note = f"preprocessing: {model.name} does not say how; using 224 x 224, ImageNet's mean and std"
    return VisionSource(model, Preprocessing((224, 224), None), note=note)


def build_segmenter(
    source: VisionSource, decoder: str | None, names: Sequence[str], size: tuple[int, int]
) -> SegmentationModel:
    """Build the pretrained network with a new head for `names`.

    Raises ConfigError or ModelError if the decoder does not fit the network.
    """
    if source.timm_name is None and decoder is not None:
        raise ConfigError(f"task.decoder: {source.model.name} has its own decoder; remove the key")
    if folder_kind(source.model.name) == "smp":
        model: SegmentationModel = _build_from_folder(source, names, size)
    elif source.timm_name is None:
        network = load_network(
            AUTO, source.model, ignore_mismatched_sizes=True, **label_keys(names)
        )
        model = TransformersSegmenter(network, size)
    else:
        model = SmpModel(_build_smp(source, decoder or "unet", len(names)), size)
    model.base = resolve_model(source.model.name)
    return model


def load_segmenter(
    source: ModelConfig, names: Sequence[str], size: tuple[int, int]
) -> SegmentationModel:
    """Load a folder of labels `names`, written by `SegmentationModel.save`, with its library."""
    config = json.loads((Path(source.name) / "config.json").read_text(encoding="utf-8"))
    if "_model_class" not in config:
        own = load_whole(AUTO, source)
        check_outputs(own.config.num_labels, names, source)
        return TransformersSegmenter(own, size)
    import segmentation_models_pytorch as smp

    with quiet_libraries():
        network = smp.from_pretrained(source.name)
    check_outputs(network.segmentation_head[0].out_channels, names, source)
    return SmpModel(network, size)


def _build_from_folder(
    source: VisionSource, names: Sequence[str], size: tuple[int, int]
) -> SmpModel:
    """Load a network that smp saved; its head is kept if it is known to have the same labels."""
    import segmentation_models_pytorch as smp

    folder = resolve_model(source.model.name)
    config = {k: value for k, value in read_model_config(folder).items() if not k.startswith("_")}
    # Without an activation, since the task computes probabilities from logits.
    changed = {"classes": len(names), "activation": None, "aux_params": None}
    try:
        with quiet_libraries():
            saved = smp.from_pretrained(folder)
        network: Any = type(saved)(**(config | changed | {"encoder_weights": None}))
    except Exception as error:  # files of another content fail anywhere in the library
        raise ModelError(
            f"model.name: {source.model.name!r} cannot be loaded with smp: {describe_fault(error)}"
        ) from error
    if config.get("in_channels", 3) != 3:
        raise ModelError(
            f"model.name: {source.model.name} reads {config['in_channels']} channels, and "
            "training continues only from networks of smp that read RGB; begin with a network of "
            "timm and task.channels"
        )
    check_state(Path(folder))
    state = read_model_config(folder, TASK).get("state") or {}
    keeps = state.get("coding", {}).get("names") == list(names)
    weights = {
        name: tensor
        for name, tensor in saved.state_dict().items()
        if name.startswith(("encoder.", "decoder.", "segmentation_head." if keeps else "decoder."))
    }
    missing = network.load_state_dict(weights, strict=False).missing_keys
    assert all(name.startswith("segmentation_head.") for name in missing), missing
    model = SmpModel(network, size)
    same = "kept from the checkpoint, which has the same labels"
    model.notes.append(
        f"head: {same if keeps else 'new, for ' + format_count(len(names), 'label')}"
    )
    return model


def _build_smp(source: VisionSource, decoder: str, classes: int) -> nn.Module:
    """Build a decoder of smp on a pretrained timm encoder."""
    import segmentation_models_pytorch as smp

    whole = create_timm(source, 1, classifies=False)
    architecture = whole.pretrained_cfg["architecture"]
    try:
        network: Any = getattr(smp, DECODERS[decoder])(
            encoder_name=f"tu-{architecture}",
            encoder_weights=None,
            in_channels=source.preprocessing.channels,
            classes=classes,
            **timm_arguments(source.model, classifies=False),
        )
    except _MISFITS as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"model.name: {architecture} cannot be the encoder of task.decoder={decoder} "
            f"({reason}); choose another network or decoder"
        ) from error
    load_encoder(network.encoder.model, whole)
    # The head keeps smp's initialization. With weights near 0, a Unet had learned after 300 steps
    # to separate objects from background, but not the classes from each other.
    return network  # type: ignore[no-any-return]


def load_encoder(encoder: Any, whole: nn.Module) -> None:
    """Copy the weights of a whole timm network to its features_only version.

    Parameter names differ between the two (stages.0 is stages_0), so timm does the conversion.
    """
    architecture = whole.pretrained_cfg["architecture"]  # type: ignore[index]
    with quiet_libraries():
        donor = timm.create_model(
            str(architecture),
            pretrained=True,
            # Without the name of the first layer, timm does not adapt it a second time.
            pretrained_cfg_overlay={"state_dict": whole.state_dict(), "first_conv": None},
            in_chans=input_channels(whole),
            features_only=True,
            out_indices=tuple(encoder.feature_info.out_indices),
        )
    encoder.load_state_dict(donor.state_dict())


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress timm's log about layers that an encoder lacks, and huggingface_hub's prints."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
