"""Run folders: the check that a command may resume a run, and reading and writing of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.config.schema import ModelConfig, RunConfig, TaskConfig, TrainConfig
from finetune.errors import CheckpointError, ConfigError, DataError
from finetune.io.checkpoint import save_checkpoint
from finetune.io.run_folder import RunFolder, check_free, check_same_run
from finetune.methods.method_configs import LoraConfig

DIGESTS = {"train": "a", "validation": "b"}


def config(**keys: Any) -> RunConfig:
    train = TrainConfig(**{"epochs": 2, **keys.pop("train", {})})
    method = LoraConfig(**keys.pop("method", {}))
    model = ModelConfig(name=keys.pop("model", "bert"))
    return RunConfig(task=TaskConfig(name="toy"), model=model, method=method, train=train, **keys)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    filled = config(train={"precision": "bf16"})
    folder.write_config(filled)
    return folder


def test_check_same_run_resumes_with_the_filled_in_config(folder: RunFolder) -> None:
    resumed = check_same_run(folder, config(), DIGESTS, extend=False)
    assert resumed == config(train={"precision": "bf16"})


def test_check_same_run_accepts_a_filled_in_value(folder: RunFolder) -> None:
    assert check_same_run(folder, config(train={"precision": "bf16"}), DIGESTS, extend=False)


def test_check_same_run_reports_changed_keys_with_both_values(folder: RunFolder) -> None:
    changed = config(model="gpt2", method={"rank": 32}, train={"seed": 7})
    with pytest.raises(CheckpointError) as caught:
        check_same_run(folder, changed, DIGESTS, extend=False)
    text = str(caught.value)
    for key, old, new in [
        ("model.name", "bert", "gpt2"),
        ("method.rank", "8", "32"),
        ("train.seed", "0", "7"),
    ]:
        assert f"{key}: {old} in the run, {new} now" in text
    assert "output.dir=" in text
    assert "--fresh" in text
    assert "--extend" not in text


def test_check_same_run_takes_new_values_of_free_keys(folder: RunFolder) -> None:
    train = {"workers": 3, "log_every": 1, "save_every": 7, "keep_checkpoints": 9, "micro_batch": 2}
    resumed = check_same_run(folder, config(train=train), DIGESTS, extend=False)
    assert resumed is not None
    assert resumed.train == TrainConfig(epochs=2, precision="bf16", **train)


def test_check_same_run_needs_extend_for_longer_training(folder: RunFolder) -> None:
    longer = config(train={"epochs": 5})
    with pytest.raises(CheckpointError, match=r"epochs: 2.0 in the run, 5.0 now\n.*--extend"):
        check_same_run(folder, longer, DIGESTS, extend=False)
    resumed = check_same_run(folder, longer, DIGESTS, extend=True)
    assert resumed is not None
    assert resumed.train.epochs == 5


def test_check_same_run_with_extend_rejects_other_changes(folder: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="seed"):
        check_same_run(folder, config(train={"epochs": 5, "seed": 1}), DIGESTS, extend=True)


def test_check_same_run_rejects_changed_data(folder: RunFolder) -> None:
    with pytest.raises(DataError, match=r"rows of train have changed.*--fresh"):
        check_same_run(folder, config(), {**DIGESTS, "train": "c"}, extend=False)
    with pytest.raises(DataError, match="rows of validation"):
        check_same_run(folder, config(), {"train": "a"}, extend=False)


def test_check_same_run_returns_none_for_a_run_without_a_config(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    assert check_same_run(folder, config(train={"seed": 9}), {}, extend=False) is None


def test_check_same_run_reports_a_damaged_run_json(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text('{"given": ')
    with pytest.raises(CheckpointError, match=r"run.json.*--fresh"):
        check_same_run(folder, config(), DIGESTS, extend=False)


def test_check_free_rejects_files_and_other_folders(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output.dir.*not empty and not a run"):
        check_free(RunFolder(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"is a file"):
        check_free(RunFolder(file))
    (tmp_path / "empty").mkdir()
    check_free(RunFolder(tmp_path / "empty"))
    check_free(RunFolder(tmp_path / "new"))


def test_check_free_accepts_a_run_folder(folder: RunFolder) -> None:
    check_free(folder)


def test_clear_keeps_foreign_files(folder: RunFolder, tmp_path: Path) -> None:
    save_checkpoint(folder.checkpoints, 1, {"model": {}, "optimizer": {}}, {})
    folder.append({"step": 1})
    foreign = [folder.path / "notes.txt", folder.path / "data" / "rows.csv"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    folder.clear()
    assert sorted(path for path in folder.path.rglob("*") if path.is_file()) == sorted(foreign)
    other = tmp_path / "other"
    (other / "checkpoints").mkdir(parents=True)
    (other / "checkpoints" / "model.pt").write_text("theirs")
    RunFolder(other).clear()
    assert (other / "checkpoints" / "model.pt").is_file()


def test_history_ignores_a_truncated_last_line(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append({"step": step, "loss": 0.1 * step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    folder.cut_history(2)
    folder.append({"step": 3})
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    assert folder.history()[1]["loss"] == 0.2


def test_begin_reports_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"output.dir: cannot write to .*file/run"):
        RunFolder(file / "run").begin(config(), DIGESTS, {})


def test_append_reports_a_full_disk(small_disk: Path) -> None:
    folder = RunFolder(small_disk)
    (small_disk / "full").write_bytes(b"x" * 2**20)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl.*Free some space"):
        folder.append({"step": 1, "text": "x" * 10_000})
