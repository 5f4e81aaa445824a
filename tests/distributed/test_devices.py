"""Paths of the code for devices that a test machine lacks; each test says what is real and what is pretended."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from torch import Tensor, nn

import finetune
from finetune.batching import data_loader as loading
from finetune.batching.plan import MicroBatch
from finetune.distributed import devices
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.optim.gradient_guard import FiniteGuard
from finetune.training import linear_solver as solver
from finetune.training import loop, run
from finetune.training import recipes as defaults
from tasks import TextClassification
from tests.support.lives import Seen, Stop, history, left_behind, live, load
from tests.support.tiny_models import text_rows

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
HALF = {"method": "full", "train.precision": "fp16", "train.log_every": 1, "train.micro_batch": 12}


# ---- fp16 with the loss scaler


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 as on a GPU: autocast, scaler and optimizer are real, but accelerate, which refuses to
    scale on a CPU, is given the scaler from outside. The scale begins so high that steps overflow.
    """

    def make(precision: str, *_: Any) -> accelerate.Accelerator:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=False)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        if precision == "fp16":
            accelerator.native_amp = True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        return accelerator

    def choose(asked: str | None, device: torch.device) -> tuple[str, str]:
        return asked or "fp32", "asked for"

    monkeypatch.setattr(run, "make_accelerator", make)
    monkeypatch.setattr(run, "choose_precision", choose)
    monkeypatch.setattr(defaults, "choose_precision", choose)


@pytest.mark.usefixtures("scaled")
def test_skips_of_the_loss_scaler_are_counted_and_the_run_goes_on_with_equal_bits(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """Real fp16 on the CPU; only who makes the scaler is pretended."""
    dtypes: set[torch.dtype] = set()
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, output: dtypes.add(output.dtype) if type(module) is nn.Linear else None
    )
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, HALF), seen=once)
    hook.remove()
    assert torch.float16 in dtypes
    assert unstopped is not None
    lines = [line for line in history(unstopped) if line["split"] == "train"]
    skipped = [line["skipped"] for line in lines]
    assert 0 < skipped[-1] < 8
    assert skipped == sorted(skipped)
    # A step that was skipped has no norm that could be told, and the others all have.
    missing = [line["step"] for line in lines if "grad_norm" not in line]
    assert len(missing) == skipped[-1]
    assert "Infinity" not in unstopped.metrics.read_text()
    loaded = load(tmp_path / "often", bert_folder, news_csv, HALF)
    for stop in (Stop(1), Stop(5)):
        assert live(loaded, seen=often, stop=stop) is None
    stopped = live(loaded, seen=often)
    assert stopped is not None
    assert left_behind(stopped) == left_behind(unstopped)


