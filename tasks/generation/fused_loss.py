"""Output layer and cross-entropy in one, in pieces: no more than a part of the logits is stored.

On a GPU by Liger's kernel (Hsu et al. 2024, arXiv:2410.10989) where that is installed. Elsewhere
each piece of the logits is computed again in the backward pass; torch's `linear_cross_entropy`
would round the sum of the losses to half precision.

Shapes: N positions that carry loss, H features, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from finetune.distributed.devices import autocast_dtype
from finetune.errors import ModelError

PIECE = 2**24  # logits that are stored at a time
_REMEDY = "leave task.fused_loss out"


def check_output_layer(network: Any) -> None:
    """Raise ModelError unless the logits of a language model are what its output layer returns."""
    head = network.get_output_embeddings()
    outputs: list[Tensor] = []
    handle = head.register_forward_hook(lambda *arguments: outputs.append(arguments[-1]))
    ids = torch.tensor([[1, 2, 3]], device=network.device)
    inputs = {"input_ids": ids}
    if network.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            logits = network(**inputs, use_cache=False).logits
    finally:
        handle.remove()
        network.train(training)
    if type(head) is not nn.Linear or not torch.equal(logits.float(), outputs[-1].float()):
        raise ModelError(
            f"task.fused_loss=true: {type(network).__name__} changes the logits after its output "
            f"layer, or has another layer than a linear one; {_REMEDY}"
        )


@contextmanager
def loss_as_output(network: Any, targets: Tensor) -> Iterator[None]:
    """Let the output layer of a language model return its summed loss [] instead of logits.

    It is given the hidden states [N, H] of the `targets` [N]. Raises ModelError if a method has
    replaced the layer.
    """
    head = network.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise ModelError(
            f"task.fused_loss=true: the method replaces the output layer by {type(head).__name__}; "
            f"{_REMEDY}, or method.train_tokens"
        )
    # An instance attribute shadows the method of the same name.
    vars(head)["forward"] = lambda states: fused_loss(states, head.weight, head.bias, targets)
    try:
        yield
    finally:
        del vars(head)["forward"]


def fused_loss(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Return the cross-entropy, summed, of logits `states @ weight.T + bias`.

    `states` are [N, H], `weight` [V, H], `targets` [N]; the products have autocast's dtype.
    """
    if states.is_cuda and find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        dtype = autocast_dtype(states)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast("cuda", enabled=False):
            loss: Tensor = LigerFusedLinearCrossEntropyLoss(reduction="sum")(
                weight.to(dtype), states.to(dtype), targets, bias
            )
        return loss
    rows = max(1, PIECE // len(weight))
    pieces = zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    losses = [
        checkpoint(_piece_loss, part, weight, bias, right, use_reentrant=False)
        for part, right in pieces
    ]
    return torch.stack(losses).sum()


def _piece_loss(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    logits = functional.linear(states, weight, bias).float()
    return functional.cross_entropy(logits, targets, reduction="sum")
