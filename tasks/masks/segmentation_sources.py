"""From `model.name` to a segmentation network: an encoder of timm under a decoder of
segmentation-models-pytorch, or a network of transformers.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError, nearest
from finetune.io.references import resolve_model
from tasks.backbones.dropout import timm_arguments
from tasks.backbones.pretrained import label_keys, load_network
from tasks.backbones.vision_sources import VisionSource, create_timm
from tasks.masks.segmentation_models import SegmentationModel, SmpModel, TransformersSegmenter

DECODERS = {
    "unet": "Unet",
    "fpn": "FPN",
    "deeplabv3plus": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
}
AUTO = "AutoModelForSemanticSegmentation"
# What timm and smp raise where a decoder asks of an encoder what it cannot give.
_REFUSALS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)


def build_segmenter(
    source: VisionSource, decoder: str | None, names: Sequence[str], size: tuple[int, int]
) -> SegmentationModel:
    """The pretrained network with a new head for `names`. Raises ConfigError or ModelError."""
    if source.timm_name is None:
        if decoder is not None:
            raise ConfigError(
                f"task.decoder: {source.model.name} of transformers has its own; leave it out"
            )
        network = load_network(
            AUTO, source.model, ignore_mismatched_sizes=True, **label_keys(names)
        )
        model: SegmentationModel = TransformersSegmenter(network, size)
    else:
        model = SmpModel(_build_smp(source, decoder or "unet", len(names)), size)
    model.base = resolve_model(source.model.name)
    return model


def load_segmenter(source: ModelConfig, size: tuple[int, int]) -> SegmentationModel:
    """What `SegmentationModel.save` wrote, by its own library."""
    config = json.loads((Path(source.name) / "config.json").read_text(encoding="utf-8"))
    if "_model_class" not in config:
        return TransformersSegmenter(load_network(AUTO, source), size)
    import segmentation_models_pytorch as smp

    with quiet_libraries():
        network = smp.from_pretrained(source.name)
    return SmpModel(network, size)


def _build_smp(source: VisionSource, decoder: str, classes: int) -> nn.Module:
    """A decoder of smp over a pretrained encoder of timm."""
    import segmentation_models_pytorch as smp

    if decoder not in DECODERS:
        raise ConfigError(f"task.decoder: there is no {decoder!r}; {nearest(decoder, DECODERS)}")
    whole = create_timm(source, 1, classifies=False)
    architecture = whole.pretrained_cfg["architecture"]
    try:
        network: Any = getattr(smp, DECODERS[decoder])(
            encoder_name=f"tu-{architecture}",
            encoder_weights=None,
            in_channels=3,
            classes=classes,
            **timm_arguments(source.model, classifies=False),
        )
    except _REFUSALS as error:
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"model.name: {architecture} cannot be the encoder of task.decoder={decoder} ({why}); "
            "take another network or decoder"
        ) from error
    load_encoder(network.encoder.model, whole)
    # The head stays as smp starts it. One near 0 takes all classes for one: 300 steps of a Unet
    # told objects from ground and not a class from another.
    return network  # type: ignore[no-any-return]


def load_encoder(encoder: Any, whole: nn.Module) -> None:
    """Put the tensors of a whole network of timm into the same network that gives its levels.

    Names differ between the two (stages.0 is stages_0), so timm itself does it.
    """
    architecture = whole.pretrained_cfg["architecture"]  # type: ignore[index]
    with quiet_libraries():
        donor = timm.create_model(
            str(architecture),
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": whole.state_dict()},
            features_only=True,
            out_indices=tuple(encoder.feature_info.out_indices),
        )
    encoder.load_state_dict(donor.state_dict())


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Without what timm logs of layers that an encoder leaves out, and huggingface_hub prints."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
