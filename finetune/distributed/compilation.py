"""Compilation of a network's blocks by torch.compile, for as long as it trains."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from finetune.model import TransferModel, get_part


def compiles_on(device: torch.device) -> bool:
    """True if compiled steps are worth it: on a CPU they were slower in every case measured."""
    return device.type != "cpu"


@contextmanager
def compiled_blocks(model: TransferModel, *, wanted: bool) -> Iterator[None]:
    """Compile the blocks of the network in place while entered, if wanted.

    Blocks instead of the whole network, since equal blocks share what is compiled. Names of
    parameters stay as they were. The first shapes take a compilation each, after which lengths of
    rows may vary.
    """
    blocks: list[Any] = []
    if wanted:
        parts = [get_part(model.network, name) for names in model.blocks for name in names]
        blocks = [part for part in parts if isinstance(part, nn.Module)]
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None  # torch offers no way back
