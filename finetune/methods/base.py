"""What a method decides about a network: what is trained, in which mode and at which rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from finetune.config.schema import OptimConfig
from finetune.model import HEAD, Batch, TransferModel, named_parts, part_named


class Method(ABC):
    """One way to fine-tune. Its config is a section of the run's config."""

    name: str

    trains_pretrained = True
    """Whether the pretrained weights themselves are trained, at least some."""

    contrastive_steps: int = 0
    """In how many steps the pretrained weights are tuned by contrast before the first step."""

    batch_norm: Literal["train", "freeze"] | None = None
    """freeze: BatchNorm keeps its averages in the blocks that are trained, too; None: as the model
    has it.
    """

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
    def caches_features(self) -> bool:
        """Whether the features that the head reads may be computed once and kept."""
        return False

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
            # Norms and biases have one axis; decaying them only pulls their scale to 0.
            decay = optim.weight_decay if parameter.ndim > 1 else 0.0
            group = groups.setdefault(
                (rate, decay), {"params": [], "names": [], "lr": rate, "weight_decay": decay}
            )
            group["params"].append(parameter)
            group["names"].append(name)
        return list(groups.values())

    def save_adapter(self, model: TransferModel, folder: Path) -> bool:
        """Write what was trained beside the network, if the method keeps it apart; True if so."""
        return False

    def merge(self, model: TransferModel) -> None:  # noqa: B027 - most methods have nothing to fold
        """Fold adapters into the network, so that its own library can load it."""


def _is_trained(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
