"""Gradients of lookups that are collected apart: the same ones, dense, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from finetune.optim import sparse_gradients
from finetune.optim.sparse_gradients import large_tables, sparse_lookups

TOKENS = torch.tensor([[1, 5, 5, 0], [7, 2, 1, 1]])


@pytest.fixture(autouse=True)
def small_tables_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_gradients, "SMALLEST", 1)


class Tied(nn.Module):
    """Two lookups and an output layer of one table, as in a T5."""

    def __init__(self, padding: int | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Embedding(9, 4, padding_idx=padding)
        self.decoder = nn.Embedding(9, 4, padding_idx=padding)
        self.output = nn.Linear(4, 9, bias=False)
        self.decoder.weight = self.output.weight = self.encoder.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        states = self.encoder(tokens).cumsum(1) + self.decoder(tokens.flip(1))
        logits: torch.Tensor = self.output(states)
        return logits


class Untied(Tied):
    """A table that is looked up alone."""

    def __init__(self, padding: int | None) -> None:
        super().__init__(padding)
        self.output = nn.Linear(4, 9, bias=False)


def accumulate(network: nn.Module, *, apart: bool) -> None:
    """Accumulate the gradients of two micro-batches."""
    tables = large_tables(network) if apart else []
    with sparse_lookups(tables):
        for tokens in TOKENS.split(1):
            cross_entropy(network(tokens).flatten(0, 1), tokens.flatten()).backward()


@pytest.fixture(params=[(kind, padding) for kind in (Tied, Untied) for padding in (None, 0)])
def networks(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    kind, padding = request.param
    return kind(padding), kind(padding)


def test_gradients_are_dense_and_those_of_torch(networks: tuple[nn.Module, nn.Module]) -> None:
    ours, plain = networks
    for _ in range(2):  # the second one adds to a gradient
        accumulate(ours, apart=True)
        accumulate(plain, apart=False)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and not mine.grad.is_sparse
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-7)


def test_an_update_is_seen_by_the_next_lookups(networks: tuple[nn.Module, nn.Module]) -> None:
    for network, apart in zip(networks, (True, False), strict=True):
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
        for _ in range(3):
            accumulate(network, apart=apart)
            optimizer.step()
            optimizer.zero_grad()
    ours, plain = (network(TOKENS) for network in networks)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


def test_a_failed_pass_leaves_the_network_as_it_was() -> None:
    network = Tied(None)
    names = list(network.state_dict())

    def fail() -> None:
        with sparse_lookups(large_tables(network)):
            network(TOKENS)
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        fail()
    assert network.encoder.weight is network.output.weight
    assert isinstance(network.encoder.weight, nn.Parameter) and not network.encoder.sparse
    assert list(network.state_dict()) == names and network.encoder.weight.grad is None


def test_tables_that_cannot_have_sparse_gradients_are_left_out() -> None:
    frozen = nn.Embedding(9, 4).requires_grad_(requires_grad=False)
    layers = frozen, nn.Embedding(9, 4, scale_grad_by_freq=True), nn.Embedding(9, 4, max_norm=1.0)
    assert large_tables(nn.ModuleList(layers)) == []
