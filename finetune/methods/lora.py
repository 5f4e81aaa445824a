"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters beside frozen layers, with peft."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.methods import adapter_layers as layers
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.eva import starting_directions
from finetune.methods.method_configs import LoraConfig
from finetune.model import Batch, TransferModel, train_parts

if TYPE_CHECKING:
    import peft

_REASON = "LoRA starts at zero and takes about 10x the rate of full fine-tuning"


class Lora(Method):
    """Train low-rank adapters on the layers that can be adapted, and the head."""

    name = "lora"
    Config = LoraConfig
    config: LoraConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(5e-4, 2e-3, 3, _REASON),
        "decoder": Recipe(2e-4, 1e-3, 3, "standard for LoRA on a language model"),
        "seq2seq": Recipe(
            1e-3,
            2e-3,
            3,
            "LoRA on an encoder-decoder: T5 and BART take higher rates than decoders do",
        ),
        "cnn": Recipe(2e-3, 5e-3, 5, "LoRA on a convolutional network takes a high rate"),
        "vit": Recipe(5e-4, 2e-3, 5, _REASON),
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(5e-4, 1e-3, 20, NEW_CLASSES),
    }
    adapter = "LoRA adapter"
    keeps_rate_when_large = True

    def __init__(self, config: LoraConfig | None = None) -> None:
        super().__init__(config)
        self._first: dict[str, tuple[Tensor, Tensor]] = {}
        """{layer: initial (A, B)}, where that was subtracted from the layer (pissa, olora)."""
        self._directions: dict[str, Tensor] = {}
        """{layer: initial A [rank, C]}, where it comes from training batches (eva)."""

    @property
    def reads_batches(self) -> bool:
        return self.config.init == "eva"

    def observe(self, model: TransferModel, batches: Iterable[Batch]) -> list[str]:
        targets = layers.chosen_targets(model, self.config.targets, self.name)
        patterns = layers.match_layers("method.rank_pattern", self.config.rank_pattern, targets)
        self._check_layers(model, targets, patterns)
        ranks = {name: patterns.get(name, self.config.rank) for name in targets}
        self._directions = starting_directions(model, ranks, batches)
        sizes = [len(directions) for directions in self._directions.values()]
        return [
            f"EVA: {len(sizes)} of {len(targets)} layers adapted, with ranks {min(sizes)} to "
            f"{max(sizes)} by the explained variance of their inputs"
        ]

    def apply(self, model: TransferModel) -> list[str]:
        train_parts(model, len(model.blocks))
        targets = layers.chosen_targets(model, self.config.targets, self.name)
        facts = self._peft_facts(model)
        if self.reads_batches:
            assert self._directions, "observe comes before apply"
            targets = list(self._directions)
        self._check_layers(model, targets, facts["rank_pattern"])
        adapted = sum(_size(model.network.get_submodule(name)) for name in targets)
        # Before memory is allocated for them: a row and a column of each layer at the very least.
        self._check_size(2 * self.config.rank * len(targets), len(targets), adapted)
        config = self._peft_config(targets, **facts)
        layers.inject(config, model, (".lora_", ".trainable_tokens_delta."))
        model.reads_weights = self.config.dora or self.config.train_tokens
        modules: Iterable[Any] = model.network.modules()
        for module in filter(layers.is_adapted, modules):
            if not layers.is_quantized(module):
                # peft would cast autocast's low-precision inputs to float32, and autocast back.
                module.cast_input_dtype_enabled = False
        for name, directions in self._directions.items():
            adapter: Any = model.network.get_submodule(name)
            adapter.lora_A["default"].weight.data.copy_(directions)
        if self.config.init in ("pissa", "olora"):
            self._first = {name: _matrices(model, name) for name in targets}
        size = sum(p.numel() for name, p in model.network.named_parameters() if ".lora_" in name)
        self._check_size(size, len(targets), adapted)
        return [f"LoRA: {size:,} parameters on {len(targets)} layers, which have {adapted:,}"]

    def _check_size(self, size: int, count: int, adapted: int) -> None:
        """Raise ModelError if the adapters have more parameters than the layers they adapt."""
        if size > adapted:
            raise ModelError(
                f"method.rank={self.config.rank}: LoRA adapters would have {size:,} parameters or "
                f"more, and the {count} layers that they adapt have {adapted:,}; lower "
                "method.rank, or use method=full"
            )

    def _check_layers(
        self, model: TransferModel, targets: list[str], ranks: Mapping[str, int]
    ) -> None:
        """Raise ModelError for a layer that cannot be adapted as configured."""
        init = self.config.init
        for name in targets:
            layer: Any = model.network.get_submodule(name)
            kind, rank = type(layer).__name__, ranks.get(name, self.config.rank)
            setting = f"method.init={init}" if init != "zero" else "method.dora=true"
            if (self.config.dora or init != "zero") and not layer.weight.is_floating_point():
                raise ModelError(
                    f"{setting}: {name} is quantized, and this needs full-precision weights; leave "
                    "it out, or leave model.quantize out"
                )
            if init == "zero":
                continue
            # peft's olora code reads the weights of a Conv1D, [in, out], as [out, in].
            if kind not in (("Linear",) if init == "olora" else ("Linear", "Conv1D")):
                raise ModelError(
                    f"method.init={init}: {name} is a {kind}, which is not supported; list other "
                    "layers in method.targets, or use method.init=zero"
                )
            if rank > min(layer.weight.shape):
                raise ModelError(
                    f"method.init={init}: {name} has {min(layer.weight.shape)} singular values, "
                    f"fewer than the rank {rank}; lower method.rank or method.rank_pattern"
                )

    def _peft_facts(self, model: TransferModel) -> dict[str, Any]:
        """Return the part of peft's config that is specific to single layers."""
        targets = layers.chosen_targets(model, self.config.targets, self.name)
        if self.config.train_tokens and not model.new_rows:
            raise ModelError(
                "method.train_tokens: the network already has an embedding for every token; add "
                "words with task.add_tokens, or leave method.train_tokens out"
            )
        ranks = layers.match_layers("method.rank_pattern", self.config.rank_pattern, targets)
        alphas = layers.match_layers("method.alpha_pattern", self.config.alpha_pattern, targets)
        for name, directions in self._directions.items():
            ratio = len(directions) / ranks.get(name, self.config.rank)
            # Keep the scale, alpha / rank or alpha / sqrt(rank), unchanged.
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
        defaults = {
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "init_lora_weights": True if init in ("zero", "eva") else init,
        }
        with warnings.catch_warnings():
            # peft warns that it cannot convert pissa with patterns under rslora; `_as_plain` can.
            warnings.filterwarnings("ignore", message="Using Rank-Stabilized LoRA")
            return peft.LoraConfig(
                lora_dropout=self.config.dropout,
                use_rslora=self.config.rslora,
                use_dora=self.config.dora,
                target_modules=layers.exact_pattern(targets),
                **(defaults | facts),
            )

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        import peft

        named = model.network.named_modules()
        facts = self._peft_facts(model) | {
            "task_type": None,
            # Full names: peft matches them as endings, and "dense" would match half of a BERT.
            "modules_to_save": model.heads or None,
        }
        # Trained token rows are saved on their own; otherwise a resized embedding is saved in full.
        embeddings: Any = False if self.config.train_tokens else "auto"
        state = peft.get_peft_model_state_dict(model.network, save_embedding_layers=embeddings)
        if self._first:
            facts |= self._as_plain(state, facts)
        targets = [name for name, module in named if layers.is_adapted(module)]
        config = self._peft_config(targets, **(facts | model.adapter_config()))
        layers.save(config, state, model, folder)
        return True

    def _as_plain(self, state: dict[str, Tensor], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Convert `state` in place to an adapter of the pretrained layers; return config changes.

        pissa and olora subtract the initial B0 A0 from a layer W, so the trained layer is
        W - B0 A0 + B A. That is W with a plain adapter [B, -B0] [A; A0] of twice the rank.
        """
        for name, (first_a, first_b) in self._first.items():
            a, b = f"{name}.lora_A.weight", f"{name}.lora_B.weight"
            state[a] = torch.cat([state[a].cpu(), first_a], dim=0)
            state[b] = torch.cat([state[b].cpu(), -first_b], dim=1)
        # Keep the scale, alpha / rank or alpha / sqrt(rank), unchanged.
        factor = math.sqrt(2) if self.config.rslora else 2
        return {
            "init_lora_weights": True,
            "r": 2 * self.config.rank,
            "lora_alpha": factor * self.config.alpha,
            "rank_pattern": {name: 2 * rank for name, rank in facts["rank_pattern"].items()},
            "alpha_pattern": {name: factor * a for name, a in facts["alpha_pattern"].items()},
        }

    def merge(self, model: TransferModel) -> None:
        layers.merge(model)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(model: TransferModel, layer: str) -> tuple[Tensor, Tensor]:
    """Return copies of the current A and B of a layer."""
    adapter: Any = model.network.get_submodule(layer)
    (a,), (b,) = adapter.lora_A.values(), adapter.lora_B.values()
    return a.weight.detach().cpu().clone(), b.weight.detach().cpu().clone()
