"""Code paths for devices that the test machine lacks; each test says what is mocked."""

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
from finetune.distributed.positional_dropout import seed_dropout
from finetune.distributed.precision import choose_precision
from finetune.errors import ConfigError
from finetune.model import TransferModel
from finetune.optim.gradient_guard import FiniteGuard
from finetune.training import linear_solver as solver
from finetune.training import recipes, run
from tasks import TextClassification
from tests.support.lives import Seen, Stop, history, left_behind, live, load
from tests.support.tiny_models import text_rows

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
HALF = {"method": "full", "train.precision": "fp16", "train.log_every": 1, "train.micro_batch": 12}


# ---- fp16 with the loss scaler


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 as on a GPU: autocast, scaler and optimizer are real, but the test sets the scaler, since
    accelerate has none on a CPU. Its initial scale is so high that steps overflow.
    """

    def make(precision: str, *_: Any) -> accelerate.Accelerator:
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=False)
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        if precision == "fp16":
            accelerator.native_amp = True
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
        return accelerator

    def choose(configured: str | None, device: torch.device) -> tuple[str, str]:
        return configured or "fp32", "as configured"

    monkeypatch.setattr(run, "make_accelerator", make)
    monkeypatch.setattr(run, "choose_precision", choose)
    monkeypatch.setattr(recipes, "choose_precision", choose)


@pytest.mark.usefixtures("scaled")
def test_loss_scaler_skips_are_counted_and_the_run_resumes_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """Real fp16 on the CPU; only the creation of the scaler is mocked."""
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
    # A skipped step has no finite norm to log; all others have one.
    missing = [line["step"] for line in lines if "grad_norm" not in line]
    assert len(missing) == skipped[-1]
    assert "Infinity" not in unstopped.metrics.read_text()
    loaded = load(tmp_path / "often", bert_folder, news_csv, HALF)
    for stop in (Stop(1), Stop(5)):
        assert live(loaded, seen=often, stop=stop) is None
    resumed = live(loaded, seen=often)
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)


def test_choose_precision_rejects_fp16_on_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices are only names here: nothing runs on them."""
    with pytest.raises(ConfigError, match=r"fp16: needs a GPU.*use bf16 or fp32"):
        choose_precision("fp16", CPU)
    assert choose_precision("fp16", CUDA) == ("fp16", "as configured")
    assert choose_precision("fp16", MPS) == ("fp16", "as configured")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert choose_precision(None, MPS)[0] == "fp16"
    assert choose_precision("fp32", CPU)[0] == "fp32"
    with pytest.raises(ConfigError, match="fp16"):
        choose_precision(None, CPU)


def test_choose_precision_prefers_native_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compute capabilities are mocked."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert choose_precision(None, CUDA)[0] == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert choose_precision(None, CUDA) == ("fp32", "this cuda device has no native bf16")
    assert choose_precision(None, MPS)[0] == "fp32"


# ---- copies, seeds and kernels of other devices


def test_to_device_adapts_copies_to_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves are recorded, not made."""
    moved: list[tuple[torch.dtype, str, bool]] = []

    def record(tensor: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
        moved.append((tensor.dtype, device.type, non_blocking))
        return tensor

    batch = {"inputs": {"x": torch.ones(2)}, "targets": [torch.ones(2, dtype=torch.float64)]}
    monkeypatch.setattr(Tensor, "to", record)
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


def test_to_device_moves_every_tensor_of_a_nest() -> None:
    """Moves to the real device `meta`."""
    batch = {"inputs": {"x": torch.ones(2)}, "targets": [torch.ones(1), {"y": torch.ones(3)}]}
    moved = devices.tensors_in(devices.to_device(batch, torch.device("meta")))
    assert len(moved) == 3
    assert {tensor.device.type for tensor in moved} == {"meta"}


@pytest.mark.parametrize(("device", "is_pinned"), [(CPU, False), (CUDA, True), (MPS, False)])
def test_load_batches_pins_memory_only_for_cuda(
    device: torch.device, is_pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DataLoader is mocked."""
    arguments: dict[str, Any] = {}

    def loader(_: Any, **keys: Any) -> list[Any]:
        arguments.update(keys)
        return []

    monkeypatch.setattr(loading, "DataLoader", loader)
    split: Any = SimpleNamespace(features=None)
    task: Any = SimpleNamespace()
    assert not list(loading.load_batches(split, task, [MicroBatch((0,))], seed=0, device=device))
    assert arguments["pin_memory"] is is_pinned


def test_seed_dropout_seeds_the_device_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device module is mocked."""
    seeds: list[tuple[str, int]] = []

    def module(device: torch.device) -> Any:
        return SimpleNamespace(manual_seed=lambda seed: seeds.append((device.type, seed)))

    monkeypatch.setattr(torch, "get_device_module", module)
    for device in (CPU, CUDA, MPS):
        seed_dropout(7, device)
    assert seeds == [("cuda", 7), ("mps", 7)]
    assert torch.initial_seed() == 7


def test_finite_guard_defers_only_on_cuda() -> None:
    """The optimizer is real and on the CPU; the device is only a name."""
    optimizer = torch.optim.AdamW(nn.Linear(2, 2).parameters(), fused=True)
    deferred = {
        device.type: FiniteGuard(optimizer, scaled=False, device=device).deferred
        for device in (CPU, CUDA, MPS)
    }
    assert deferred == {"cpu": False, "cuda": True, "mps": False}


def test_solve_head_moves_from_an_apple_gpu_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is on the CPU but reports an Apple GPU; its moves are recorded."""
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
    monkeypatch.setattr(solver, "_minimize", lambda *_: 0.25)
    anything: Any = [0, 1]
    solution = solver.solve_head(anything, anything, anything, seed=0)
    assert json.dumps(solution)
    assert moves == [("cpu", torch.float64), (MPS, torch.float32)]


# ---- memory


def test_finalize_run_frees_the_trained_model_before_the_reload_check(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that is filled by one model and its optimizer has no room for a second model."""
    seen: list[tuple[list[nn.Parameter], set[int]]] = []
    save, load = TextClassification.save, TextClassification.load_model

    def saving(self: TextClassification, model: TransferModel, folder: Path) -> None:
        save(self, model, folder)
        seen.append((list(model.parameters()), set()))  # as an optimizer does

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
