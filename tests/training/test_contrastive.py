"""Contrastive tuning: its loss, its batches, and whole runs with it."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.errors import ConfigError, ModelError
from finetune.io.checkpoint import find_latest_checkpoint
from finetune.io.run_folder import RunFolder
from finetune.training import contrastive, run
from finetune.training.contrastive import contrastive_loss, draw_rows
from tests.support.lives import Killed, Stop, digest, left_behind, live, load, watched
from tests.support.tiny_models import several_csv, text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm

TUNED = {"method": "frozen", "method.contrastive": 4, "optim.lr": 1e-3, "task.pooling": "mean"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "own-cache"))


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every contrastive step."""
    steps: list[int] = []
    original = contrastive.contrastive_loss

    def counting(*arguments: Any) -> torch.Tensor:
        steps.append(len(steps))
        return original(*arguments)

    monkeypatch.setattr(contrastive, "contrastive_loss", counting)
    return steps


# ---- loss and batches


def test_contrastive_loss_equals_the_formula_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(7, 5, generator=generator)
    classes, temperature = torch.tensor([0, 0, 1, 2, 1, 0, 2]), 0.3
    units = [vector / vector.norm() for vector in vectors]
    total = 0.0
    for anchor in range(7):
        others = [place for place in range(7) if place != anchor]
        norm = sum(math.exp(float(units[anchor] @ units[a]) / temperature) for a in others)
        positives = [place for place in others if classes[place] == classes[anchor]]
        shares = [math.exp(float(units[anchor] @ units[p]) / temperature) / norm for p in positives]
        total -= sum(map(math.log, shares)) / len(positives)
    assert float(contrastive_loss(vectors, classes, temperature)) == pytest.approx(total / 7)


def test_contrastive_loss_only_pushes_a_row_alone_in_its_class() -> None:
    vectors = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = contrastive_loss(vectors, torch.tensor([0, 1, 0]), 0.1)
    loss.backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()
    assert vectors.grad[1].any()
    without_pairs = contrastive_loss(vectors, torch.tensor([0, 1, 2]), 0.1)
    assert float(without_pairs.detach()) == 0


def test_draw_rows_takes_equally_many_of_each_class() -> None:
    members = [np.arange(0, 30), np.arange(30, 34), np.array([34])]
    drawn = [draw_rows(members, 12, seed=3, step=step) for step in range(80)]
    for rows in drawn:
        assert Counter(np.digitize(rows, [30, 34]).tolist()) == {0: 4, 1: 4, 2: 4}
        assert len(set(rows[rows < 34].tolist())) == 8  # no repetition in large classes
        assert (rows == 34).sum() == 4
    assert set(np.concatenate(drawn).tolist()) == set(range(35))
    assert np.array_equal(drawn[5], draw_rows(members, 12, seed=3, step=5))
    assert not np.array_equal(drawn[5], draw_rows(members, 12, seed=4, step=5))


