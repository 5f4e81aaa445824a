"""Moving average of the weights (optim.ema) and L1 penalty of the head (optim.l1_head)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finetune.errors import CheckpointError, ConfigError, ModelError
from finetune.io.checkpoint import find_latest_checkpoint, read_checkpoint
from finetune.optim.ema import Ema
from finetune.optim.optimizers import trained_parameters
from finetune.training import loop, recorder
from tests.support.lives import Stop, left_behind, live, load
from tests.support.tiny_models import tiny_bert


def test_ema_averages_with_its_decay_and_restores_the_weights() -> None:
    weight = nn.Parameter(torch.zeros(3))
    ema = Ema([("w", weight)], decay=0.5)
    expected = 0.0
    for step in range(1, 30):
        with torch.no_grad():
            weight.fill_(float(step))
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with ema.in_place():
        torch.testing.assert_close(weight.detach(), torch.full((3,), expected))
    assert torch.equal(weight.detach(), torch.full((3,), 29.0))
    with pytest.raises(CheckpointError, match=r"here: its averages .* other weights.*--fresh"):
        ema.load({"v": torch.zeros(3)}, "here")


KEYS: dict[str, Any] = {"method": "full", "optim.ema": 0.9, "train.best": "last"}


def test_ema_is_evaluated_and_saved_while_training_continues_from_the_weights(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = []
    original = recorder.evaluate_split

    def recording(model: Any, *others: Any, **options: Any) -> Any:
        weight = model.network.classifier.weight
        evaluated.append(weight.detach().clone())
        return original(model, *others, **options)

    monkeypatch.setattr(recorder, "evaluate_split", recording)
    folder = live(load(tmp_path / "run", bert_folder, news_csv, KEYS))
    plain = live(load(tmp_path / "plain", bert_folder, news_csv, KEYS | {"optim.ema": None}))
    assert folder is not None
    assert plain is not None
    last, without = (find_latest_checkpoint(each.checkpoints)[0] for each in (folder, plain))
    assert last is not None
    assert without is not None
    weights, averages = last.tensors("model"), last.tensors("ema")
    for name, tensor in without.tensors("model").items():
        assert torch.equal(weights[name], tensor), name  # training itself is unchanged
    final = load_file(folder.final / "model.safetensors")
    for name, average in averages.items():
        assert torch.equal(final[name], average), name
    assert not torch.equal(averages["classifier.weight"], weights["classifier.weight"])
    # evaluated[-1] is the end of the run without averages, evaluated[1] the first epoch with them.
    assert torch.equal(evaluated[-1], without.tensors("model")["classifier.weight"])
    first = read_checkpoint(folder.checkpoints / "step-000004").tensors("ema")
    assert torch.equal(evaluated[1], first["classifier.weight"])


@pytest.mark.parametrize(
    "method",
    [
        {"method": "full"},
        {"method": "lora", "method.init": "pissa", "method.dora": True},
    ],
)
def test_ema_run_resumes_bit_for_bit(
    method: dict[str, Any], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {
        **method,
        "optim.ema": 0.9,
        "optim.l1_head": 0.01,
        "train.sampling": "balanced",
        "task.logit_adjustment": 1.0,
        "model.dropout": 0.2,
    }
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    for stop in (Stop(1), Stop(3, "tick"), Stop(4, "evaluate"), Stop(7), Stop(8, "finish")):
        assert live(loaded, stop=stop) is None, stop
    resumed = live(loaded)
    assert unstopped is not None
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)
    ends = [find_latest_checkpoint(folder.checkpoints)[0] for folder in (unstopped, resumed)]
    first, second = (end.tensors("ema") for end in ends if end is not None)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_l1_head_is_added_once_per_step_for_any_micro_batch(
    news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bert(tmp_path / "bert", dropout=0, spread=0.1)
    original, tensors = loop.set_rate, dict[str, list[torch.Tensor]]()
    keys = {"method": "full", "optim.max_grad_norm": 0, "train.max_steps": 1}
    for name, strength, micro in (("plain", 0.0, 12), ("whole", 0.5, 12), ("micro", 0.5, 3)):

        def recording(optimizer: Any, factor: float, name: str = name) -> None:
            named = dict(trained_parameters(optimizer))
            head = [named["classifier.weight"], named["classifier.bias"]]
            tensors[name] = [head[0].detach().clone(), *(p.grad.clone() for p in head)]
            original(optimizer, factor)

        monkeypatch.setattr(loop, "set_rate", recording)
        case = {"optim.l1_head": strength, "train.micro_batch": micro}
        live(load(tmp_path / name, model, news_csv, keys | case), stop=Stop(1, "finish"))
    weight, gradient, bias = tensors["plain"]
    for name in ("whole", "micro"):
        torch.testing.assert_close(
            tensors[name][1], gradient + 0.5 * weight.sign(), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(tensors[name][2], bias, atol=1e-6, rtol=0)


def test_ema_and_l1_head_are_rejected_where_they_have_no_effect(
    bert_folder: Path, gpt2_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    exact = {"method": "frozen", "method.solver": "exact", "optim.ema": 0.9}
    with pytest.raises(ConfigError, match=r"optim.ema=0.9: no effect with method.solver=exact"):
        live(load(tmp_path / "exact", bert_folder, news_csv, exact))
    templates = {"prompt": "{text}", "completion": " {label}"}
    task = {"task": {"name": "text-generation", **templates}, "optim.l1_head": 0.1}
    with pytest.raises(ModelError, match=r"optim.l1_head: this network has no new head"):
        live(load(tmp_path / "writing", gpt2_folder, news_csv, task))
