"""LoRA (Hu et al. 2021, arXiv:2106.09685): low-rank adapters beside frozen layers, by peft."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from finetune.config.schema import BatchNorm, MethodConfig, Share
from finetune.errors import ModelError
from finetune.methods import adapter_layers as layers
from finetune.methods.base import NEW_CLASSES, NEW_DETECTOR, Method, Recipe
from finetune.methods.eva import starting_directions
from finetune.model import Batch, TransferModel, train_parts

if TYPE_CHECKING:
    import peft


class LoraConfig(MethodConfig):
    """Low-rank adapters are trained beside frozen layers (Hu et al. 2021, arXiv:2106.09685)."""

    name: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    """Rank of the two matrices beside each layer."""
    alpha: PositiveFloat = 16
    """Their output is scaled by alpha / rank."""
    dropout: Share = 0.05
    """Share of a layer's input that is dropped before its adapter."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Learn the length of each weight vector apart from its direction (DoRA, Liu et al. 2024,
    arXiv:2402.09353).
    """
    init: Literal["zero", "pissa", "olora", "eva"] = "zero"
    """What adapters start as. zero: nothing; pissa: the largest singular directions of their layer
    (Meng et al. 2024, arXiv:2404.02948); olora: an orthonormal basis (Buyukakyuz 2024,
    arXiv:2406.01775); these two take that part out of the layer until adapters are merged. eva: the
    directions that explain most of their inputs over some training rows; layers with more to
    explain are given up to twice the rank, others less or none (Paischer et al. 2024,
    arXiv:2410.07170).
    """
    targets: list[str] | None = None
    """Names of layers, or their endings; null: all layers that the network offers."""
    rank_pattern: dict[str, PositiveInt] = {}  # noqa: RUF012 - pydantic copies it
    """Another rank for some layers: {name or ending: rank}; of several that fit, the last."""
    alpha_pattern: dict[str, PositiveFloat] = {}  # noqa: RUF012
    """Another alpha for some layers: {name or ending: alpha}; of several that fit, the last."""
    train_tokens: bool = False
    """Whether the embeddings of tokens that are new to the network, of task.add_tokens say, are
    trained.
    """
    batch_norm: BatchNorm = "freeze"
    """Whether BatchNorm moves its averages; freeze: those of the pretrained network are kept."""


class Lora(Method):
    """Adapters of low rank on the layers that the network offers, and the head, are trained."""

    name = "lora"
    Config = LoraConfig
    config: LoraConfig
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "encoder": Recipe(
            5e-4,
            2e-3,
            3,
            "LoRA adapters start at 0 and take about ten times the rate of full fine-tuning",
        ),
        "decoder": Recipe(2e-4, 1e-3, 3, "the usual rate for LoRA on a language model"),
        "seq2seq": Recipe(
            1e-3,
            2e-3,
            3,
            "LoRA on an encoder and a decoder: T5 and BART take larger rates than GPTs",
        ),
        "cnn": Recipe(2e-3, 5e-3, 5, "adapters of a convolutional network take a large rate"),
        "vit": Recipe(
            5e-4,
            2e-3,
            5,
            "LoRA adapters start at 0 and take about ten times the rate of full fine-tuning",
        ),
        "detector": Recipe(1e-3, 1e-3, 30, NEW_DETECTOR),
        "query-detector": Recipe(5e-4, 1e-3, 20, NEW_CLASSES),
    }
    trains_pretrained = False
    takes_quantized = True
    adapter = "LoRA adapter"
    keeps_rate_when_large = True

    def __init__(self, config: LoraConfig | None = None) -> None:
        super().__init__(config)
        self._first: dict[str, tuple[Tensor, Tensor]] = {}
        """What the two matrices beside each layer began as, where that was taken out of it."""
        self._directions: dict[str, Tensor] = {}
        """What A [rank, C] of each layer begins as, where it was found in training batches."""

    @property
    def reads_batches(self) -> bool:
        return self.config.init == "eva"

    def observe(self, model: TransferModel, batches: Iterable[Batch]) -> list[str]:
        targets = layers.chosen_targets(model, self.config.targets, self.name)
        known = layers.by_layer("method.rank_pattern", self.config.rank_pattern, targets)
        self._check_layers(model, targets, known)
        ranks = {name: known.get(name, self.config.rank) for name in targets}
        self._directions = starting_directions(model, ranks, batches)
        sizes = [len(directions) for directions in self._directions.values()]
        return [
            f"EVA: ranks of {min(sizes)} to {max(sizes)} beside {len(sizes)} of {len(targets)} "
            "layers, by what training rows give them"
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
        config = self._peft_config(targets, **facts)
        layers.inject(config, model, (".lora_", ".trainable_tokens_delta."))
        model.reads_weights = self.config.dora or self.config.train_tokens
        modules: Iterable[Any] = model.network.modules()
        for module in filter(layers.is_adapted, modules):
            if not layers.is_of_bits(module):
                # peft would widen what autocast made narrow, and autocast narrow it again.
                module.cast_input_dtype_enabled = False
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
        targets = layers.chosen_targets(model, self.config.targets, self.name)
        if self.config.train_tokens and not model.new_rows:
            raise ModelError(
                "method.train_tokens: the network has an embedding of every token already; add "
                "words by task.add_tokens, or leave it out"
            )
        ranks = layers.by_layer("method.rank_pattern", self.config.rank_pattern, targets)
        alphas = layers.by_layer("method.alpha_pattern", self.config.alpha_pattern, targets)
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
                target_modules=layers.exactly(targets),
                **(usual | facts),
            )

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        import peft

        named = model.network.named_modules()
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
        targets = [name for name, module in named if layers.is_adapted(module)]
        config = self._peft_config(targets, **(facts | model.adapter_config()))
        layers.save(config, state, model, folder)
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
        layers.merge(model)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _matrices(model: TransferModel, layer: str) -> tuple[Tensor, Tensor]:
    """What A and B beside a layer are now."""
    adapter: Any = model.network.get_submodule(layer)
    (a,), (b,) = adapter.lora_A.values(), adapter.lora_B.values()
    return a.weight.detach().cpu().clone(), b.weight.detach().cpu().clone()
