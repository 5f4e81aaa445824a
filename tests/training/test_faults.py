"""Faults during training: out of memory, non-finite gradients, signals."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.distributed.signals import Signals
from finetune.errors import FinetuneError
from finetune.io.checkpoint import read_checkpoint
from finetune.model import Batch
from tasks.text.text_models import TextModel
from tasks.text_classification import TextClassification
from tests.support.lives import Seen, Stop, left_behind, live, load, watched
from tests.support.tiny_models import tiny_bert
from tests.support.two_processes import gradients


@pytest.fixture(scope="module")
def plain_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT without dropout, whose gradients do not depend on micro-batches."""
    return tiny_bert(tmp_path_factory.mktemp("models") / "plain", dropout=0)


# ---- memory


@pytest.mark.parametrize("room", [1, 2, 4, 11])
def test_out_of_memory_halves_micro_batches_and_keeps_the_gradients(
    room: int,
    plain_bert: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = {"method": "full", "optim": "sgd", "train.micro_batch": None, "train.epochs": 1}
    keys["train.batching"] = "length"  # random batches would be divided before memory runs out
    seen = Seen(same_again=False)
    with gradients() as whole:
        live(load(tmp_path / "whole", plain_bert, news_csv, keys), stop=Stop(4, "finish"))
    original, failures = TextModel.forward, []

    def forward(self: TextModel, batch: Batch) -> Tensor:
        rows = len(batch["inputs"]["input_ids"])
        outputs = original(self, batch)
        if self.training and rows > room:
            failures.append(rows)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return outputs

    monkeypatch.setattr(TextModel, "forward", forward)
    loaded = load(tmp_path / "cut", plain_bert, news_csv, keys)
    with gradients() as cut:
        live(loaded, seen=seen, stop=Stop(4, "finish"))
    assert cut.keys() == whole.keys()
    assert max(float((cut[k] - whole[k]).abs().max()) for k in whole) < 1e-6
    assert failures == {1: [12, 6, 3, 2], 2: [12, 6, 3], 4: [12, 6], 11: [12]}[room]
    rows = [index for indices, _ in seen.steps[0] for index in indices]
    assert len(rows) == len(set(rows)) == 12
    assert max(len(rows) for rows, _ in seen.steps[3]) <= room
    assert "out of memory; micro-batches of" in capsys.readouterr().out


def test_out_of_memory_in_a_later_micro_batch_restarts_the_step(
    plain_bert: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients that earlier micro-batches of the step have accumulated must be gone."""
    keys = {"method": "full", "optim": "sgd", "train.micro_batch": 4, "train.epochs": 1}
    with gradients() as whole:
        live(load(tmp_path / "whole", plain_bert, news_csv, keys), stop=Stop(4, "finish"))
    original, calls = Tensor.backward, [0]

    def backward(self: Tensor, *others: Any, **options: Any) -> None:
        calls[0] += 1
        original(self, *others, **options)
        if calls[0] == 5:  # the second micro-batch of the second step
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Tensor, "backward", backward)
    with gradients() as cut:
        live(load(tmp_path / "cut", plain_bert, news_csv, keys), stop=Stop(4, "finish"))
    assert cut.keys() == whole.keys()
    assert max(float((cut[k] - whole[k]).abs().max()) for k in whole) < 1e-6


def test_out_of_memory_with_a_single_row_is_raised(
    plain_bert: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TextModel.forward

    def forward(self: TextModel, batch: Batch) -> Tensor:
        if self.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, batch)

    monkeypatch.setattr(TextModel, "forward", forward)
    with pytest.raises(torch.OutOfMemoryError):
        live(load(tmp_path, plain_bert, news_csv, {"method": "full"}))


def test_out_of_memory_handling_ignores_other_runtime_errors(
    plain_bert: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(*_: Any) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(TextClassification, "loss", loss)
    keys = {"method": "full", "data.validation": 0}
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        live(load(tmp_path, plain_bert, news_csv, keys))


# ---- non-finite gradients


def spoil_gradient(loss: Tensor) -> Tensor:
    return loss * math.nan


def add_nan(loss: Tensor) -> Tensor:
    return loss + math.nan  # with a finite gradient


def add_infinity(loss: Tensor) -> Tensor:
    return loss + math.inf


def infinite_gradient(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()  # its slope at 0 is infinite


@pytest.mark.parametrize("spoil", [spoil_gradient, add_nan, add_infinity, infinite_gradient])
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_non_finite_gradient_never_reaches_the_weights(
    spoil: Any,
    optimizer: str,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = {
        "method": "full",
        "optim": optimizer,
        "data.validation": 0,
        "train.save_every": 1,
        "train.micro_batch": 12,
        "train.batching": "length",  # one loss a step, since random batches are divided
    }
    original, calls = TextClassification.loss, [0]

    def loss(self: TextClassification, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        calls[0] += 1
        terms = original(self, outputs, batch)
        return {"loss": spoil(terms["loss"])} if calls[0] == 3 else terms

    monkeypatch.setattr(TextClassification, "loss", loss)
    loaded = load(tmp_path, bert_folder, news_csv, keys)
    with (
        watched() as network,
        pytest.raises(FinetuneError, match="step 2: the gradient is not fin"),
    ):
        live(loaded)
    saved = read_checkpoint(tmp_path / "checkpoints" / "step-000002").tensors("model")
    assert all(torch.equal(network.after[name], tensor) for name, tensor in saved.items())
    assert not (tmp_path / "checkpoints" / "step-000003").exists()


# ---- signals


def test_signal_during_the_last_step_stops_before_export(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    loaded = load(tmp_path, bert_folder, news_csv, {"method": "frozen"})
    assert live(loaded, stop=Stop(8)) is None
    assert not (tmp_path / "final").exists()
    seen = Seen()
    assert live(loaded, seen=seen) is not None
    assert seen.steps == {}


def test_signals_raise_on_a_second_interrupt() -> None:
    before = signal.getsignal(signal.SIGINT)  # a background process may start without a handler
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


def start(folder: Path, model: Path, data: Path, *more: str) -> subprocess.Popen[str]:
    """Start the real train command for 60 steps."""
    keys = {
        "task": "text-classification",
        "data.source": data,
        "data.validation": 0.2,
        "model": model,
        "method": "full",
        "train.batch_size": 12,
        "train.micro_batch": 5,
        "train.epochs": 15,
        "train.log_every": 3,
        "train.precision": "fp32",
        "output.dir": folder,
    }
    arguments = [f"{key}={value}" for key, value in keys.items()]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "finetune", "train", *arguments, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_step(process: subprocess.Popen[str], step: int, total: int = 60) -> None:
    """Wait until the evaluation at this step, the last of an epoch, is printed."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"step {step}/{total}  validation"):
            return
    raise AssertionError("".join(lines))


def test_killed_train_command_resumes_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "often"
    process = start(folder, bert_folder, news_csv)
    wait_for_step(process, 8)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "SIGTERM" in output
    assert "Traceback" not in output
    process = start(folder, bert_folder, news_csv)
    wait_for_step(process, 28)
    process.kill()
    process.wait(timeout=60)
    keys = {"method": "full", "train.epochs": 15, "train.keep_checkpoints": 2}
    resumed = live(load(folder, bert_folder, news_csv, keys))
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    assert resumed is not None
    assert unstopped is not None
    assert left_behind(resumed) == left_behind(unstopped)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_process_group_leaves_workers_to_their_parent(
    number: int, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    process = start(tmp_path / "run", bert_folder, news_csv, "train.workers=2")
    wait_for_step(process, 8)
    os.killpg(process.pid, number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert "Traceback" not in output
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
