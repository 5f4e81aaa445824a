"""peft adapters inside a network: choosing layers, injecting, saving and merging.

Adapters are injected in place: `inject_adapter_in_model` keeps the name of every module, so the
dotted names of a `TransferModel` stay valid.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from finetune.errors import ModelError, nearest
from finetune.model import HEAD, TransferModel, named_parts

if TYPE_CHECKING:  # ten seconds of imports that other methods do not need
    import peft

_Value = TypeVar("_Value")
# peft's loaders expect names as inside a PeftModel.
PEFT_PREFIX = "base_model.model."


def chosen_targets(model: TransferModel, wanted: list[str] | None, method: str) -> list[str]:
    """Return the layers to adapt: those that `wanted` names, by default all that can be.

    A name in `wanted` is a layer's full dotted name or its ending. Raises ModelError if none match.
    """
    if not model.lora_targets:
        raise ModelError(
            f"method={method}: this network has no layers that can be adapted; "
            "use method=frozen, partial or full"
        )
    if wanted is None:
        return model.lora_targets
    return list(match_layers("method.targets", dict.fromkeys(wanted), model.lora_targets))


def match_layers(
    key: str, wanted: Mapping[str, _Value], layers: Sequence[str]
) -> dict[str, _Value]:
    """Resolve {name or ending: value} to {full layer name: value}; later entries win.

    Raises ModelError, with the config `key`, for a name that matches no layer.
    """
    resolved: dict[str, _Value] = {}
    for ending, value in wanted.items():
        matches = [name for name in layers if name == ending or name.endswith("." + ending)]
        if not matches:
            endings = {name.rpartition(".")[2] for name in layers}
            raise ModelError(
                f"{key}: {ending!r} matches no layer that can be adapted; "
                f"{nearest(ending, endings)}"
            )
        resolved |= dict.fromkeys(matches, value)
    return resolved


def exact_pattern(names: Iterable[str]) -> str:
    """Return an anchored regex for full names: peft would match a list of names as endings."""
    return "^(?:" + "|".join(re.escape(name) for name in names) + ")$"


def inject(config: peft.PeftConfig, model: TransferModel, prefixes: Sequence[str]) -> None:
    """Inject adapters into a network; train them and the head, freeze everything else.

    `prefixes` are the substrings that mark an adapter's parameters.
    """
    import peft

    holder = _without_embeddings(model.network)
    with warnings.catch_warnings():
        # peft detects the transposed weights of Conv1D layers (GPT-2) by itself, but warns.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        peft.inject_adapter_in_model(config, holder)
    model.network.peft_config = holder.peft_config
    for name, parameter, part in named_parts(model):
        is_adapter = any(prefix in name for prefix in prefixes)
        parameter.requires_grad_(part == HEAD or is_adapter)


def save(
    config: peft.PeftConfig, state: Mapping[str, Tensor], model: TransferModel, folder: Path
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, including the head, like peft."""
    from safetensors.torch import save_file

    named = dict(state)
    for head in model.heads:  # with its buffers, such as BatchNorm statistics moved in training
        head_state = model.network.get_submodule(head).state_dict()
        named |= {f"{head}.{name}": tensor for name, tensor in head_state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _with_prefix(name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in named.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(str(folder))


def merge(model: TransferModel) -> None:
    """Merge all adapters into the layers that they adapt."""
    for name, module in list(model.network.named_modules()):
        if is_token_wrapper(module):
            base = module.unload_and_optionally_merge_module(True, False, None)
        elif not is_adapted(module):
            continue
        elif not is_quantized(module):
            module.merge()
            base = module.get_base_layer()
        else:  # already dequantized, which peft's quantized layers do not expect
            base = module.get_base_layer()
            delta = module.get_delta_weight(module.active_adapters[0])
            base.weight.data += delta.to(base.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.network.get_submodule(parent), child, base)
    if hasattr(model.network, "peft_config"):
        del model.network.peft_config  # or transformers would save the network as an adapter


def is_adapted(module: Any) -> bool:
    """True for peft's wrapper around an adapted layer."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)


def is_token_wrapper(module: Any) -> bool:
    """True for peft's wrapper around embeddings with some trained rows."""
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(module, TrainableTokensWrapper)


def is_quantized(module: Any) -> bool:
    """True for peft's wrapper around a layer of 4-bit or 8-bit weights."""
    return type(module).__module__.endswith("lora.bnb")


def _without_embeddings(network: nn.Module) -> nn.Module:
    """Return the network, or a bare module with the same layers if peft cannot handle it.

    For tied weights, peft calls `get_input_embeddings`, which detectors do not implement.
    """
    try:
        getattr(network, "get_input_embeddings", list)()
        return network
    except NotImplementedError:
        bare = nn.Module()
        bare._modules = network._modules
        return bare


def _with_prefix(name: str) -> str:
    return name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name
