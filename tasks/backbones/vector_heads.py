"""Heads that read one vector per row: a linear layer, or two with a hidden layer.

Other libraries do not have the second kind, so it is saved in a file of its own beside the network.

Shapes: B rows, H features of a vector, W of the hidden layer, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import gelu

from finetune.io.references import resolve_model
from tasks.backbones.load_faults import HEAD_FILE
from tasks.classification.label_config import TargetConfig


class HiddenShape(NamedTuple):
    """Width of a head's hidden layer, and the dropout probability of the head."""

    width: int
    dropout: float = 0.0


def hidden_shape(config: TargetConfig) -> HiddenShape | None:
    """Return the hidden layer that a config asks for, or None."""
    return HiddenShape(config.head_hidden, config.head_dropout) if config.head_hidden else None


class HiddenHead(nn.Module):
    """Vectors [B, H] -> logits [B, C], through a hidden layer [B, W] with GELU."""

    def __init__(self, features: int, shape: HiddenShape, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, shape.width)
        self.logits = nn.Linear(shape.width, outputs)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        hidden = gelu(self.hidden(self.dropout(vectors)))  # [B, W]
        return self.logits(self.dropout(hidden))  # type: ignore[no-any-return]


def make_vector_head(features: int, hidden: HiddenShape | None, outputs: int) -> nn.Module:
    """Make a new head from vectors [B, H] to outputs [B, C]."""
    return HiddenHead(features, hidden, outputs) if hidden else nn.Linear(features, outputs)


def unused_head_notes(name: str) -> list[str]:
    """Return a note on the head that a model of this kit has in a file of its own, if it has one.

    Such a head is loaded with its model, but not as part of a pretrained network.
    """
    has_head = (Path(resolve_model(name)) / HEAD_FILE).is_file()
    return [f"head: new; that of the checkpoint, {HEAD_FILE}, is not used"] if has_head else []


def save_head(head: nn.Module, folder: Path, **facts: str) -> None:
    """Write a head to `folder`, with `facts` as metadata."""
    from safetensors.torch import save_file

    save_file(head.state_dict(), folder / HEAD_FILE, metadata=facts or None)


def read_head(folder: Path) -> tuple[nn.Module, Mapping[str, str]]:
    """Read the head and the facts that `save_head` wrote."""
    from safetensors import safe_open

    with safe_open(folder / HEAD_FILE, "pt") as file:
        facts = file.metadata() or {}
        state: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    is_linear = "weight" in state
    first, last = ("weight", "weight") if is_linear else ("hidden.weight", "logits.weight")
    width, features = state[first].shape
    head = make_vector_head(features, None if is_linear else HiddenShape(width), len(state[last]))
    head.load_state_dict(state)
    return head, facts
