"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters beside frozen layers, by peft.

They are injected in place: `inject_adapter_in_model` keeps the name of every module, so the seam of
dotted names holds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from finetune.config import LoraConfig
from finetune.errors import ModelError, nearest
from finetune.methods.method import HEAD, Method, named_parts, train_parts
from finetune.model import TransferModel

if TYPE_CHECKING:
    import peft

# peft's loaders expect the names of a network inside a PeftModel.
PEFT_PREFIX = "base_model.model."


class Lora(Method):
    """Adapters of low rank on the layers that the network offers, and the head, are trained."""

    name = "lora"
    trains_pretrained = False

    def __init__(self, config: LoraConfig) -> None:
        self.config = config
        self.batch_norm = config.batch_norm

    def apply(self, model: TransferModel) -> list[str]:
        import peft  # ten seconds of imports that the other methods need not pay

        train_parts(model, len(model.blocks))
        targets = chosen_targets(model, self.config.targets)
        adapted = sum(_size(model.network.get_submodule(name)) for name in targets)
        holder = _without_embeddings(model.network)
        peft.inject_adapter_in_model(self._peft_config(targets), holder)
        model.network.peft_config = holder.peft_config
        # Injection froze all but the adapters.
        for name, parameter, part in named_parts(model):
            parameter.requires_grad_(part == HEAD or ".lora_" in name)
        return [self._check_size(model, len(targets), adapted)]

    def _check_size(self, model: TransferModel, layers: int, adapted: int) -> str:
        """How large the adapters are. Raises ModelError if they are larger than what they adapt."""
        size = sum(p.numel() for name, p in model.network.named_parameters() if ".lora_" in name)
        said = f"{size:,} parameters beside {layers} layers of {adapted:,}"
        if size > adapted:
            raise ModelError(
                f"method.rank={self.config.rank}: LoRA adapters would have {said}, so they save "
                "nothing; lower method.rank, or use method=full"
            )
        return f"LoRA: {said}"

    def _peft_config(self, targets: list[str], **facts: Any) -> peft.LoraConfig:
        import peft

        return peft.LoraConfig(
            r=self.config.rank,
            lora_alpha=self.config.alpha,
            lora_dropout=self.config.dropout,
            use_rslora=self.config.rslora,
            # One anchored expression: peft takes the names of a list as endings.
            target_modules="^(?:" + "|".join(re.escape(name) for name in targets) + ")$",
            **facts,
        )

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        """Write adapter_config.json and adapter_model.safetensors, with the head, as peft does."""
        import peft
        from safetensors.torch import save_file

        facts = {
            "task_type": None,
            # Whole names: peft takes them as endings, and "dense" would be half of a BERT.
            "modules_to_save": model.heads or None,
        }
        targets = [name for name, module in model.network.named_modules() if _is_adapted(module)]
        config = self._peft_config(targets, **(facts | model.adapter_config()))
        config.inference_mode = True
        state = peft.get_peft_model_state_dict(model.network)
        for head in model.heads:  # with its buffers: a BatchNorm's averages moved in training
            held = model.network.get_submodule(head).state_dict()
            state |= {f"{head}.{name}": tensor for name, tensor in held.items()}
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            _with_prefix(name): tensor.detach().cpu().contiguous().clone()
            for name, tensor in state.items()
        }
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        return True

    def merge(self, model: TransferModel) -> None:
        for name, module in list(model.network.named_modules()):
            if not _is_adapted(module):
                continue
            if not _is_of_bits(module):
                module.merge()
            else:  # its weights are whole again, which peft's layer for 4 bits does not expect
                base = module.get_base_layer()
                delta = module.get_delta_weight(module.active_adapters[0])
                base.weight.data += delta.to(base.weight.dtype)
            parent, _, child = name.rpartition(".")
            setattr(model.network.get_submodule(parent), child, module.get_base_layer())
        if hasattr(model.network, "peft_config"):
            del model.network.peft_config  # transformers would save the network as an adapter


def chosen_targets(model: TransferModel, wanted: list[str] | None) -> list[str]:
    """The layers to adapt: all that the network offers, or those that `wanted` names.

    A wanted name is a layer's whole name or its last words. Raises ModelError if no layer has it.
    """
    if not model.lora_targets:
        raise ModelError(
            "method=lora finds no layer to adapt in this network; "
            "use method=frozen, partial or full"
        )
    if wanted is None:
        return model.lora_targets
    chosen = []
    for ending in wanted:
        matches = [
            name for name in model.lora_targets if name == ending or name.endswith("." + ending)
        ]
        if not matches:
            endings = {name.rpartition(".")[2] for name in model.lora_targets}
            raise ModelError(
                f"method.targets: no layer that LoRA can adapt is called {ending!r}; "
                f"{nearest(ending, endings)}"
            )
        chosen += matches
    return list(dict.fromkeys(chosen))


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


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_adapted(module: nn.Module) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _is_of_bits(module: Any) -> bool:
    """Whether it is peft's layer around weights of 4 bits."""
    return type(module).__module__.endswith("lora.bnb")


def _with_prefix(name: str) -> str:
    return name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name
