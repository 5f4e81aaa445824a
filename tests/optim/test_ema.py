"""Averaged weights are what is evaluated and saved, and L1 on the head counts once a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from finetune.errors import CheckpointError, ConfigError, ModelError
from finetune.io.checkpoint import newest_good, read_checkpoint
from finetune.optim.ema import Ema
from finetune.optim.optimizers import trained_parameters
from finetune.training import loop
from finetune.training import recorder as journal
from tests.support.lives import Stop, left_behind, live, load
from tests.support.tiny_models import tiny_bert


def test_ema_follows_its_decay_and_gives_the_weights_back() -> None:
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
    with pytest.raises(CheckpointError, match=r"here: averages other weights.*--fresh"):
        ema.load({"v": torch.zeros(3)}, "here")


KEYS: dict[str, Any] = {"method": "full", "optim.ema": 0.9, "train.best": "last"}


def test_averages_are_evaluated_and_saved_and_training_goes_on_from_the_weights(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    usual = journal.evaluate_split

    def noting(model: Any, *others: Any, **facts: Any) -> Any:
        held = model.network.classifier.weight
        measured.append(held.detach().clone())
        return usual(model, *others, **facts)

    monkeypatch.setattr(journal, "evaluate_split", noting)
    folder = live(load(tmp_path / "run", bert_folder, news_csv, KEYS))
    plain = live(load(tmp_path / "plain", bert_folder, news_csv, KEYS | {"optim.ema": None}))
    assert folder is not None
    assert plain is not None
    last, without = (newest_good(each.checkpoints)[0] for each in (folder, plain))
    assert last is not None
    assert without is not None
    weights, averages = last.tensors("model"), last.tensors("ema")
    for name, tensor in without.tensors("model").items():
        assert torch.equal(weights[name], tensor), name  # training itself is what it was
    final = load_file(folder.final / "model.safetensors")
    for name, average in averages.items():
        assert torch.equal(final[name], average), name
    assert not torch.equal(averages["classifier.weight"], weights["classifier.weight"])
    assert torch.equal(measured[-1], without.tensors("model")["classifier.weight"])  # of the other
    first = read_checkpoint(folder.checkpoints / "step-000004").tensors("ema")
    assert torch.equal(measured[1], first["classifier.weight"])


@pytest.mark.parametrize(
    "method",
    [
        {"method": "full"},
        {"method": "lora", "method.init": "pissa", "method.dora": True},
    ],
)
def test_stopped_run_with_averages_ends_with_the_bits_of_an_unstopped_one(
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
    once = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    for stop in (Stop(1), Stop(3, "tick"), Stop(4, "evaluate"), Stop(7), Stop(8, "finish")):
        assert live(loaded, stop=stop) is None, stop
    often = live(loaded)
    assert once is not None
    assert often is not None
    assert left_behind(often) == left_behind(once)
    ends = [newest_good(folder.checkpoints)[0] for folder in (once, often)]
    first, second = (end.tensors("ema") for end in ends if end is not None)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_l1_counts_once_a_step_however_a_batch_is_cut(
    news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_bert(tmp_path / "bert", dropout=0, spread=0.1)
    usual, found = loop.set_rate, dict[str, list[torch.Tensor]]()
    keys = {"method": "full", "optim.max_grad_norm": 0, "train.max_steps": 1}
    for name, strength, micro in (("plain", 0.0, 12), ("whole", 0.5, 12), ("micro", 0.5, 3)):

        def noting(optimizer: Any, factor: float, name: str = name) -> None:
            named = dict(trained_parameters(optimizer))
            head = [named["classifier.weight"], named["classifier.bias"]]
            found[name] = [head[0].detach().clone(), *(p.grad.clone() for p in head)]
            usual(optimizer, factor)

        monkeypatch.setattr(loop, "set_rate", noting)
        own = {"optim.l1_head": strength, "train.micro_batch": micro}
        live(load(tmp_path / name, model, news_csv, keys | own), stop=Stop(1, "finish"))
    weight, gradient, bias = found["plain"]
    for name in ("whole", "micro"):
        torch.testing.assert_close(
            found[name][1], gradient + 0.5 * weight.sign(), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(found[name][2], bias, atol=1e-6, rtol=0)


def test_keys_without_a_meaning_are_refused(
    bert_folder: Path, gpt2_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    exact = {"method": "frozen", "method.solver": "exact", "optim.ema": 0.9}
    with pytest.raises(ConfigError, match=r"optim.ema=0.9: method.solver=exact takes no steps"):
        live(load(tmp_path / "exact", bert_folder, news_csv, exact))
    templates = {"prompt": "{text}", "completion": " {label}"}
    task = {"task": {"name": "text-generation", **templates}, "optim.l1_head": 0.1}
    with pytest.raises(ModelError, match=r"optim.l1_head: this network has no new head"):
        live(load(tmp_path / "writing", gpt2_folder, news_csv, task))
