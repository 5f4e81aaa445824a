"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters beside frozen layers, by peft.

They are injected in place: `inject_adapter_in_model` keeps the name of every module, so the seam of
dotted names holds.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from finetune.config.schema import LoraConfig
from finetune.errors import ModelError
from finetune.methods.base import Method
from finetune.methods.eva import starting_directions
from finetune.methods.lora_layers import by_layer, chosen_targets
from finetune.model import HEAD, Batch, TransferModel, named_parts, train_parts

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
        self._first: dict[str, tuple[Tensor, Tensor]] = {}
        """What the two matrices beside each layer began as, where that was taken out of it."""
        self._directions: dict[str, Tensor] = {}
        """What A [rank, C] of each layer begins as, where it was found in training batches."""

    @property
    def reads_batches(self) -> bool:
        return self.config.init == "eva"

    def observe(self, model: TransferModel, batches: Iterable[Batch]) -> list[str]:
        targets = chosen_targets(model, self.config.targets)
        known = by_layer("method.rank_pattern", self.config.rank_pattern, targets)
        self._check_layers(model, targets, known)
        ranks = {name: known.get(name, self.config.rank) for name in targets}
        self._directions = starting_directions(model, ranks, batches)
        sizes = [len(directions) for directions in self._directions.values()]
        return [
            f"EVA: ranks of {min(sizes)} to {max(sizes)} beside {len(sizes)} of {len(targets)} "
            "layers, by what training rows give them"
        ]

    def apply(self, model: TransferModel) -> list[str]:
        import peft  # ten seconds of imports that the other methods need not pay

        train_parts(model, len(model.blocks))
        targets = chosen_targets(model, self.config.targets)
        facts = self._peft_facts(model)
        if self.reads_batches:
            assert self._directions, "observe comes before apply"
            targets = list(self._directions)
        self._check_layers(model, targets, facts["rank_pattern"])
        adapted = sum(_size(model.network.get_submodule(name)) for name in targets)
        holder = _without_embeddings(model.network)
        with warnings.catch_warnings():
            # peft tells layers that hold their weight transposed, GPT-2's, by itself.
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
            peft.inject_adapter_in_model(self._peft_config(targets, **facts), holder)
        model.network.peft_config = holder.peft_config
        model.reads_weights = self.config.dora or self.config.train_tokens
        layers: Iterable[Any] = model.network.modules()
        for module in layers:
            if _is_adapted(module) and not _is_of_bits(module):
                # peft would widen what autocast made narrow, and autocast narrow it again.
                module.cast_input_dtype_enabled = False
        # Injection froze all but the adapters.
        for name, parameter, part in named_parts(model):
            parameter.requires_grad_(part == HEAD or _is_adapter(name))
        for name, directions in self._directions.items():
            adapter: Any = model.network.get_submodule(name)
            adapter.lora_A["default"].weight.data.copy_(directions)
        if self.config.init in ("pissa", "olora"):
            self._first = {name: _matrices(model, name) for name in targets}
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

    def _check_layers(
        self, model: TransferModel, targets: list[str], ranks: Mapping[str, int]
    ) -> None:
        """Raise ModelError for a layer that cannot be adapted as asked."""
        init = self.config.init
        for name in targets:
            layer: Any = model.network.get_submodule(name)
            kind, rank = type(layer).__name__, ranks.get(name, self.config.rank)
            asked = f"method.init={init}" if init != "zero" else "method.dora=true"
            if (self.config.dora or init != "zero") and not layer.weight.is_floating_point():
                raise ModelError(
                    f"{asked}: {name} is held in few bits, and this needs whole weights; leave it "
                    "out, or leave model.quantize out"
                )
            if init == "zero":
                continue
            # peft's own code for olora takes the weights of a Conv1D [in, out] for [out, in].
            if kind not in (("Linear",) if init == "olora" else ("Linear", "Conv1D")):
                raise ModelError(
                    f"method.init={init}: {name} is a {kind}, which it does not know; name other "
                    "layers in method.targets, or use method.init=zero"
                )
            if rank > min(layer.weight.shape):
                raise ModelError(
                    f"method.init={init}: {name} has {min(layer.weight.shape)} singular values, "
                    f"less than the rank {rank}; lower method.rank or method.rank_pattern"
                )

    def _peft_facts(self, model: TransferModel) -> dict[str, Any]:
        """What peft is told of single layers."""
        targets = chosen_targets(model, self.config.targets)
        if self.config.train_tokens and not model.new_rows:
            raise ModelError(
                "method.train_tokens: the network has an embedding of every token already; add "
                "words by task.add_tokens, or leave it out"
            )
        ranks = by_layer("method.rank_pattern", self.config.rank_pattern, targets)
        alphas = by_layer("method.alpha_pattern", self.config.alpha_pattern, targets)
        for name, directions in self._directions.items():
            ratio = len(directions) / ranks.get(name, self.config.rank)
            # The scale, alpha / rank or alpha / sqrt(rank), stays what it was.
            factor = math.sqrt(ratio) if self.config.rslora else ratio
            alphas[name] = alphas.get(name, self.config.alpha) * factor
            ranks[name] = len(directions)
        return {
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "trainable_token_indices": model.new_rows if self.config.train_tokens else None,
        }

    def _peft_config(self, targets: list[str], **facts: Any) -> peft.LoraConfig:
        import peft

        init: Any = self.config.init
        usual = {
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "init_lora_weights": True if init in ("zero", "eva") else init,
        }
        with warnings.catch_warnings():
            # That peft could not convert it with patterns under rslora: `_as_plain` can.
            warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA")
            return peft.LoraConfig(
                lora_dropout=self.config.dropout,
                use_rslora=self.config.rslora,
                use_dora=self.config.dora,
                # One anchored expression: peft takes the names of a list as endings.
                target_modules="^(?:" + "|".join(re.escape(name) for name in targets) + ")$",
                **(usual | facts),
            )

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        """Write adapter_config.json and adapter_model.safetensors, with the head, as peft does."""
        import peft
        from safetensors.torch import save_file

        targets = [name for name, module in model.network.named_modules() if _is_adapted(module)]
        facts = self._peft_facts(model) | {
            "task_type": None,
            # Whole names: peft takes them as endings, and "dense" would be half of a BERT.
            "modules_to_save": model.heads or None,
        }
        # Rows of embeddings that are trained stand alone; others of a new vocabulary as a whole.
        whole: Any = False if self.config.train_tokens else "auto"
        state = peft.get_peft_model_state_dict(model.network, save_embedding_layers=whole)
        if self._first:
            facts |= self._as_plain(state, facts)
        config = self._peft_config(targets, **(facts | model.adapter_config()))
        config.inference_mode = True
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

    def _as_plain(self, state: dict[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Make of `state` an adapter of the layers as they were pretrained; what changes in its
        config.

        Where BA began as B0 A0, which was taken out of the layer W, it now is W - B0 A0 + BA: plain
        adapters of [B, -B0] and [A; A0], so of twice the rank, beside W.
        """
        for name, (first_a, first_b) in self._first.items():
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            state[a] = torch.cat([state[a].cpu(), first_a], dim=0)
            state[b] = torch.cat([state[b].cpu(), -first_b], dim=1)
        # The scale, alpha / rank or alpha / sqrt(rank), stays what it was.
        factor = math.sqrt(2) if self.config.rslora else 2
        return {
            "init_lora_weights": True,
            "r": 2 * self.config.rank,
            "lora_alpha": factor * self.config.alpha,
            "rank_pattern": {name: 2 * rank for name, rank in facts["rank_pattern"].items()},
            "alpha_pattern": {name: factor * a for name, a in facts["alpha_pattern"].items()},
        }

    def merge(self, model: TransferModel) -> None:
        for name, module in list(model.network.named_modules()):
            if _is_token_wrapper(module):
                base = module.unload_and_optionally_merge_module(True, False, None)
            elif not _is_adapted(module):
                continue
            elif not _is_of_bits(module):
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


def _is_adapter(name: str) -> bool:
    """Whether it is the name of a parameter that LoRA put into the network."""
    return ".lora_" in name or ".trainable_tokens_delta." in name


def _is_token_wrapper(module: Any) -> bool:
    """Whether it is peft's module around embeddings of which some rows are trained."""
    from peft.utils.other import TrainableTokensWrapper

    return isinstance(module, TrainableTokensWrapper)


def _matrices(model: TransferModel, layer: str) -> tuple[Tensor, Tensor]:
    """What A and B beside a layer are now."""
    adapter: Any = model.network.get_submodule(layer)
    (a,), (b,) = adapter.lora_A.values(), adapter.lora_B.values()
    return a.weight.detach().cpu().clone(), b.weight.detach().cpu().clone()


def _is_of_bits(module: Any) -> bool:
    """Whether it is peft's layer around weights of 4 or 8 bits."""
    return type(module).__module__.endswith("lora.bnb")


def _with_prefix(name: str) -> str:
    return name if name.startswith(PEFT_PREFIX) else PEFT_PREFIX + name
