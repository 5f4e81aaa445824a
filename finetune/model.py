"""Wrapper around a pretrained network of another library: it names blocks, heads and LoRA targets.

Shapes: B samples in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError

Batch = dict[str, Any]
"""Collated samples: {"inputs" or "features", "targets", "count"}.

"inputs" is {name: Tensor}, "features" {name: Tensor [B, ...]}, "count" {loss term: Tensor []}.
"""


HEAD = -1
"""Index of the new part of a model; blocks have the indices from 0 on, counted from the input."""


class TransferModel(nn.Module):
    """A pretrained network plus the names of its parts: the boundary between pretrained and new.

    Attributes:
        network: the model exactly as its own library builds it; this is what gets saved, reloaded
            and pushed.
        heads: dotted names in `network` of new or resized modules; everything else is pretrained.
        blocks: the pretrained parts from input to output, each a group of dotted names that is
            trained or frozen as a unit. Every parameter belongs to exactly one block or head.
        lora_targets: dotted names of the layers that LoRA may wrap.
        kind: row of the table of default hyperparameters: "encoder", "decoder", "cnn", ...
        batch_norm: default of method.batch_norm; "freeze" suits training on few images per batch.
        notes: choices made while the network was built, one sentence each, for the run's header.
        new_rows: indices of newly added rows in pretrained embeddings, {dotted name: indices}.
        reads_weights: True if the forward pass computes with the weights themselves, as DoRA does
            with their norms; low-precision copies of them are then not used.
        packs_rows: True if several rows of a batch share a sequence.
        may_round: True if output.dtype may round the final weights to 16 bits.
    """

    may_round: ClassVar[bool] = False

    def __init__(
        self,
        network: nn.Module,
        *,
        heads: Sequence[str],
        blocks: Sequence[Sequence[str]],
        lora_targets: Sequence[str] = (),
        kind: str = "encoder",
        batch_norm: Literal["train", "freeze"] = "train",
    ) -> None:
        super().__init__()
        self.network = network
        self.heads = list(heads)
        self.blocks = [tuple(block) for block in blocks]
        self.lora_targets = list(lora_targets)
        self.kind = kind
        self.batch_norm = batch_norm
        self.notes: list[str] = []
        self.new_rows: dict[str, list[int]] = {}
        self.reads_weights = False
        self.packs_rows = False

    @property
    def cacheable(self) -> bool:
        """True if `features` can be computed once per row and cached while the backbone is frozen.

        False by default.
        """
        return False

    @property
    def feature_kind(self) -> str:
        """Settings beyond weights and inputs that determine the features, such as the pooling.

        Part of the cache key; by default the name of the class.
        """
        return type(self).__qualname__

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute what the head reads, every tensor [B, ...] of the same shape for all rows."""
        raise NotImplementedError(f"{type(self).__name__} has no cacheable features")

    def forward(self, batch: Batch) -> Any:
        """Compute the outputs from batch["features"] if present, else from batch["inputs"].

        The outputs have the same structure in train and eval mode, so that the task's `loss` and
        `measure` accept both.
        """
        raise NotImplementedError

    def dequantize(self) -> None:
        """Convert quantized weights to float32, in host memory, so that adapters can be merged.

        The float32 weights may not fit on the GPU beside the quantized ones. By default nothing is
        quantized.
        """

    def consolidate(self) -> None:
        """Fold state kept outside `network` into its weights, without changing the outputs.

        An example is the output scale of a regression. By default there is none.
        """

    def scale_outputs(self, factors: Sequence[float]) -> None:
        """Multiply the outputs, which are logits [B, C], by a factor each.

        Called where `Views.label_scores` returns some; `consolidate` folds the factors into the
        network.
        """
        raise NotImplementedError(f"{type(self).__name__} does not scale its outputs")

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing: recompute activations in the backward pass.

        Raises ModelError if the network's library does not support it.
        """
        network: Any = getattr(self.network, "backbone", self.network)
        try:
            # transformers renamed its switch in 5.24.
            if hasattr(network, "activation_checkpointing_enable"):
                network.activation_checkpointing_enable({"use_reentrant": False})
            elif hasattr(network, "gradient_checkpointing_enable"):
                network.gradient_checkpointing_enable({"use_reentrant": False})
            elif hasattr(network, "set_grad_checkpointing"):  # timm
                network.set_grad_checkpointing(True)
            else:
                raise ValueError("its library offers no switch for it")
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise ModelError(
                f"model.activation_checkpointing: not supported by {type(network).__name__} "
                f"({error}); set it to false, and lower train.micro_batch to save memory"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the network to `folder` in its own library's format.

        By default this calls `network.save_pretrained`.
        """
        network: Any = self.network
        network.save_pretrained(folder)

    def adapter_config(self) -> dict[str, Any]:
        """Return entries of peft's adapter config for this network, such as its task_type."""
        return {}


