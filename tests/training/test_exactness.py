"""Exact resumption: a run that is stopped and resumed ends with the bits of one that is not.

The tolerance is 0, on the CPU.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.errors import ConfigError
from finetune.io.checkpoint import find_latest_checkpoint
from finetune.io.run_folder import RunFolder
from tests.support.lives import LIVES, METHODS, Seen, Stop, left_behind, live, load, watched
from tests.support.toy import Letters

WRITING: dict[str, Any] = {
    "method": "lora",
    "task": {
        "name": "text-generation",
        "prompt": "{text}\nTopic:",
        "completion": " {label}",
        "max_length": 128,
    },
}


def in_default_run(method: str, workers: int, precision: str) -> bool:
    """True if the default test run includes this combination."""
    return (workers, precision) == (0, "fp32") or (method, workers, precision) == (
        "lora",
        2,
        "bf16",
    )


@pytest.mark.parametrize(
    ("method", "workers", "precision"),
    [
        pytest.param(*case, marks=() if in_default_run(*case) else pytest.mark.slow)
        for case in product(METHODS, (0, 2), ("fp32", "bf16"))
    ],
)
def test_resume_is_bit_for_bit(
    method: str, workers: int, precision: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**METHODS[method], "train.workers": workers, "train.precision": precision}
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys), seen=once)
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    for stop in LIVES:
        assert live(loaded, seen=often, stop=stop) is None, stop
    resumed = live(loaded, seen=often)

    assert unstopped is not None
    assert resumed is not None
    assert len(once.steps) == 8
    assert often.steps == once.steps
    assert left_behind(resumed) == left_behind(unstopped)


def test_resume_on_packed_rows_is_bit_for_bit(
    gpt2_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = WRITING
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", gpt2_folder, news_csv, keys), seen=once)
    loaded = load(tmp_path / "often", gpt2_folder, news_csv, keys)
    for stop in (Stop(1), Stop(3, "tick"), Stop(4, "save"), Stop(6, "log")):
        assert live(loaded, seen=often, stop=stop) is None, stop
    resumed = live(loaded, seen=often)
    assert unstopped is not None
    assert resumed is not None
    assert often.steps == once.steps
    assert left_behind(resumed) == left_behind(unstopped)


def test_resume_under_group_dro_is_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {
        "method": "full",
        "train.group_by": "label",
        "train.group_dro": 0.5,
        "train.best": "worst_group_accuracy",
        "data.validation": 0.6,
    }
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys), seen=once)
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    for stop in (Stop(1), Stop(2, "tick"), Stop(2, "save"), Stop(3)):
        assert live(loaded, seen=often, stop=stop) is None, stop
    resumed = live(loaded, seen=often)
    assert unstopped is not None
    assert resumed is not None
    assert often.steps == once.steps
    assert left_behind(resumed) == left_behind(unstopped)
    checkpoint, _ = find_latest_checkpoint(resumed.checkpoints)
    assert checkpoint is not None
    weights = checkpoint.state["progress"]["group_weights"]
    assert sum(weights) == pytest.approx(1)
    assert len({round(weight, 6) for weight in weights}) == 3
    assert {"worst_group_accuracy"} <= resumed.read("results.json")["metrics"]["validation"].keys()


def test_dropout_by_sample_is_refused_for_packed_rows(
    gpt2_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**WRITING, "train.dropout": "by-sample", "train.epochs": 1}
    with pytest.raises(ConfigError, match=r"train.dropout=by-sample: .*add task.packing=false"):
        live(load(tmp_path / "packed", gpt2_folder, news_csv, keys))
    keys["task"] = {**WRITING["task"], "packing": False}
    assert live(load(tmp_path / "padded", gpt2_folder, news_csv, keys)) is not None
    assert live(load(tmp_path / "default", gpt2_folder, news_csv, WRITING), stop=Stop(1)) is None
    assert RunFolder(tmp_path / "default").read_config()["train"]["dropout"] == "by-batch"


def test_resume_of_an_eva_run_is_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """Every start recomputes the directions of its adapters, and so their ranks."""
    keys = {"method": "lora", "method.init": "eva", "train.epochs": 1}
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys))
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    assert live(loaded, stop=Stop(2)) is None
    resumed = live(loaded)
    assert unstopped is not None
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)
    ranks = {
        len(t) for n, t in checkpointed(resumed).items() if n.endswith("lora_A.default.weight")
    }
    assert len(ranks) > 1


def checkpointed(folder: RunFolder) -> dict[str, torch.Tensor]:
    """Return the network's tensors in the newest checkpoint."""
    checkpoint, _ = find_latest_checkpoint(folder.checkpoints)
    assert checkpoint is not None
    return checkpoint.tensors("model")


