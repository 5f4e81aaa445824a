"""Gradients of large embedding tables, of which a batch reads few rows.

Torch fills a tensor of the table's size with zeros for every lookup, and adds it to the others: of
a T5, which looks up tokens in its encoder and its decoder and ties its output layer to the table,
these are passes over three such tensors. A sparse gradient holds just the rows that were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

SMALLEST = 2**20
"""Values of the smallest table that is worth it."""


def large_tables(network: nn.Module) -> list[nn.Embedding]:
    """Return the trainable embedding tables whose gradients may be and should be sparse."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.Embedding)
        and module.weight.requires_grad
        and module.weight.numel() >= SMALLEST
        and not (module.sparse or module.scale_grad_by_freq or module.max_norm)
    ]


@contextmanager
def sparse_lookups(tables: Sequence[nn.Embedding]) -> Iterator[None]:
    """Collect the gradients of lookups apart while entered, then add them to those of the weights.

    The lookups read an alias of the weight, since autograd would copy a dense gradient in order to
    add a sparse one. Gradients of the weights are dense, as ever.
    """
    aliases: list[tuple[nn.Embedding, Tensor]] = []
    try:
        for table in tables:
            alias = table.weight.detach().requires_grad_()
            aliases.append((table, alias))
            vars(table)["weight"], table.sparse = alias, True  # the parameter stays registered
        yield
    finally:
        for table, _ in aliases:
            del vars(table)["weight"]
            table.sparse = False
    for table, alias in aliases:
        if alias.grad is None:
            continue
        if table.weight.grad is None:
            table.weight.grad = alias.grad.to_dense()
        else:
            table.weight.grad += alias.grad
