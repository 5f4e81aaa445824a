"""Methods applied to tiny text networks, and what they train."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.model import TransferModel
from finetune.registry import make_method
from tasks.text.text_models import TextModel, load_native
from tests.support.contract import resolve


def native(folder: Path) -> TextModel:
    """Load a text classifier with the network's own head for 3 labels."""
    torch.manual_seed(0)
    return load_native(ModelConfig(name=str(folder)), num_labels=3)


def apply(model: TransferModel, config: Any) -> Any:
    """Apply the method of a config, after it has observed batches if it needs any."""
    method = make_method(config)
    if method.reads_batches:
        method.observe(model, [{"inputs": inputs(seed)} for seed in range(6)])
    method.apply(model)
    return method


def trained(model: TransferModel) -> set[str]:
    """Return the names of the trained parameters."""
    return {name for name, p in model.network.named_parameters() if p.requires_grad}


def names_of(parts: Iterable[str], model: TransferModel) -> set[str]:
    """Return the names of the parameters in some parts of the network."""
    prefixes = tuple(f"{part}." for part in parts)
    return {name for name, _ in model.network.named_parameters() if name.startswith(prefixes)}


def inputs(seed: int = 0) -> dict[str, Tensor]:
    """Return 4 sequences of 9 tokens, the first one padded."""
    ids = torch.randint(5, 30, (4, 9), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    ids[0, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outputs(model: TransferModel) -> Tensor:
    """Return the outputs for `inputs()` in evaluation mode."""
    return evaluate(model, {"inputs": inputs()})


def disturb(model: TransferModel) -> None:
    """Add noise to all trained parameters, in place of training; all adapters must be among them."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
            assert parameter.requires_grad or not re.search(r"\.(lora|ia3)_", name)


class Bare(nn.Module):
    """A network without a head and without layers that LoRA can adapt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, groups=3)


def bare() -> TransferModel:
    return TransferModel(Bare(), heads=[], blocks=[["conv"]])


def build(task: Any, folder: Path, rows: list[dict[str, Any]]) -> tuple[Any, TransferModel]:
    """Return the task, set up on `rows`, and its model."""
    table, source = Dataset.from_list(rows), ModelConfig(name=str(folder))
    resolve(task, table[:100])
    task.setup(table, source, frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(source)


def evaluate(model: TransferModel, batch: Any) -> Tensor:
    """Return the outputs for a batch in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        return model(batch)  # type: ignore[no-any-return]
