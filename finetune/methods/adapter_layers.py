"""Adapters of peft inside a network: which layers are adapted, injecting, saving and merging.

They are injected in place: `inject_adapter_in_model` keeps the name of every module, so the dotted
names of a `TransferModel` hold.
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

if TYPE_CHECKING:  # ten seconds of imports that the other methods need not pay
    import peft

_Value = TypeVar("_Value")
# peft's loaders expect the names of a network inside a PeftModel.
PEFT_PREFIX = "base_model.model."


def chosen_targets(model: TransferModel, wanted: list[str] | None, method: str) -> list[str]:
    """The layers to adapt: all that the network offers, or those that `wanted` names.

    A wanted name is a layer's whole name or its last words. Raises ModelError if no layer has it.
    """
    if not model.lora_targets:
        raise ModelError(
            f"method={method} finds no layer to adapt in this network; "
            "use method=frozen, partial or full"
        )
    if wanted is None:
        return model.lora_targets
    return list(by_layer("method.targets", dict.fromkeys(wanted), model.lora_targets))


def by_layer(key: str, wanted: Mapping[str, _Value], layers: Sequence[str]) -> dict[str, _Value]:
    """{whole name of a layer: value} from {name or its last words: value}; the last one holds.

    Raises ModelError if no layer has a wanted name.
    """
    found: dict[str, _Value] = {}
    for ending, value in wanted.items():
        matches = [name for name in layers if name == ending or name.endswith("." + ending)]
        if not matches:
            endings = {name.rpartition(".")[2] for name in layers}
            raise ModelError(
                f"{key}: no layer that can be adapted is called {ending!r}; "
                f"{nearest(ending, endings)}"
            )
        found |= dict.fromkeys(matches, value)
    return found


def exactly(names: Iterable[str]) -> str:
    """One anchored expression for whole names: peft takes the names of a list as endings."""
    return "^(?:" + "|".join(re.escape(name) for name in names) + ")$"


def inject(config: peft.PeftConfig, model: TransferModel, prefixes: Sequence[str]) -> None:
    """Put adapters into a network; they and the head are trained, all else is frozen.

    `prefixes` are parts of the names of their parameters.
    """
    import peft

    holder = _without_embeddings(model.network)
    with warnings.catch_warnings():
        # peft tells layers that hold their weight transposed, GPT-2's, by itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        peft.inject_adapter_in_model(config, holder)
    model.network.peft_config = holder.peft_config
    for name, parameter, part in named_parts(model):
        is_adapter = any(prefix in name for prefix in prefixes)
        parameter.requires_grad_(part == HEAD or is_adapter)


def save(
    config: peft.PeftConfig, state: Mapping[str, Tensor], model: TransferModel, folder: Path
) -> None:
    """Write adapter_config.json and adapter_model.safetensors, with the head, as peft does."""
    from safetensors.torch import save_file

    held = dict(state)
    for head in model.heads:  # with its buffers: a BatchNorm's averages moved in training
        own = model.network.get_submodule(head).state_dict()
        held |= {f"{head}.{name}": tensor for name, tensor in own.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _with_prefix(name): tensor.detach().cpu().contiguous().clone()
        for name, tensor in held.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.inference_mode = True
    config.save_pretrained(str(folder))


def merge(model: TransferModel) -> None:
    """Fold all adapters into the layers that they adapt."""
    for name, module in list(model.network.named_modules()):
        if is_token_wrapper(module):
            base = module.unload_and_optionally_merge_module(True, False, None)
        elif not is_adapted(module):
            continue
        elif not is_of_bits(module):
            module.merge()
            base = module.get_base_layer()
        else:  # its weights are whole again, which peft's layers for few bits do not expect
            base = module.get_base_layer()
            delta = module.get_delta_weight(module.active_adapters[0])
            base.weight.data += delta.to(base.weight.dtype)
        parent, _, child = name.rpartition(".")
        setattr(model.network.get_submodule(parent), child, base)
    if hasattr(model.network, "peft_config"):
        del model.network.peft_config  # transformers would save the network as an adapter


def is_adapted(module: Any) -> bool:
    """Whether a module is peft's layer around one of the network's."""
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer)


def is_token_wrapper(module: Any) -> bool:
    """Whether it is peft's module around embeddings of which some rows are trained."""
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(module, TrainableTokensWrapper)


def is_of_bits(module: Any) -> bool:
    """Whether it is peft's layer around weights of 4 or 8 bits."""
    return type(module).__module__.endswith("lora.bnb")


def _without_embeddings(network: nn.Module) -> nn.Module:
    """What peft can change in place of the network.

    It asks a network that ties weights for its input embeddings, which a detector has not: that one
    is given as a bare module that holds the same layers.
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
