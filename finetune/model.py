"""The seam in a model: a pretrained network of another library, and the names of its parts.

Shapes: B samples in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError

Batch = dict[str, Any]
"""Samples collated: {"inputs" or "features", "targets", "count"}.

"inputs" is {name: Tensor}, "features" {name: Tensor [B, ...]}, "count" {loss term: Tensor []}.
"""


HEAD = -1
"""The part of a model that is new; parts from 0 on are blocks, counted from the input."""


class TransferModel(nn.Module):
    """A pretrained network and the names of its parts: the seam between pretrained and new.

    Attributes:
        network: the model exactly as its own library builds it: what is saved, reloaded and pushed.
        heads: dotted names in `network` of what is new or resized; everything else is pretrained.
        blocks: the pretrained parts from input to output, each a group of dotted names that is
            trained or frozen as one. Blocks and heads together hold every parameter once.
        lora_targets: dotted names of layers that LoRA may wrap.
        kind: the row of the table of defaults that suits this network: "encoder", "decoder", ...
        batch_norm: what method.batch_norm is where it is null; "freeze" for batches of few images.
        notes: sentences on what was settled while the network was built.
        new_rows: rows of pretrained embeddings that are new, {dotted name: indices}.
        reads_weights: whether its passes compute something from weights themselves, as DoRA does
            from their norms; those must be whole then.
        may_round: whether the final weights may be rounded to 16 bits by output.dtype.
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

    @property
    def cacheable(self) -> bool:
        return False

    @property
    def feature_kind(self) -> str:
        """What, beyond weights and inputs, decides the features: a way of pooling, say.

        It is part of the cache's key.
        """
        return type(self).__qualname__

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head reads, every tensor [B, ...] and of one shape for all rows."""
        raise NotImplementedError(f"{type(self).__name__} has no features that could be cached")

    def forward(self, batch: Batch) -> Any:
        """Outputs from batch["features"] if there, else from batch["inputs"].

        They are of one kind in train and eval mode, so that loss and measure serve both.
        """
        raise NotImplementedError

    def widen(self) -> None:
        """Hold in float32 what was held in fewer bits, so that adapters can be folded into it: in
        the memory of the host, since the whole weights may not fit beside a GPU's few bits.
        """

    def settle(self) -> None:
        """Fold into the network what training kept beside it; the outputs stay as they are."""

    def checkpoint_activations(self) -> None:
        """Let the network compute activations again in the backward pass, in place of keeping them.

        Raises ModelError if its library cannot do that for it.
        """
        network: Any = getattr(self.network, "backbone", self.network)
        try:
            # transformers: under its name from 5.24 on, or the one before.
            if hasattr(network, "activation_checkpointing_enable"):
                network.activation_checkpointing_enable({"use_reentrant": False})
            elif hasattr(network, "gradient_checkpointing_enable"):
                network.gradient_checkpointing_enable({"use_reentrant": False})
            elif hasattr(network, "set_grad_checkpointing"):  # timm
                network.set_grad_checkpointing(True)
            else:
                raise ValueError("its library has no such switch")
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise ModelError(
                f"model.activation_checkpointing: {type(network).__name__} cannot do it ({error}); "
                "set it to false, and lower train.micro_batch to save memory"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the network into `folder` in the layout of its own library.

        By default that is `save_pretrained` of the network.
        """
        network: Any = self.network
        network.save_pretrained(folder)

    def adapter_config(self) -> dict[str, Any]:
        """What peft's config of an adapter says of this network, such as its task_type."""
        return {}


def saved_model(folder: Path | str, *, trust_remote_code: bool = False) -> ModelConfig:
    """A folder that `Task.save` wrote, as a model to load."""
    return ModelConfig(name=str(folder), trust_remote_code=trust_remote_code)


def named_parts(model: TransferModel) -> Iterator[tuple[str, nn.Parameter, int]]:
    """(name in the network, parameter, index of its block or HEAD) for every parameter.

    Raises ModelError for a parameter that lies in no block and no head: a fault of the adapter.
    """
    part_by_prefix = dict.fromkeys(model.heads, HEAD)
    part_by_prefix |= {name: index for index, names in enumerate(model.blocks) for name in names}
    for name, parameter in model.network.named_parameters():
        prefix = name
        while prefix not in part_by_prefix:
            prefix, dot, _ = prefix.rpartition(".")
            if not dot:
                raise ModelError(
                    f"{type(model).__name__}: parameter {name!r} lies in no block and no head"
                )
        yield name, parameter, part_by_prefix[prefix]


def head_weights(model: TransferModel) -> list[nn.Parameter]:
    """The weights of the head, without norms and biases. Raises ModelError if there is no head."""
    found = [p for _, p, part in named_parts(model) if part == HEAD and p.ndim > 1]
    if not found:
        raise ModelError(
            "optim.l1_head: this network has no new head whose weights could be penalized; "
            "leave it out (optim.weight_decay is for all weights)"
        )
    return found


def train_parts(model: TransferModel, first_block: int) -> None:
    """Train the head and the blocks from `first_block` on; freeze the others."""
    for _, parameter, part in named_parts(model):
        parameter.requires_grad_(part == HEAD or part >= first_block)


def part_named(network: nn.Module, name: str) -> nn.Module | nn.Parameter:
    """The module or parameter of a dotted name."""
    part: Any = network
    for step in name.split("."):
        part = getattr(part, step)
    return part  # type: ignore[no-any-return]
