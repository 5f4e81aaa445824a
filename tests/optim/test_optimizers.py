"""Schedules, parameter groups, optimizers by name with their checkpoints, the gradient guard."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.optim import list_optimizers
from torch import nn

from finetune.config.schema import OptimConfig
from finetune.errors import CheckpointError, ConfigError, FinetuneError
from finetune.io.checkpoint import load_optimizer, optimizer_tensors
from finetune.methods.method_configs import FullConfig, PartialConfig
from finetune.model import TransferModel, named_parts
from finetune.optim.gradient_guard import FiniteGuard
from finetune.optim.optimizers import EXCLUDED, build_optimizer, check_optimizer
from finetune.optim.schedules import logged_rate, rate_factor, set_rate
from finetune.registry import make_method

SCHEDULES = ("linear", "cosine", "constant", "wsd")

# ---- schedules


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SCHEDULES), st.integers(1, 400), st.floats(0, 0.99))
def test_rate_factor_is_never_zero(schedule: Any, total: int, warmup: float) -> None:
    config = OptimConfig(schedule=schedule, warmup_ratio=warmup)
    factors = [rate_factor(config, step, total) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rate_factor_rises_in_the_warm_up_and_never_after(schedule: Any) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=10)
    factors = [rate_factor(config, step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert factors[10] == 1
    assert all(after <= before for before, after in itertools.pairwise(factors[10:]))


def test_warmup_steps_override_the_ratio() -> None:
    config = OptimConfig(warmup_ratio=0.5, warmup_steps=0)
    assert rate_factor(config, 0, 100) == 1


def test_linear_schedule_decays_evenly_to_one_nth() -> None:
    config = OptimConfig(schedule="linear", warmup_steps=20)
    assert rate_factor(config, 60, 100) == pytest.approx(0.5)
    assert rate_factor(config, 99, 100) == pytest.approx(1 / 80)


def test_cosine_schedule_is_half_in_the_middle() -> None:
    config = OptimConfig(schedule="cosine", warmup_steps=20)
    assert rate_factor(config, 60, 100) == pytest.approx(0.5)
    assert rate_factor(config, 40, 100) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))


def test_wsd_schedule_is_constant_then_decays_evenly() -> None:
    config = OptimConfig(schedule="wsd", warmup_steps=10, decay_ratio=0.2)
    factors = [rate_factor(config, step, 100) for step in range(100)]
    assert set(factors[10:81]) == {1.0}
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(1 / 20)


def test_constant_schedule_stays_at_the_peak() -> None:
    config = OptimConfig(schedule="constant", warmup_steps=2)
    assert {rate_factor(config, step, 50) for step in range(2, 50)} == {1.0}


# ---- parameter groups


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(3)
        )
        self.head = nn.Linear(4, 2)


def toy_model() -> TransferModel:
    torch.manual_seed(0)
    blocks = [["embedding"], *([f"layers.{place}"] for place in range(3))]
    return TransferModel(Net(), heads=["head"], blocks=blocks)


def groups_of(optim: OptimConfig, method: Any = None) -> dict[str, tuple[float, float]]:
    """Return {name: (rate, weight decay)} of the trained parameters."""
    model, method = toy_model(), make_method(method or FullConfig())
    method.apply(model)
    groups = method.param_groups(model, optim)
    return {
        name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]
    }


OPTIM = OptimConfig(lr=1e-3, head_lr=1e-2, layer_decay=0.5, weight_decay=0.1)


def test_param_groups_exclude_norms_and_biases_from_weight_decay() -> None:
    decay = {name: decay for name, (_, decay) in groups_of(OPTIM).items()}
    assert decay.pop("embedding.weight") == 0.1
    for name, value in decay.items():
        linear = name.endswith(".0.weight") or name == "head.weight"
        assert value == (0.1 if linear else 0.0), name


def test_layer_decay_lowers_rates_towards_the_input() -> None:
    rates = {name: rate for name, (rate, _) in groups_of(OPTIM).items()}
    assert rates["head.weight"] == rates["head.bias"] == 1e-2
    assert rates["layers.2.0.weight"] == 1e-3
    assert rates["layers.1.0.weight"] == 5e-4
    assert rates["layers.0.1.bias"] == 2.5e-4
    assert rates["embedding.weight"] == 1.25e-4


def test_param_groups_contain_every_trained_parameter_once() -> None:
    names = [name for name, _ in toy_model().network.named_parameters()]
    assert sorted(groups_of(OPTIM)) == sorted(names)
    partial = groups_of(OPTIM, PartialConfig(blocks=1))
    assert sorted(partial) == sorted(
        name for name in names if name[:8] in ("layers.2", "head.wei", "head.bia")
    )


def test_named_parts_reject_a_parameter_outside_of_all_parts() -> None:
    model = TransferModel(Net(), heads=["head"], blocks=[["layers.0"], ["layers.1"], ["layers.2"]])
    with pytest.raises(FinetuneError, match=r"'embedding.weight' belongs to no block"):
        list(named_parts(model))


def test_set_rate_scales_every_group_from_its_peak() -> None:
    model, method = toy_model(), make_method(FullConfig())
    method.apply(model)
    optimizer = build_optimizer(OPTIM, method.param_groups(model, OPTIM))
    peaks = [group["lr"] for group in optimizer.param_groups]
    for factor in (0.5, 0.25, 1.0):
        set_rate(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [p * factor for p in peaks]


def test_logged_rate_follows_optim_lr_and_not_the_head() -> None:
    model, method = toy_model(), make_method(FullConfig())
    method.apply(model)
    optimizer = build_optimizer(OPTIM, method.param_groups(model, OPTIM))
    set_rate(optimizer, 0.5)
    assert logged_rate(optimizer, OPTIM) == 0.5 * OPTIM.lr
    groups = method.param_groups(model, OPTIM)
    heads = [group for group in groups if group["lr"] == OPTIM.head_lr]
    assert logged_rate(build_optimizer(OPTIM, heads), OPTIM) == OPTIM.head_lr
    alike = OPTIM.model_copy(update={"head_lr": OPTIM.lr, "layer_decay": 0.5})
    assert logged_rate(build_optimizer(alike, method.param_groups(model, alike)), alike) == OPTIM.lr


# ---- optimizers by name

NAMES = sorted({*list_optimizers(exclude_filters=EXCLUDED), "adamw", "sgd"})


def network_and_optimizer(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3))
    by_decay: dict[float, dict[str, Any]] = {}
    for full_name, parameter in network.named_parameters():
        decay = 0.01 if parameter.ndim > 1 else 0.0
        group = {"params": [], "names": [], "lr": 1e-3, "weight_decay": decay}
        group = by_decay.setdefault(decay, group)
        group["params"].append(parameter)
        group["names"].append(full_name)
    return network, build_optimizer(OptimConfig(name=name), list(by_decay.values()))


def take_steps(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        network(torch.randn(8, 6)).square().mean().backward()
        set_rate(optimizer, 1 / (step + 1))
        optimizer.step()
        optimizer.zero_grad()


# One for each way to keep state: per parameter or per group, as tensors or as numbers.
EVERYDAY = {"adamw", "sgd", "adan", "lamb", "lion", "nadamw", "adafactor", "madgrad", "muon"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in EVERYDAY else pytest.mark.slow) for n in NAMES]
)
def test_load_optimizer_resumes_bit_for_bit(name: str) -> None:
    check_optimizer(name)
    network, optimizer = network_and_optimizer(name)
    take_steps(network, optimizer, range(3))
    tensors, rest = optimizer_tensors(optimizer)
    tensors, rest = copy.deepcopy(tensors), json.loads(json.dumps(rest))
    weights = copy.deepcopy(network.state_dict())
    take_steps(network, optimizer, range(3, 6))

    resumed, resumed_optimizer = network_and_optimizer(name)
    resumed.load_state_dict(weights)
    load_optimizer(resumed_optimizer, tensors, rest)
    take_steps(resumed, resumed_optimizer, range(3, 6))
    for key, expected in network.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], expected), key
    assert not torch.equal(weights["0.weight"], network.state_dict()["0.weight"])


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("adamw", lambda state: torch.zeros(()), "another shape"),
        ("sgd", lambda state: torch.zeros(()), "another shape"),
        ("lamb", lambda state: torch.zeros(()), "another shape"),
        ("adamw", lambda state: state.half(), "another dtype"),
        ("adamw", lambda state: None, "is missing"),
    ],
)
def test_load_optimizer_refuses_a_state_that_the_kernels_do_not_check(
    name: str, change: Callable[[torch.Tensor], torch.Tensor | None], fault: str
) -> None:
    network, optimizer = network_and_optimizer(name)
    take_steps(network, optimizer, range(3))
    tensors, rest = optimizer_tensors(optimizer)
    key = next(key for key in sorted(tensors) if not key.endswith("|step"))
    changed = {**tensors, key: change(tensors[key])}
    kept = {key: tensor for key, tensor in changed.items() if tensor is not None}
    _, resumed = network_and_optimizer(name)
    with pytest.raises(CheckpointError, match=f"cannot be used .*{fault}.*--fresh"):
        load_optimizer(resumed, kept, rest)


def test_optimizer_names_cover_timm_without_the_excluded() -> None:
    assert len(NAMES) > 60
    assert not any(fnmatch.fnmatch(name, pattern) for name in NAMES for pattern in EXCLUDED)


def test_check_optimizer_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"optim.name: unknown optimizer 'adanw2'; did you mean"):
        check_optimizer("adanw2")
    with pytest.raises(ConfigError, match="'adamw'"):
        check_optimizer("adamww")
    with pytest.raises(ConfigError, match="unknown optimizer"):
        check_optimizer("kron")


def test_sgd_uses_the_configured_momentum() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    groups = [{"params": [parameter], "names": ["p"], "lr": 0.1, "weight_decay": 0.0}]
    assert (
        build_optimizer(OptimConfig(name="sgd", momentum=0.5), groups).defaults["momentum"] == 0.5
    )


# ---- the guard against non-finite gradients


def adamw() -> torch.optim.Optimizer:
    return network_and_optimizer("adamw")[1]


def sgd() -> torch.optim.Optimizer:
    return network_and_optimizer("sgd")[1]


@pytest.mark.parametrize("make", [adamw, sgd])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_finite_guard_on_cuda_skips_updates_until_confirmed(
    make: Callable[[], torch.optim.Optimizer], bad: float
) -> None:
    optimizer = make()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    guard = FiniteGuard(optimizer, scaled=False, device=torch.device("cuda"))  # runs on the CPU
    assert guard.deferred

    def update(value: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, value)
        guard.check(torch.tensor(value), 0)
        optimizer.step()

    start = [p.detach().clone() for p in parameters]
    update(0.1)
    before = [p.detach().clone() for p in parameters]
    assert not torch.equal(start[0], before[0])
    guard.confirm(1)
    update(bad)
    update(0.1)  # finite, but after a skipped update
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    with pytest.raises(FinetuneError, match=r"not finite; the update was not applied"):
        guard.confirm(3)


def test_finite_guard_raises_at_once_on_a_cpu_and_never_under_a_scaler() -> None:
    guard = FiniteGuard(adamw(), scaled=False, device=torch.device("cpu"))
    guard.check(torch.tensor(1e30), 3)
    with pytest.raises(FinetuneError, match=r"step 4: the gradient is not finite"):
        guard.check(torch.tensor(math.nan), 4)
    scaled = FiniteGuard(adamw(), scaled=True, device=torch.device("cuda"))
    scaled.check(torch.tensor(math.inf), 1)
    scaled.confirm(1)


def test_sgd_takes_parameters_that_are_unfrozen_later() -> None:
    """As torch's own SGD does without a fused kernel."""
    ends = []
    for build in (
        lambda groups: build_optimizer(OptimConfig(name="sgd"), groups),
        lambda groups: torch.optim.SGD(groups, momentum=0.9, fused=False),
    ):
        first, second = (nn.Parameter(torch.arange(3.0) + start) for start in (1, 5))
        optimizer = build([{"params": [first, second], "lr": 0.1, "weight_decay": 0.01}])
        for step in range(4):
            first.grad = torch.full((3,), 0.5)
            second.grad = torch.full((3,), 0.25) if step > 1 else None
            optimizer.step()
        ends.append(torch.stack([first.detach(), second.detach()]))
    assert torch.allclose(*ends, rtol=1e-6, atol=0)
