"""Base class of fine-tuning methods: what is trained, in which mode and at which rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import BatchNorm, MethodConfig, OptimConfig
from finetune.errors import ModelError
from finetune.model import HEAD, Batch, TransferModel, get_part, named_parts

# Above LARGE parameters, full fine-tuning at 5e-5 is often unstable (Devlin et al. 2019 searched
# 2e-5 to 5e-5). Below SMALL, compact encoders take up to 3e-4 (Turc et al. 2019,
# arXiv:1908.08962); default rates of vision networks assume that size already.
LARGE, SMALL = 200_000_000, 50_000_000
SMALL_KINDS = ("encoder", "decoder")
NEW_DETECTOR = "the new head and pyramid learn boxes from scratch and need more epochs"
NEW_CLASSES = "the checkpoint already localizes objects, but its new class heads learn slowly"


class Recipe(NamedTuple):
    """Default rates and epochs of a method for a kind of network."""

    lr: float
    head_lr: float
    epochs: float
    reason: str


class FeatureCache(NamedTuple):
    """Cache of the features that the head reads: augmented views per row, limit on disk in GiB."""

    views: int
    limit_gib: float


class Contrastive(NamedTuple):
    """Contrastive phase before the first step: its number of steps and its temperature."""

    steps: int
    temperature: float


class Method(ABC):
    """A way to fine-tune: which parameters are trained, in which mode and at which rates.

    A method sees a network, never a task. To add one, write a class with its `Config` in a new file
    and register it in `finetune.methods.METHODS`, or use it as method=file.py:Class.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]

    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({})
    """Default rates and epochs by `TransferModel.kind`."""

    adapter: ClassVar[str] = ""
    """Name of what `save_adapter` writes, such as "LoRA adapter"; "" if it writes nothing."""

    keeps_rate_when_large: ClassVar[bool] = False
    """True if large networks take the same rate as others, as for adapters."""

    def __init__(self, config: Any = None) -> None:
        config_class: Any = self.Config
        self.config: Any = config if config is not None else config_class()

    # Facts of the config, where they are known without torch.

    @property
    def takes_quantized(self) -> bool:
        """True if pretrained weights may be quantized to 4 or 8 bits."""
        return bool(self.config.takes_quantized)

    @property
    def freezes_backbone(self) -> bool:
        """True if the backbone runs as pretrained and only a head is trained."""
        return bool(self.config.freezes_backbone)

    @property
    def tunes_backbone(self) -> bool:
        """True if a contrastive phase tunes the backbone before the first step."""
        return bool(self.config.tunes_backbone)

    @property
    def solves_head(self) -> bool:
        """True if the head is solved exactly instead of trained by the loop."""
        return bool(self.config.solves_head)

    @property
    def sharding_fault(self) -> str:
        """The reason why weights cannot be sharded (train.shard), with a remedy; "" if they can."""
        return ""

    @property
    def batch_norm(self) -> BatchNorm | None:
        """The mode of BatchNorm in trained blocks; None: the model's default.

        freeze: it keeps its pretrained statistics there, too.
        """
        return getattr(self.config, "batch_norm", None)

    def recipe(self, kind: str) -> Recipe:
        """Return the default rates for a kind of network. Raises ModelError if there are none."""
        if kind in self.recipes:
            return self.recipes[kind]
        known = ", ".join(self.recipes) or "none"
        raise ModelError(
            f"method={self.name} has no default rates for networks of kind {kind!r} (only for: "
            f"{known}); set optim.lr, optim.head_lr and train.epochs"
        )

    def rate_for_size(self, parameters: int, kind: str) -> tuple[float, str]:
        """Return the factor on default rates for a network of this size, and a note on it."""
        if self.freezes_backbone:  # only the head's rate matters
            return 1, ""
        if parameters > LARGE and not self.keeps_rate_when_large:
            return 0.4, f"; reduced for a large network ({parameters / 1e6:.0f} M parameters)"
        if parameters < SMALL and kind in SMALL_KINDS:
            return 2, f"; doubled for a small network ({parameters / 1e6:.3g} M parameters)"
        return 1, ""

    @abstractmethod
    def apply(self, model: TransferModel) -> list[str]:
        """Select the parameters to train and inject adapters; return notes for the user."""

    @property
    def reads_batches(self) -> bool:
        """True if the method needs `observe` to see training batches before `apply`."""
        return False

    def observe(self, model: TransferModel, batches: Iterable[Batch]) -> list[str]:
        """Run training batches through the pretrained network, on its device, before `apply`.

        Returns notes for the user.
        """
        return []

    @property
    def feature_cache(self) -> FeatureCache | None:
        """Settings of the feature cache; None if features are computed on every step."""
        return None

    @property
    def contrastive(self) -> Contrastive | None:
        """Settings of the contrastive phase before the first step; None if there is none."""
        return None

    def unfreeze(self, model: TransferModel, epoch: float) -> bool:
        """Set what is trained at this point of the run; True if that changed.

        The result must be a function of `epoch` alone, so that resumed runs agree.
        """
        return False

    def train_mode(self, model: TransferModel) -> None:
        """Put the model in training mode, but frozen parts in evaluation mode.

        Otherwise their dropout would be active and their BatchNorm statistics would move.
        """
        model.train()
        for names in model.blocks:
            for name in names:
                part = get_part(model.network, name)
                if isinstance(part, nn.Module) and not _is_trained(part):
                    part.eval()
        if (self.batch_norm or model.batch_norm) == "freeze":
            for module in model.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def param_groups(self, model: TransferModel, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return parameter groups of equal rate and weight decay, with the parameters' names.

        Call it between `apply` and the first `unfreeze`, when everything that will ever be trained
        has requires_grad.
        """
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        assert optim.lr is not None and optim.head_lr is not None, "defaults fill in both rates"
        for name, parameter, part in named_parts(model):
            if not parameter.requires_grad:
                continue
            depth = len(model.blocks) - 1 - part
            rate = optim.head_lr if part == HEAD else optim.lr * (optim.layer_decay or 1.0) ** depth
            decay = optim.weight_decay if self.decays(name, parameter) else 0.0
            group = groups.setdefault(
                (rate, decay), {"params": [], "names": [], "lr": rate, "weight_decay": decay}
            )
            group["params"].append(parameter)
            group["names"].append(name)
        return list(groups.values())

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """True if a parameter gets weight decay; 1-D parameters (norms and biases) do not."""
        return parameter.ndim > 1

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        """Write the adapter to `folder`; False if the method has none."""
        return False

    def merge(self, model: TransferModel) -> None:  # noqa: B027 - a no-op for most methods
        """Merge adapters into the network, so that its own library can load it."""


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