def saved_model(folder: Path | str, *, trust_remote_code: bool = False) -> ModelConfig:
    """Return the model config that loads a folder written by `Task.save`."""
    return ModelConfig(name=str(folder), trust_remote_code=trust_remote_code)


def named_parts(model: TransferModel) -> Iterator[tuple[str, nn.Parameter, int]]:
    """Yield (name in the network, parameter, index of its block or HEAD) for every parameter.

    Raises ModelError for a parameter that belongs to no block or head, which is a bug in the task.
    """
    part_by_prefix = dict.fromkeys(model.heads, HEAD)
    part_by_prefix |= {name: index for index, names in enumerate(model.blocks) for name in names}
    for name, parameter in model.network.named_parameters():
        prefix = name
        while prefix not in part_by_prefix:
            prefix, dot, _ = prefix.rpartition(".")
            if not dot:
                raise ModelError(
                    f"{type(model).__name__}: parameter {name!r} belongs to no block or head; "
                    "add it to `blocks` or `heads`"
                )
        yield name, parameter, part_by_prefix[prefix]


def check_finite(model: TransferModel, place: str, remedy: str) -> None:
    """Raise ModelError for weights, or averages of BatchNorm, that are NaN or infinite.

    A network computes with them without an error, and predicts nonsense.
    """
    if fault := nonfinite_fault(model, model.network.state_dict()):
        raise ModelError(f"{place}: {fault}; {remedy}")


def nonfinite_fault(model: TransferModel, tensors: Mapping[str, Any]) -> str:
    """Name the first of the network's tensors that is NaN or infinite; "" if all are finite.

    Buffers may contain -infinity, as masks of attention do.
    """
    weights = dict(model.network.named_parameters())
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
            continue
        least, most = map(float, torch.aminmax(tensor.detach()))
        if math.isnan(least) or most == math.inf or (name in weights and least == -math.inf):
            value = "NaN" if math.isnan(least) else "infinity"
            return f"the tensor {name!r} contains {value}"
    return ""


def head_weights(model: TransferModel) -> list[nn.Parameter]:
    """Return the head's weights without norms and biases. Raises ModelError if there is no head."""
    weights = [p for _, p, part in named_parts(model) if part == HEAD and p.ndim > 1]
    if not weights:
        raise ModelError(
            "optim.l1_head: this network has no new head whose weights could be penalized; "
            "remove the key (optim.weight_decay applies to all weights)"
        )
    return weights


def train_parts(model: TransferModel, first_block: int) -> None:
    """Train the head and the blocks from `first_block` on; freeze all other blocks."""
    for _, parameter, part in named_parts(model):
        parameter.requires_grad_(part == HEAD or part >= first_block)


def get_part(network: nn.Module, name: str) -> nn.Module | nn.Parameter:
    """Return the module or parameter at a dotted name."""
    part: Any = network
    for step in name.split("."):
        part = getattr(part, step)
    return part  # type: ignore[no-any-return]