def test_fp16_is_refused_on_a_cpu_and_taken_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The devices are names: nothing is computed on them."""
    with pytest.raises(ConfigError, match=r"fp16: needs a GPU.*use bf16 or fp32"):
        choose_precision("fp16", CPU)
    assert choose_precision("fp16", CUDA) == ("fp16", "asked for")
    assert choose_precision("fp16", MPS) == ("fp16", "asked for")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert choose_precision(None, MPS)[0] == "fp16"
    assert choose_precision("fp32", CPU)[0] == "fp32"
    with pytest.raises(ConfigError, match="fp16"):
        choose_precision(None, CPU)


def test_bf16_is_chosen_where_the_chip_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The capabilities of the chips are pretended."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose_precision(None, CUDA)[0] == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_precision(None, CUDA) == ("fp32", "this cuda has no native bf16")
    assert choose_precision(None, MPS)[0] == "fp32"


# ---- memory and random numbers of other devices


def test_batches_reach_each_device_in_the_way_it_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moves are noted, not made."""
    moved: list[tuple[torch.dtype, str, bool]] = []

    def note(tensor: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        moved.append((tensor.dtype, device.type, non_blocking))
        return tensor

    batch = {"inputs": {"x": torch.ones(2)}, "targets": [torch.ones(2, dtype=torch.float64)]}
    monkeypatch.setattr(Tensor, "to", note)
    for device in (CPU, CUDA, MPS):
        devices.to_device(batch, device)
    single, double = torch.float32, torch.float64
    assert moved == [
        (single, "cpu", False),
        (double, "cpu", False),
        (single, "cuda", True),
        (double, "cuda", True),
        (single, "mps", False),
        (single, "mps", False),  # an Apple GPU has no float64
    ]


def test_a_whole_batch_is_moved() -> None:
    """To the device `meta`, which is real, and no CPU."""
    batch = {"inputs": {"x": torch.ones(2)}, "targets": [torch.ones(1), {"y": torch.ones(3)}]}
    found = {
        t.device.type for t in devices.tensors_in(devices.to_device(batch, torch.device("meta")))
    }
    assert found == {"meta"}


@pytest.mark.parametrize(("device", "is_pinned"), [(CPU, False), (CUDA, True), (MPS, False)])
def test_memory_is_pinned_for_cuda_alone(
    device: torch.device, is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loader is asked, but makes nothing."""
    asked: dict[str, Any] = {}

    def loader(_: Any, **keys: Any) -> list[Any]:
        asked.update(keys)
        return []

    monkeypatch.setattr(loading, "DataLoader", loader)
    split: Any = SimpleNamespace(features=None)
    task: Any = SimpleNamespace()
    assert not list(loading.load_batches(split, task, [MicroBatch((0,))], seed=0, device=device))
    assert asked["pin_memory"] is is_pinned


def test_dropout_of_a_gpu_is_seeded_beside_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the device is pretended."""
    seeds: list[tuple[str, int]] = []

    def module(device: torch.device) -> Any:
        return SimpleNamespace(manual_seed=lambda seed: seeds.append((device.type, seed)))

    monkeypatch.setattr(torch, "get_device_module", module)
    for device in (CPU, CUDA, MPS):
        loop.seed_dropout(7, device)
    assert seeds == [("cuda", 7), ("mps", 7)]
    assert torch.initial_seed() == 7


def test_guard_trusts_kernels_of_cuda_alone_to_skip_an_update() -> None:
    """The optimizer is real, on the CPU; its device is pretended."""
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), fused=True)
    found = {
        device.type: FiniteGuard(optimizer, scaled=False, device=device).deferred
        for device in (CPU, CUDA, MPS)
    }
    assert found == {"cpu": False, "cuda": True, "mps": False}


def test_exact_solver_leaves_an_apple_gpu_for_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer lies on the CPU and says that it is on an Apple GPU; its moves are noted."""
    moves: list[tuple[Any, ...]] = []

    class Layer(nn.Linear):
        @property
        def weight(self) -> Any:
            return SimpleNamespace(device=MPS)

        def to(self, *place: Any) -> Any:
            moves.append(place)
            return self

    layer = Layer.__new__(Layer)
    monkeypatch.setattr(solver, "_only_linear", lambda _: layer)
    monkeypatch.setattr(solver, "_cross_validate", lambda *_: {1.0: 0.5})
    monkeypatch.setattr(solver, "_reset", lambda _: None)
    monkeypatch.setattr(solver, "_batch", lambda *_: {})
    monkeypatch.setattr(solver, "_find_axes", lambda *_: None)
    monkeypatch.setattr(solver, "_minimise", lambda *_: 0.25)
    anything: Any = [0, 1]
    found = solver.solve_head(anything, anything, anything, seed=0)
    assert json.dumps(found)
    assert moves == [("cpu", torch.float64), (MPS, torch.float32)]


# ---- memory


def test_the_trained_model_makes_room_before_the_final_one_is_reloaded(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one model and its optimizer fill a device, a second model is one too many."""
    seen: list[tuple[list[nn.Parameter], set[int]]] = []
    save, load = TextClassification.save, TextClassification.load_model

    def saving(self: TextClassification, model: TransferModel, folder: Path) -> None:
        save(self, model, folder)
        seen.append((list(model.parameters()), set()))  # an optimizer holds them, too

    def loading(self: TextClassification, folder: Path | str) -> TransferModel:
        parameters, sizes = seen[-1]
        sizes |= {parameter.numel() for parameter in parameters}
        return load(self, folder)

    monkeypatch.setattr(TextClassification, "save", saving)
    monkeypatch.setattr(TextClassification, "load_model", loading)
    rows = text_rows(12)
    for method in ("full", "lora", "frozen", {"name": "frozen", "solver": "exact"}):
        output = tmp_path / str(len(seen))
        keys = {"model": bert_folder, "output": output, "method": method, "max_steps": 1}
        finetune.train("text-classification", data=rows, **keys)
    assert [sizes for _, sizes in seen] == [{0}] * 4