def test_draw_rows_takes_two_rows_of_each_drawn_class() -> None:
    members = np.split(np.arange(300), 100)
    counts = Counter((draw_rows(members, 9, seed=0, step=0) // 3).tolist())
    assert sorted(counts.values()) == [2, 2, 2, 3]


# ---- runs


def test_contrastive_run_caches_saves_and_reloads_the_tuned_backbone(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    plain = {**TUNED, "method.contrastive": 0}
    assert live(load(tmp_path / "plain", bert_folder, news_csv, plain)) is not None
    before = {path.name for path in (tmp_path / "own-cache" / "features").iterdir()}
    with watched() as network:
        folder = live(load(tmp_path / "run", bert_folder, news_csv, TUNED))
    assert folder is not None
    features = {path.name for path in (tmp_path / "own-cache" / "features").iterdir()} - before
    assert len(features) == 2, "the run used cached features of the pretrained backbone"
    assert network.trained == {"head.weight", "head.bias"}
    assert network.changed <= network.trained  # frozen again after the phase

    final = load_file(folder.final / "model.safetensors")
    pretrained = load_file(tmp_path / "plain" / "final" / "model.safetensors")
    checkpoint = find_latest_checkpoint(folder.contrastive)[0]
    assert checkpoint is not None
    tuned = checkpoint.tensors("model")
    assert final.keys() == pretrained.keys()
    for name, tensor in final.items():
        assert torch.equal(tensor, tuned[f"backbone.{name}"])
    moved = [name for name, tensor in final.items() if not torch.equal(tensor, pretrained[name])]
    assert "encoder.layer.0.attention.self.query.weight" in moved
    assert folder.read("results.json")["reload_difference"] < 1e-6

    texts = [row["text"] for row in text_rows(6)]
    assert len(finetune.load(folder.path)(texts)) == 6
    card = (folder.final / "README.md").read_text()
    assert "contrastive tuning: 4 steps of 12 rows" in card
    assert "| method.contrastive | 4 |" in card


def test_contrastive_tuning_lowers_its_loss(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[list[float]] = []
    original = contrastive._train
    monkeypatch.setattr(
        contrastive, "_train", lambda *arguments: losses.append(original(*arguments)) or losses[-1]
    )
    keys = {**TUNED, "method.contrastive": 30, "train.batch_size": 18}
    assert live(load(tmp_path / "run", bert_folder, news_csv, keys)) is not None
    assert np.mean(losses[0][-5:]) < np.mean(losses[0][:5]) - 0.2


@pytest.mark.parametrize("solver", ["loop", "exact"])
def test_contrastive_run_resumes_bit_for_bit(
    solver: str, steps: list[int], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**TUNED, "method.solver": solver}
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    assert unstopped is not None
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    _kill_in_phase(loaded, steps)
    steps.clear()
    assert live(loaded, stop=Stop(1, "save" if solver == "exact" else "tick")) is None
    assert len(steps) == 4, "killed during the phase, a run repeats it"
    steps.clear()
    assert live(loaded, stop=Stop(8, "finish")) is None
    resumed = live(loaded)
    assert steps == [], "killed after the phase, a run does not repeat it"
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)
    assert _tuned(resumed) == _tuned(unstopped)


def _kill_in_phase(loaded: Any, steps: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        original = contrastive.set_rate

        def killing(*arguments: Any) -> None:
            original(*arguments)
            if len(steps) % 4 == 2:
                raise Killed

        patch.setattr(contrastive, "set_rate", killing)
        steps.clear()
        assert live(loaded) is None
    assert len(steps) == 2


def _tuned(folder: RunFolder) -> dict[str, str]:
    checkpoint = find_latest_checkpoint(folder.contrastive)[0]
    assert checkpoint is not None
    return {name: digest(tensor) for name, tensor in checkpoint.tensors("model").items()}


def test_fresh_contrastive_run_tunes_again(
    steps: list[int], bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    first = live(load(tmp_path / "run", bert_folder, news_csv, TUNED))
    assert first is not None
    before = _tuned(first)
    steps.clear()
    again = live(load(first.path, bert_folder, news_csv, {**TUNED, "train.seed": 1}), fresh=True)
    assert again is not None
    assert len(steps) == 4
    assert _tuned(again) != before
    plain = {**TUNED, "method.contrastive": 0}
    assert live(load(first.path, bert_folder, news_csv, plain), fresh=True) is not None
    assert not first.contrastive.exists()


def test_contrastive_tuning_of_images_keeps_batch_norm_statistics(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "task": {"name": "image-classification", "augmentation": "light"},
        "method": "frozen",
        "method.contrastive": 2,
        "data.per_class": 4,
    }
    model, data = tiny_timm(tmp_path / "resnet"), shape_folder(tmp_path / "shapes", 30)
    folder = live(load(tmp_path / "run", model, data, keys))
    assert folder is not None
    checkpoint = find_latest_checkpoint(folder.contrastive)[0]
    assert checkpoint is not None
    tuned, pretrained = checkpoint.tensors("model"), load_file(model / "model.safetensors")
    statistics = [name for name in tuned if name.endswith("running_mean")]
    assert statistics
    assert all(torch.equal(tuned[name], pretrained[name]) for name in statistics)
    assert any(not torch.equal(tensor, pretrained[name]) for name, tensor in tuned.items())


# ---- rejected configs, defaults


REJECTED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "several labels": ({"task.kind": "several"}, ConfigError, "only for rows with exactly one"),
    "a small batch": ({"train.batch_size": 3}, ConfigError, "train.batch_size=3 is too small"),
    "a head on many vectors": ({"task.pooling": None, "task.head": "native"}, ModelError, "pooled"),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_contrastive_tuning_rejects_data_and_heads_without_pairs(
    reason: str, gpt2_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys, error, words = REJECTED[reason]
    is_several = "task.kind" in keys
    data = several_csv(tmp_path / "several.csv") if is_several else news_csv
    with pytest.raises(error, match=words):
        live(load(tmp_path / "run", gpt2_folder, data, {**TUNED, **keys}))
    assert not (tmp_path / "run").exists()


def test_contrastive_tuning_rejects_rows_of_a_single_class(
    bert_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "one.csv"
    data.write_text("text,label\n" + "".join(f"{row['text']},a\n" for row in text_rows(20)))
    keys = {**TUNED, "task.labels": ["a", "b"]}
    with pytest.raises(ConfigError, match="all rows belong to one class"):
        live(load(tmp_path / "run", bert_folder, data, keys))


def test_contrastive_tuning_out_of_memory_names_the_batch_size(
    bert_folder: Path, news_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(contrastive, "contrastive_loss", full)
    with pytest.raises(ModelError, match=r"lower train\.batch_size \(now 12\)"):
        live(load(tmp_path / "run", bert_folder, news_csv, TUNED))


@pytest.mark.parametrize("rate", [None, 3e-4])
def test_contrastive_tuning_uses_the_rate_of_the_backbone(
    rate: float | None,
    bert_folder: Path,
    news_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(live: Any, *_: Any) -> str:
        configs.append(live.config.optim)
        raise Killed

    configs: list[Any] = []
    monkeypatch.setattr(run, "tune_backbone", stop)
    keys = {**TUNED, "optim.lr": rate, "model.dropout": 0.2}
    assert live(load(tmp_path / "run", bert_folder, news_csv, keys)) is None
    assert configs[0].lr == pytest.approx(rate or 1e-4)  # the default of method=full at this size
    assert configs[0].head_lr == 1e-2  # independent of optim.lr
