"""What a method decides about a network: what is trained, in which mode and at which rates."""

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
from finetune.model import HEAD, Batch, TransferModel, named_parts, part_named

# From this size on, full fine-tuning at 5e-5 is often unstable (Devlin et al. 2019,
# searched 2e-5 to 5e-5). Below the other, compact encoders take up to 3e-4 (Turc et al. 2019,
# arXiv:1908.08962); the rates for vision networks are for networks of that size.
LARGE, SMALL = 200_000_000, 50_000_000
SMALL_KINDS = ("encoder", "decoder")
NEW_DETECTOR = "the head and the pyramid are new, and learn boxes from the beginning: more epochs"
NEW_CLASSES = "the checkpoint finds boxes already, but its new classes learn slowly"


class Recipe(NamedTuple):
    """Rates and length that train a kind of network well with a method."""

    lr: float
    head_lr: float
    epochs: float
    reason: str


class FeatureCache(NamedTuple):
    """A cache of the features that the head reads: augmented views of a row, most GiB on disk."""

    views: int
    limit_gib: float


class Contrastive(NamedTuple):
    """The contrastive phase before the first step: its steps, and the temperature of its loss."""

    steps: int
    temperature: float


class Method(ABC):
    """One way to fine-tune: which parameters are trained, in which mode and at which rates.

    A method sees a network and never a task. To add one, write a class with its `Config` in a file
    of its own, and name it in `finetune.methods.METHODS`, or as method=file.py:Class.
    """

    name: ClassVar[str]
    Config: ClassVar[type[MethodConfig]]

    recipes: ClassVar[Mapping[str, Recipe]] = MappingProxyType({})
    """Default rates and epochs by the kind of network, as in `TransferModel.kind`."""

    trains_pretrained: ClassVar[bool] = True
    """Whether the pretrained weights themselves are trained, at least some."""

    freezes_backbone: ClassVar[bool] = False
    """Whether the backbone runs as it was pretrained, so that only a head is trained."""

    takes_quantized: ClassVar[bool] = False
    """Whether pretrained weights may be held in 4 or 8 bits."""

    adapter: ClassVar[str] = ""
    """What `save_adapter` writes is called, such as "LoRA adapter"; "" if it writes nothing."""

    keeps_rate_when_large: ClassVar[bool] = False
    """Whether large networks take the same rate as others, as for adapters."""

    def __init__(self, config: Any = None) -> None:
        usual: Any = self.Config
        self.config: Any = config if config is not None else usual()

    @property
    def sharding_fault(self) -> str:
        """Why the weights cannot be split among processes (train.shard); "" if they can."""
        return ""

    @property
    def batch_norm(self) -> BatchNorm | None:
        """freeze: BatchNorm keeps its averages in the blocks that are trained, too; None: as the
        model has it.
        """
        return getattr(self.config, "batch_norm", None)

    def recipe(self, kind: str) -> Recipe:
        """The default rates for a kind of network. Raises ModelError if there are none."""
        if kind in self.recipes:
            return self.recipes[kind]
        known = ", ".join(self.recipes) or "none"
        raise ModelError(
            f"method={self.name} has no default rates for networks of kind {kind!r} (it has them "
            f"for: {known}); set optim.lr, optim.head_lr and train.epochs"
        )

    def rate_for_size(self, parameters: int, kind: str) -> tuple[float, str]:
        """What a default rate is multiplied by for a network of this size, and why."""
        if self.freezes_backbone:  # the rate is the head's alone
            return 1, ""
        if parameters > LARGE and not self.keeps_rate_when_large:
            return 0.4, f", less for {parameters / 1e6:.0f} M parameters"
        if parameters < SMALL and kind in SMALL_KINDS:
            return 2, f", twice that for only {parameters / 1e6:.3g} M parameters"
        return 1, ""

    @abstractmethod
    def apply(self, model: TransferModel) -> list[str]:
        """Settle once which parameters will be trained, and put adapters into the network; a
        sentence for each thing that a person should know of it.
        """

    @property
    def reads_batches(self) -> bool:
        """Whether the method is shown training batches before `apply`."""
        return False

    def observe(self, model: TransferModel, batches: Iterable[Batch]) -> list[str]:
        """Settle what depends on the training data, by passes through the pretrained network on its
        device; a sentence for each thing that a person should know of it.
        """
        return []

    @property
    def feature_cache(self) -> FeatureCache | None:
        """How the features that the head reads are cached; None if they are computed every step."""
        return None

    @property
    def contrastive(self) -> Contrastive | None:
        """How the backbone is tuned by contrast before the first step; None if it is not."""
        return None

    @property
    def solves_head(self) -> bool:
        """Whether the head is solved to its optimum in place of the training loop."""
        return False

    def unfreeze(self, model: TransferModel, epoch: float) -> bool:
        """Settle what is trained at this point of the run; True if that changed.

        It is a function of `epoch` alone.
        """
        return False

    def train_mode(self, model: TransferModel) -> None:
        """Put the model in training mode, and what is frozen in evaluation mode.

        BatchNorm would move its averages otherwise.
        """
        model.train()
        for names in model.blocks:
            for name in names:
                part = part_named(model.network, name)
                if isinstance(part, nn.Module) and not _is_trained(part):
                    part.eval()
        if (self.batch_norm or model.batch_norm) == "freeze":
            for module in model.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def param_groups(self, model: TransferModel, optim: OptimConfig) -> list[dict[str, Any]]:
        """Groups of equal rate and weight decay for an optimizer, with their parameters' names.

        Call it between `apply` and the first `unfreeze`: what will ever be trained has
        requires_grad then.
        """
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        assert optim.lr is not None and optim.head_lr is not None, "the defaults fill in both rates"
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
        """Whether a parameter gets weight decay: norms and biases, which have one axis, do not."""
        return parameter.ndim > 1

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        """Write what was trained beside the network, if the method keeps it apart; True if so."""
        return False

    def merge(self, model: TransferModel) -> None:  # noqa: B027 - most methods have nothing to fold
        """Fold adapters into the network, so that its own library can load it."""


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
