"""From `model.name` to a vision network and how it wants its pictures: timm or transformers.

timm/<architecture>[.<tag>]   from the hub; with model.weights, only the architecture is taken
a hub id or a folder          in the layout of timm or of transformers, whichever it is
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, nearest
from finetune.io.references import resolve_model
from tasks.backbones.dropout import check_drop_path, refuse_drop_path, timm_arguments
from tasks.backbones.pretrained import from_pretrained, load_network
from tasks.backbones.vector_heads import HEAD_FILE, HiddenShape, read_head
from tasks.backbones.vision_models import (
    TimmModel,
    TransformersVisionModel,
    VisionModel,
    head_names,
    hide_layer,
    put_head,
)
from tasks.backbones.weight_files import load_weight_file
from tasks.image.preprocessing import (
    Preprocessing,
    from_processor,
    from_timm,
    to_processor,
    to_timm,
)

TIMM = "timm/"
AUTO = "AutoModelForImageClassification"


@dataclass(frozen=True)
class VisionSource:
    """Where a network comes from, settled before its weights are read.

    Attributes:
        timm_name: what timm.create_model takes; None for a network of transformers.
        processor: config of the image processor, of a network of transformers.
    """

    model: ModelConfig
    preprocessing: Preprocessing
    timm_name: str | None = None
    processor: Mapping[str, Any] | None = None
    note: str = ""


def find_source(model: ModelConfig, size: int | None, crop: float | None) -> VisionSource:
    """The library of a network and how it wants its pictures, but for a size and a share of the
    central crop that are asked for. Raises ModelError.
    """
    name = timm_name(model)
    if name is not None:
        held = from_timm(timm.data.resolve_data_config(pretrained_cfg=_timm_config(name)))
        return VisionSource(model, held.adapted(size, crop), name)
    if model.weights is not None:
        raise ModelError(
            f"model.weights: go with an architecture, model.name=timm/<name>, not {model.name!r}"
        )
    config = from_pretrained("AutoConfig", model)
    if config.model_type == "timm_wrapper":
        return find_source(model.model_copy(update={"name": f"hf-hub:{model.name}"}), size, crop)
    processor, note = _processor_of(model, config)
    held = from_processor(processor)
    if size or crop:
        # Through the processor's own keys, so that it does what is trained with.
        processor = to_processor(processor, held.adapted(size, crop))
        held = from_processor(processor)
    return VisionSource(model, held, None, processor, note)


def build_vision_model(
    source: VisionSource, names: Sequence[str], hidden: HiddenShape | None = None, **config: Any
) -> VisionModel:
    """The pretrained network with a new head for `names`; `config` goes to one of transformers.
    Raises ModelError.
    """
    size = source.preprocessing.size
    if source.timm_name is None:
        network = load_network(AUTO, source.model, ignore_mismatched_sizes=True, **config)
        model: VisionModel = TransformersVisionModel(hide_layer(network, hidden), size)
    else:
        network = create_timm(source, len(names))
        model = TimmModel(hide_layer(network, hidden), size, names)
        model.network.pretrained_cfg.update(to_timm(source.preprocessing))
        _quiet_head(model.last_layer())
    model.base = resolve_model(source.model.name)
    return model


def load_vision_model(model: ModelConfig, preprocessing: Preprocessing) -> VisionModel:
    """What `VisionModel.save` wrote, by its own library."""
    folder, name, size = Path(model.name), timm_name(model), preprocessing.size
    head = read_head(folder)[0] if (folder / HEAD_FILE).is_file() else None
    if name is None:
        return TransformersVisionModel(put_head(load_network(AUTO, model), head), size)
    less = {} if head is None else {"num_classes": 0}
    network = put_head(timm.create_model(name, pretrained=True, **less), head)
    names = network.pretrained_cfg.get("label_names") or _timm_folder(folder).get("label_names")
    return TimmModel(network, size, names or ())


def timm_name(model: ModelConfig) -> str | None:
    """What timm.create_model takes for a reference, or None if it is not of timm."""
    if model.name.startswith("hf-hub:"):
        return model.name + (f"@{model.revision}" if model.revision else "")
    if model.name.startswith(TIMM):
        name = model.name.removeprefix(TIMM)
        if not timm.is_model(name.partition(".")[0]):
            raise ModelError(
                f"model.name: timm has no architecture {name!r}; {_nearest_timm(name)}"
            )
        return name
    path = Path(resolve_model(model.name))
    return f"local-dir:{path}" if "architecture" in _timm_folder(path) else None


def _nearest_timm(name: str) -> str:
    stem = name.partition(".")[0]
    hint = nearest(stem, timm.list_models())
    return hint if hint.startswith("did") else "timm.list_models() names them"


def _timm_folder(folder: Path) -> dict[str, Any]:
    """config.json of a folder, or {}."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _timm_config(name: str) -> dict[str, Any]:
    """The config of a timm network, before its weights are read."""
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        held = _timm_folder(Path(place))
        return {**held, **held.get("pretrained_cfg", {})}
    if scheme == "hf-hub":
        config, _, _ = timm.models.load_model_config_from_hf(place)
        return dict(config)
    found = timm.get_pretrained_cfg(name)
    return found.to_dict() if found is not None else {}


def create_timm(source: VisionSource, outputs: int, *, classifies: bool = True) -> Any:
    """A network of timm with a new classifier, which `classifies` says is used."""
    name, size = str(source.timm_name), source.preprocessing.size
    if source.model.attention is not None:
        raise ModelError(
            f"model.attention={source.model.attention}: {source.model.name} is of timm, which "
            "chooses by itself; leave it out"
        )
    sized = _timm_config(name).get("fixed_input_size", False)
    arguments: dict[str, Any] = {"img_size": size} if sized else {}
    arguments |= timm_arguments(source.model, classifies=classifies)
    weights = source.model.weights
    try:
        network: Any = timm.create_model(
            name, pretrained=weights is None, num_classes=outputs, **arguments
        )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        refuse_drop_path(source.model, error)
        raise ModelError(
            f"model.name: {source.model.name!r} cannot be loaded by timm: {error}. Without a hub, "
            "give weights in a file: model.weights=FILE or pkg://<package>/<path>"
        ) from error
    check_drop_path(source.model, network)
    if weights is not None:
        load_weight_file(network, weights, source.model.match, head_names(network))
    return network


def _quiet_head(layer: nn.Linear) -> None:
    """Let a new head know nothing. Some networks of timm start it at +-1 / sqrt(classes), so that
    ten classes begin with logits of 10 and a loss of 8.
    """
    nn.init.trunc_normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _processor_of(model: ModelConfig, config: Any) -> tuple[dict[str, Any], str]:
    """The config of a network's image processor; a usual one and a note, if it has none."""
    try:
        processor = from_pretrained("AutoImageProcessor", model)
        return json.loads(processor.to_json_string()), ""
    except ModelError:
        size = getattr(config, "image_size", None) or 224
        side = size if isinstance(size, int) else size[0]
        usual = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": side, "width": side},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        note = f"preprocessing: {model.name} says nothing of it; {side} x {side}, mean and std 0.5"
        return usual, note
