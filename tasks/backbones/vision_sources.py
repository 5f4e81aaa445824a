"""Resolution of `model.name` to a vision network of timm or transformers and its preprocessing.

timm/<architecture>[.<tag>]   from the hub; with model.weights, only the architecture
a hub id or a folder          in the format of timm or of transformers
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch import nn

from finetune.config.model_folders import read_model_config
from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, nearest
from finetune.io.integrity import network_faults
from finetune.io.references import resolve_model
from tasks.backbones.dropout import check_drop_path, raise_for_drop_path, timm_arguments
from tasks.backbones.load_faults import HEAD_FILE, describe_fault
from tasks.backbones.network_folders import folder_kind
from tasks.backbones.pretrained import (
    from_pretrained,
    load_network,
    load_whole,
    refuse_keys,
)
from tasks.backbones.vector_heads import HiddenShape, read_head
from tasks.backbones.vision_models import (
    TimmModel,
    TransformersVisionModel,
    VisionModel,
    add_hidden_layer,
    head_names,
    replace_head,
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
_CORRECT = "correct the values in its config.json, or give another network"
_LARGEST_SIDE = 16_384  # of an image that a network reads, in pixels
_WITHOUT_HUB = (
    "Without hub access, give a file with weights: model.weights=FILE or pkg://<package>/<path>"
)


@dataclass(frozen=True)
class VisionSource:
    """Source of a network, determined before its weights are loaded.

    Attributes:
        timm_name: the argument of timm.create_model; None for a network of transformers.
        processor: config of the image processor; None for a timm network.
    """

    model: ModelConfig
    preprocessing: Preprocessing
    timm_name: str | None = None
    processor: Mapping[str, Any] | None = None
    note: str = ""

    @property
    def takes_any_size(self) -> bool:
        """True for a timm network that is not bound to the size that it was pretrained with."""
        name = self.timm_name
        return name is not None and not _timm_config(name).get("fixed_input_size", False)


def find_source(
    model: ModelConfig, size: int | None, crop: float | None, channels: int | None = None
) -> VisionSource:
    """Determine the library of a network and its preprocessing.

    `size`, `crop` and `channels` override the input size, the share of the center crop and the
    number of channels. Raises ModelError.
    """
    name = timm_name(model)
    if name is not None:
        native = _read(
            model,
            lambda: from_timm(timm.data.resolve_data_config(pretrained_cfg=_timm_config(name))),
        )
        with network_faults(f"model.name: {model.name!r}", "cannot be read", _CORRECT):
            channels = channels or _native_channels(name)
        return VisionSource(model, native.adapted(size, crop).with_channels(channels), name)
    if model.weights is not None:
        raise ModelError(
            f"model.weights: requires an architecture, model.name=timm/<name>, not {model.name!r}"
        )
    config = from_pretrained("AutoConfig", model)
    if config.model_type == "timm_wrapper":
        wrapped = model.model_copy(update={"name": f"hf-hub:{model.name}"})
        return find_source(wrapped, size, crop, channels)
    if channels not in (None, 3):
        raise ModelError(
            f"task.channels={channels}: {model.name} is a network of transformers, which reads "
            "RGB; use a network of timm, whose first layer is adapted: model=timm/NAME"
        )
    processor, note = _processor_of(model, config)
    preprocessing = _read(model, lambda: from_processor(processor))
    if size or crop:
        # Through the processor's own keys, so that the saved processor matches training.
        processor = to_processor(processor, preprocessing.adapted(size, crop))
        preprocessing = from_processor(processor)
    return VisionSource(model, preprocessing, None, processor, note)


def _read(model: ModelConfig, read: Callable[[], Preprocessing]) -> Preprocessing:
    """Read the preprocessing that a model describes. Raises ModelError if it is not valid."""
    try:
        found = read()
        if not all(1 <= side <= _LARGEST_SIDE for side in found.size):
            fault = f"images of {found.size[0]} x {found.size[1]} pixels"
        elif not all(map(math.isfinite, found.mean)) or not all(
            0 < s < math.inf for s in found.std
        ):
            fault = f"mean {list(found.mean)} and standard deviation {list(found.std)}"
        elif not isinstance(found.interpolation, str):
            fault = f"interpolation {found.interpolation}"
        else:
            return found
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        fault = describe_fault(error)
    raise ModelError(
        f"model.name: the preprocessing of {model.name!r} is not valid ({fault}); correct its "
        "config.json or preprocessor_config.json"
    )


def check_saved_channels(
    model: ModelConfig, channels: int | None, preprocessing: Preprocessing
) -> None:
    """Raise ModelError if a saved network reads another number of channels than is wanted."""
    if channels not in (None, preprocessing.channels):
        raise ModelError(
            f"task.channels={channels}: the network in {model.name} reads {preprocessing.channels}"
            " channels; remove the key, or begin with a network of timm"
        )


def build_vision_model(
    source: VisionSource, names: Sequence[str], hidden: HiddenShape | None = None, **config: Any
) -> VisionModel:
    """Load the pretrained network with a new head for `names`. Raises ModelError.

    `config` sets keys of the config of a transformers network.
    """
    size = source.preprocessing.size
    if source.timm_name is None:
        network, info = load_network(
            AUTO, source.model, ignore_mismatched_sizes=True, output_loading_info=True, **config
        )
        model: VisionModel = TransformersVisionModel(add_hidden_layer(network, hidden), size)
        if hidden is None and model.has_loaded_head(info):
            saved = from_pretrained("AutoConfig", source.model).id2label
            model.keep_head(list(saved.values()), names)
    else:
        network = create_timm(source, len(names))
        channels = source.preprocessing.channels
        model = TimmModel(add_hidden_layer(network, hidden), size, names, channels)
        model.network.pretrained_cfg.update(to_timm(source.preprocessing))
        if _labels_of(source.timm_name) != list(names) or hidden is not None:
            _reset_head(model.last_layer())
        else:
            model.keep_head(names, names)
    model.base = resolve_model(source.model.name)
    return model


def load_vision_model(model: ModelConfig, preprocessing: Preprocessing) -> VisionModel:
    """Load what `VisionModel.save` wrote, with its own library."""
    folder, name, size = Path(model.name), timm_name(model), preprocessing.size
    head = read_head(folder)[0] if (folder / HEAD_FILE).is_file() else None
    if name is None:
        network = load_whole(AUTO, model, head_names if head is not None else lambda _: ())
        return TransformersVisionModel(replace_head(network, head), size)
    classes = {} if head is None else {"num_classes": 0}
    network = replace_head(timm.create_model(name, pretrained=True, **classes), head)
    names = network.pretrained_cfg.get("label_names") or read_model_config(folder).get(
        "label_names"
    )
    return TimmModel(network, size, names or (), preprocessing.channels)


def timm_name(model: ModelConfig) -> str | None:
    """Return the argument of timm.create_model for a reference, or None for a transformers one."""
    if model.name.startswith("hf-hub:"):
        return model.name + (f"@{model.revision}" if model.revision else "")
    if model.name.startswith(TIMM):
        name = model.name.removeprefix(TIMM)
        if not timm.is_model(name.partition(".")[0]):
            raise ModelError(
                f"model.name: timm has no architecture {name!r}; {_nearest_timm(name)}"
            )
        return name
    is_timm = folder_kind(model.name) == "timm"
    return f"local-dir:{resolve_model(model.name)}" if is_timm else None


def _nearest_timm(name: str) -> str:
    stem = name.partition(".")[0]
    hint = nearest(stem, timm.list_models())
    return hint if hint.startswith("did") else "timm.list_models() lists them"


def _timm_config(name: str) -> dict[str, Any]:
    """Return the config of a timm network without loading its weights."""
    scheme, _, place = name.partition(":")
    if scheme == "local-dir":
        config = read_model_config(place)
        return {**config, **config.get("pretrained_cfg", {})}
    if scheme == "hf-hub":
        config, _, _ = timm.models.load_model_config_from_hf(place)
        return dict(config)
    pretrained = timm.get_pretrained_cfg(name)
    return pretrained.to_dict() if pretrained is not None else {}


def _native_channels(name: str) -> int:
    """Return the number of channels that a timm network was trained with."""
    return int((_timm_config(name).get("input_size") or (3,))[0])


def _weights_for_rgb(source: VisionSource, outputs: int) -> dict[str, Any]:
    """Return model.weights as the state of a network that reads RGB."""
    network: Any = timm.create_model(str(source.timm_name), num_classes=outputs)
    load_weight_file(network, str(source.model.weights), source.model.match, head_names(network))
    return dict(network.state_dict())


def create_timm(source: VisionSource, outputs: int, *, classifies: bool = True) -> Any:
    """Create a timm network with a new classifier.

    `classifies` is False if the task does not use the classifier.
    """
    name, size = str(source.timm_name), source.preprocessing.size
    _check_timm_keys(source.model)
    has_fixed_size = _timm_config(name).get("fixed_input_size", False)
    arguments: dict[str, Any] = {"img_size": size} if has_fixed_size else {}
    arguments |= timm_arguments(source.model, classifies=classifies)
    weights, channels = source.model.weights, source.preprocessing.channels
    if channels != 3 or _native_channels(name) != 3:
        arguments["in_chans"] = channels
    try:
        if weights is not None and "in_chans" in arguments:
            # timm adapts the first layer of weights that it loads itself.
            overlay = {"state_dict": _weights_for_rgb(source, outputs), "num_classes": outputs}
            weights, arguments["pretrained_cfg_overlay"] = None, overlay
        network: Any = timm.create_model(
            name, pretrained=weights is None, num_classes=outputs, **arguments
        )
    except ModelError:
        raise
    except Exception as error:  # files of another content fail anywhere in the library
        raise_for_drop_path(source.model, error)
        reason = describe_fault(error).rstrip(".")
        is_local = name.startswith("local-dir:")
        remedy = "" if is_local else f" {_WITHOUT_HUB}"
        raise ModelError(
            f"model.name: {source.model.name!r} cannot be loaded with timm: {reason}.{remedy}"
        ) from error
    check_drop_path(source.model, network)
    if weights is not None:
        load_weight_file(network, weights, source.model.match, head_names(network))
    return network


def _check_timm_keys(model: ModelConfig) -> None:
    """Raise ModelError for keys that have no effect on a timm network."""
    no_effect = {
        "attention": "timm chooses the attention implementation",
        "quantize": "only networks of transformers are quantized",
    }
    if model.name.startswith(TIMM):
        no_effect["revision"] = "timm chooses the revision"
    refuse_keys(model, "timm", no_effect)


def _labels_of(timm_name: str) -> list[str] | None:
    """Return the labels of a network in a folder that this kit or timm wrote, in order."""
    scheme, _, place = timm_name.partition(":")
    return read_model_config(place).get("label_names") if scheme == "local-dir" else None


def _reset_head(layer: nn.Linear | nn.Conv2d) -> None:
    """Initialize a new head with small weights.

    Some timm networks use +-1 / sqrt(classes), with which ten classes begin with logits of 10 and a
    loss of 8.
    """
    nn.init.trunc_normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _processor_of(model: ModelConfig, config: Any) -> tuple[dict[str, Any], str]:
    """Return the config of a network's image processor; a default and a note if it has none."""
    try:
        processor = from_pretrained("AutoImageProcessor", model)
        return json.loads(processor.to_json_string()), ""
    except ModelError:
        size = getattr(config, "image_size", None) or 224
        side = size if isinstance(size, int) else size[0]
        default = {
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
        note = (
            f"preprocessing: {model.name} has no image processor config; using {side} x {side}, "
            "mean and std 0.5"
        )
        return default, note