def test_seed_determines_every_bit_of_a_run(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    ends = []
    for name, seed in (("first", 3), ("second", 3), ("third", 4)):
        keys = {**METHODS["lora"], "train.seed": seed}
        folder = live(load(tmp_path / name, bert_folder, news_csv, keys))
        assert folder is not None
        ends.append(left_behind(folder))
    assert ends[0] == ends[1]
    for part in ("final", "model", "optimizer", "history"):
        assert ends[0][part] != ends[2][part]


@pytest.mark.parametrize("method", METHODS)
def test_training_leaves_frozen_tensors_bitwise_unchanged(
    method: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    with watched() as network:
        live(load(tmp_path, bert_folder, news_csv, METHODS[method]), stop=Stop(8, "finish"))
    assert network.changed <= network.trained
    unchanged = network.trained - network.changed
    # The key's bias shifts all scores of a softmax alike: its gradient is 0.
    assert all(name.endswith("key.bias") for name in unchanged), unchanged


@pytest.mark.parametrize("method", METHODS)
def test_batch_norm_statistics_move_only_in_trained_blocks(
    method: str, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**METHODS[method], "optim.lr": 0.1, "optim.warmup_steps": 0}
    keys |= {"method.blocks": 1, "method.unfreeze_every": None} if method == "partial" else {}
    keys |= {"method.rank": 2} if method == "lora" else {}  # layers have only 4 to 12 inputs
    loaded = load(tmp_path, "none", news_csv, keys, Letters)
    with watched() as network:
        live(loaded, kind=Letters, stop=Stop(8, "finish"))
    statistics = {name for name in network.before if "running" in name or "tracked" in name}
    assert len(statistics) == 6
    moving = {"full": ("first", "second"), "partial": ("second",)}.get(method, ())
    expected = {name for name in statistics if name.startswith(moving or ("-",))}
    assert network.changed & statistics == expected
    assert network.changed - statistics <= network.trained
    assert network.changed - statistics


def test_resume_continues_batch_norm_statistics(news_csv: Path, tmp_path: Path) -> None:
    keys = {**METHODS["full"], "train.micro_batch": 12}
    unstopped = live(load(tmp_path / "once", "none", news_csv, keys, Letters), kind=Letters)
    loaded = load(tmp_path / "often", "none", news_csv, keys, Letters)
    for stop in (Stop(1), Stop(6, "log"), Stop(7)):
        live(loaded, kind=Letters, stop=stop)
    resumed = live(loaded, kind=Letters)
    assert unstopped is not None
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)


def test_finished_run_is_not_trained_again(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    loaded = load(tmp_path, bert_folder, news_csv, METHODS["frozen-cached"])
    folder = live(loaded)
    assert folder is not None
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    again = Seen()
    live(loaded, seen=again)
    assert again.steps == {}
    assert {p: p.stat().st_mtime_ns for p in folder.path.rglob("*") if p.is_file()} == before


def test_extended_run_resumes_from_its_last_checkpoint(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = METHODS["frozen-cached"]
    live(load(tmp_path, bert_folder, news_csv, keys))
    longer, more = load(tmp_path, bert_folder, news_csv, {**keys, "train.epochs": 3}), Seen()
    assert live(longer, seen=more, extend=True, stop=Stop(10, "tick")) is None
    assert sorted(more.steps) == [8, 9]
    # The results are those of the shorter run, so the extended one does not count as finished.
    folder = live(longer, seen=more)
    assert folder is not None
    assert sorted(more.steps) == [8, 9, 10, 11]
    before = {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()}
    with pytest.raises(ConfigError, match=r"at step 12 already, past the requested total of 4"):
        live(load(tmp_path, bert_folder, news_csv, {**keys, "train.epochs": 1}), extend=True)
    # Refused before anything of the finished run is written, so its results stay.
    assert {p: p.read_bytes() for p in folder.path.rglob("*") if p.is_file()} == before


def test_fresh_run_starts_over(bert_folder: Path, news_csv: Path, tmp_path: Path) -> None:
    loaded, seen = load(tmp_path, bert_folder, news_csv, METHODS["frozen-cached"]), Seen()
    first = live(loaded)
    assert first is not None
    end = left_behind(first)
    (tmp_path / "notes.txt").write_text("mine")
    second = live(loaded, seen=seen, fresh=True)
    assert second is not None
    assert len(seen.steps) == 8
    assert left_behind(second) == end
    assert (tmp_path / "notes.txt").is_file()


class Scattering(Letters):
    """Uses an operation without a deterministic kernel."""

    def loss(self, outputs: Any, batch: Any) -> Any:
        assert torch.are_deterministic_algorithms_enabled()
        place = torch.zeros(1, dtype=torch.long)
        torch.zeros(3).put_(place, torch.ones(1))
        return super().loss(outputs, batch)


def test_deterministic_names_an_operation_without_such_a_kernel(
    news_csv: Path, tmp_path: Path
) -> None:
    keys = {"method": "full", "train.deterministic": True}
    loaded = load(tmp_path / "run", "none", news_csv, keys, Letters)
    assert live(loaded, kind=Letters) is not None
    loaded = load(tmp_path / "other", "none", news_csv, keys, Letters)
    with pytest.raises(ConfigError, match=r"train.deterministic: put_ .*leave the key out"):
        live(loaded, kind=Scattering)
    assert not torch.are_deterministic_algorithms_enabled()
