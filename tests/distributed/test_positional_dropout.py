"""Dropout by position: its statistics, its independence of padding, and what it replaces."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import StochasticDepth

from finetune.distributed.positional_dropout import (
    LEVELS,
    AttentionRecorder,
    PositionalDropout,
    hash64,
    seed_of,
    seeded_dropout,
)

CPU = torch.device("cpu")
SHAPE = (6, 40, 90)  # the last axis is no multiple of the elements that share a hash
NAMES = range(6)


def kept(p: float, *shape: int, samples: Any = None, position: tuple[int, ...] = (0,)) -> Tensor:
    """Return which elements dropout keeps, bool."""
    with seeded_dropout(CPU, position, samples):
        return F.dropout(torch.ones(shape), p) != 0


def gap(first: Tensor, second: Tensor) -> float:
    """Return the largest difference, relative to the range of the first."""
    return float((first - second).detach().abs().max() / first.detach().abs().max())


@pytest.mark.parametrize("samples", [None, NAMES])
@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_dropout_drops_a_share_of_p(p: float, samples: Any) -> None:
    mask = kept(p, 64, 100, 101, samples=samples)
    deviation = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(float(mask.float().mean()) - (1 - p)) < 4 * deviation


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("distance", [1, 2, 3, 4, 16])
def test_dropout_is_independent_between_neighbors(axis: int, distance: int) -> None:
    mask = kept(0.5, 64, 64, 64, samples=range(64)).float() * 2 - 1
    here = mask.narrow(axis, 0, 64 - distance)
    there = mask.narrow(axis, distance, 64 - distance)
    assert abs(float((here * there).mean())) < 4 / here.numel() ** 0.5


def test_dropout_is_independent_between_layers_steps_and_samples() -> None:
    with seeded_dropout(CPU, (0, 0), NAMES):
        layers = [F.dropout(torch.ones(6, 50, 64), 0.5) - 1 for _ in range(2)]
    step = kept(0.5, 6, 50, 64, samples=NAMES, position=(0, 1)).float() * 2 - 1
    others = kept(0.5, 6, 50, 64, samples=range(6, 12), position=(0, 0)).float() * 2 - 1
    for other in (layers[1], step, others, layers[0].flip(0)):
        assert abs(float((layers[0] * other).mean())) < 4 / layers[0].numel() ** 0.5


def test_every_bit_of_a_hash_is_balanced() -> None:
    numbers = hash64(torch.arange(1 << 16))
    for bit in range(64):
        share = ((numbers >> bit) & 1).float().mean()
        assert abs(float(share) - 0.5) < 4 * 0.5 / (1 << 8)


def test_dropout_is_a_function_of_the_position() -> None:
    assert torch.equal(kept(0.3, *SHAPE, position=(1, 2)), kept(0.3, *SHAPE, position=(1, 2)))
    assert not torch.equal(kept(0.3, *SHAPE, position=(1, 2)), kept(0.3, *SHAPE, position=(2, 1)))


def test_dropout_by_sample_ignores_other_samples_and_padding() -> None:
    whole = kept(0.3, 6, 4, 40, 40, samples=NAMES)
    part = kept(0.3, 2, 4, 31, 29, samples=[4, 1])
    assert torch.equal(part, whole[[4, 1], :, :31, :29])


def test_dropout_by_sample_covers_several_rows_of_a_sample() -> None:
    """Windows of an image, or tokens, may lie one after the other on the first axis."""
    whole = kept(0.3, 6 * 9, 50, samples=NAMES)
    assert torch.equal(kept(0.3, 2 * 9, 50, samples=[4, 5]), whole[4 * 9 :])
    assert not torch.equal(whole[:9], whole[9:18])


def test_dropout_masks_tensors_without_an_axis_of_samples_as_a_whole() -> None:
    first, second = (kept(0.5, 5, 50, samples=names) for names in ([1, 2], [1, 3]))
    assert 0.3 < float(first.float().mean()) < 0.7
    assert not torch.equal(first, second)


@pytest.mark.parametrize("threads", [1, 2])
def test_dropout_does_not_depend_on_threads(threads: int) -> None:
    before = torch.get_num_threads()
    expected = kept(0.3, 40, 70, 90, samples=range(40))
    try:
        torch.set_num_threads(threads)
        assert torch.equal(kept(0.3, 40, 70, 90, samples=range(40)), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_scales_what_it_keeps_and_its_gradient(dtype: torch.dtype) -> None:
    rows = torch.randn(SHAPE, dtype=dtype).requires_grad_()
    with seeded_dropout(CPU, (0,)):
        dropped = F.dropout(rows, 0.25)
        dropped.backward(torch.ones_like(dropped))
    mask = (dropped != 0).to(dtype)
    assert dropped.dtype == dtype
    assert torch.allclose(
        dropped, rows * mask * (4 / 3), rtol=1e-2 if dtype.itemsize == 2 else 1e-6
    )
    assert rows.grad is not None
    assert torch.equal(rows.grad, mask * (4 / 3))


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_dropout_leaves_evaluation_alone(p: float, training: bool) -> None:
    rows = torch.randn(SHAPE)
    with seeded_dropout(CPU, (0,)):
        assert torch.equal(F.dropout(rows, p, training), rows)
        assert torch.equal(F.dropout2d(rows[None], p, training), rows[None])


def test_dropout_of_everything_gives_zeros() -> None:
    assert not kept(1.0, *SHAPE).any()


def test_dropout_keeps_torchs_own_outside_of_the_mode_and_in_checks() -> None:
    torch.manual_seed(3)
    expected = F.dropout(torch.ones(50), 0.5)
    torch.manual_seed(3)
    with PositionalDropout():
        pass
    assert torch.equal(F.dropout(torch.ones(50), 0.5), expected)
    with PositionalDropout(), pytest.raises(ValueError, match="between 0 and 1"):
        F.dropout(torch.ones(5), 1.5)


def test_channel_dropout_drops_whole_channels() -> None:
    with seeded_dropout(CPU, (0,), NAMES):
        dropped = nn.Dropout2d(0.5)(torch.ones(6, 32, 5, 5))
    assert set(dropped.flatten(2).mean(2).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped, dropped[:, :, :1, :1].expand_as(dropped))


@pytest.mark.parametrize("layer", [DropPath(0.5), StochasticDepth(0.5, "row")])
def test_stochastic_depth_is_a_function_of_the_sample(layer: nn.Module) -> None:
    def depth(samples: list[int]) -> Tensor:
        with seeded_dropout(CPU, (0,), samples):
            return layer(torch.ones(len(samples), 3, 2, 2))[:, 0, 0, 0]

    whole = depth(list(range(40)))
    assert set(whole.tolist()) == {0.0, 2.0}
    assert torch.equal(depth([7, 30, 2]), whole[[7, 30, 2]])


def test_rand_of_one_number_a_sample_is_a_function_of_the_sample() -> None:
    def draw(samples: range, *shape: int) -> Tensor:
        with seeded_dropout(CPU, (0,), samples):
            return torch.rand(shape)

    whole = draw(range(4000), 4000, 1, 1)
    assert torch.equal(draw(range(7, 12), 5, 1, 1), whole[7:12])
    assert float(whole.min()) >= 0
    assert float(whole.max()) < 1
    assert abs(float(whole.mean()) - 0.5) < 0.02
    assert len(draw(NAMES, 6, 3).unique()) == 18  # as torch draws it


def heads(**options: Any) -> tuple[list[Tensor], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 4, 9, 8), (6, options.pop("groups", 4), 11, 8), (6, 4, 11, 8))
    query, key, _ = (torch.randn(shape, generator=generator) for shape in shapes)
    value = torch.randn(key.shape, generator=generator)
    return [tensor.requires_grad_() for tensor in (query, key, value)], options


BOOLEAN = torch.arange(11).expand(6, 1, 9, 11) < torch.arange(5, 11)[:, None, None, None]
MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "bool": {"attn_mask": BOOLEAN},
    "float": {"attn_mask": torch.linspace(-3, 3, 99).view(9, 11)},
    "infinite": {"attn_mask": torch.zeros(6, 1, 9, 11).masked_fill(~BOOLEAN, -torch.inf)},
    "scale": {"scale": 0.5},
    "causal": {"is_causal": True},
    "groups": {"groups": 2, "enable_gqa": True},
    "causal-groups": {"groups": 2, "enable_gqa": True, "is_causal": True},
}


@pytest.mark.parametrize("options", MASKS.values(), ids=MASKS)
def test_attention_equals_torchs(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the dropout of the scores is left out."""
    results = []
    module = "finetune.distributed.positional_dropout"
    monkeypatch.setattr(f"{module}._kept_levels", lambda p: LEVELS)
    monkeypatch.setattr(f"{module}.keep_mask", lambda *call: call[-1].new_ones(call[1]))
    for mode in (None, PositionalDropout()):
        tensors, keys = heads(**options)
        if mode is None:
            attended = F.scaled_dot_product_attention(*tensors, **keys)
        else:
            with mode:
                attended = F.scaled_dot_product_attention(*tensors, dropout_p=0.1, **keys)
        attended.sin().sum().backward()
        results.append([attended, *(tensor.grad for tensor in tensors)])
    for expected, actual in zip(*results, strict=True):
        assert gap(expected, actual) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_differentiates_a_learned_bias(dtype: torch.dtype) -> None:
    """As T5's, to which the lowest number or -inf is added where a key is padding."""
    gradients = []
    for mode in (None, PositionalDropout(matmul_attention=True)):
        tensors, _ = heads()
        tensors = [tensor.detach().to(dtype) for tensor in tensors]
        bias = torch.linspace(-3, 3, 99).view(9, 11).requires_grad_()
        mask = bias.masked_fill(~BOOLEAN, -torch.inf).masked_fill(~BOOLEAN[:1], -3e38)
        with mode or contextlib.nullcontext():
            attended = F.scaled_dot_product_attention(*tensors, mask.to(dtype))
        attended.float().sin().sum().backward()
        gradients.append(bias.grad)
    assert gap(*gradients) < (1e-5 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize(("most", "calls"), [(2**26, True), (6 * 4 * 9 * 11 - 1, False)])
def test_attention_without_dropout_is_replaced_if_asked_for(
    most: int, calls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.distributed.positional_dropout.MOST_SCORES", most)
    tensors, _ = heads()
    expected = F.scaled_dot_product_attention(*tensors)
    with AttentionRecorder() as recorder:
        F.scaled_dot_product_attention(*tensors, dropout_p=0.1)
        assert recorder.first is None
        assert torch.equal(F.scaled_dot_product_attention(*tensors), expected)
        assert recorder.first is not None
        assert recorder.first[0][:3] == tuple(tensors)
    with PositionalDropout(matmul_attention=True):
        attended = F.scaled_dot_product_attention(*tensors)
    assert gap(expected, attended) < 1e-5
    assert torch.equal(attended, expected) is not calls


def test_attention_with_dropout_is_right_on_average() -> None:
    tensors, _ = heads()
    expected = F.scaled_dot_product_attention(*tensors)
    total = torch.zeros_like(expected)
    for step in range(200):
        with seeded_dropout(CPU, (step,), NAMES):
            total += F.scaled_dot_product_attention(*tensors, dropout_p=0.3).detach()
    assert gap(expected, total / 200) < 0.15
    assert gap(expected, total / 200) > 1e-4


def test_attention_of_wholly_masked_rows_is_finite() -> None:
    tensors, _ = heads()
    mask = torch.ones(6, 1, 9, 11, dtype=torch.bool)
    mask[2:] = False
    for each in (mask, torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)):
        with seeded_dropout(CPU, (0,)):
            attended = F.scaled_dot_product_attention(*tensors, each, dropout_p=0.1)
            attended.sum().backward()
        assert attended.isfinite().all()
        assert all(tensor.grad.isfinite().all() for tensor in tensors)


def test_attention_computes_in_the_precision_of_autocast() -> None:
    tensors, _ = heads()
    with seeded_dropout(CPU, (0,)):
        whole = F.scaled_dot_product_attention(*tensors, dropout_p=0.1)
    with seeded_dropout(CPU, (0,)), torch.autocast("cpu", torch.bfloat16):
        half = F.scaled_dot_product_attention(*tensors, dropout_p=0.1)
    assert half.dtype == torch.bfloat16
    assert gap(whole, half.float()) < 0.03


def test_recomputed_activations_have_the_same_masks() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)) for _ in range(3))
    rows, gradients = torch.randn(4, 8), []
    for recomputes in (False, True):
        layers.zero_grad()
        with seeded_dropout(CPU, (1,), range(4)):
            hidden = rows
            for layer in layers:
                again = (layer, hidden)
                hidden = checkpoint(*again, use_reentrant=False) if recomputes else layer(hidden)
            hidden.sum().backward()
        gradients.append([parameter.grad.clone() for parameter in layers.parameters()])
    assert all(map(torch.equal, *gradients))


def test_seed_of_tells_neighbors_apart() -> None:
    seeds = {seed_of(*position) for position in ((0, 1), (1, 0), (0, 0, 1), (1, 1), (0, 2))}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)
