"""A checkpoint is whole or not there, and a folder goes on only with the run that it holds."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig, RunConfig, TaskConfig, TrainConfig
from finetune.errors import CheckpointError, ConfigError, DataError
from finetune.io import checkpoint
from finetune.io.checkpoint import (
    load_changed,
    newest_good,
    read_checkpoint,
    remove_old,
    save_checkpoint,
)
from finetune.io.run_folder import RunFolder, check_free, check_same_run
from finetune.methods.lora import LoraConfig


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the engine catches it."""


def tensors_of(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"weight": torch.full((40, 5), float(step))},
        "optimizer": {"weight|exp_avg": torch.full((40, 5), step / 2)},
    }


def save(root: Path, step: int) -> Path:
    return save_checkpoint(root, step, tensors_of(step), {"progress": {"step": step}})


def assert_good(root: Path, step: int) -> None:
    found, _ = newest_good(root)
    assert found is not None
    assert found.step == step
    assert found.state["progress"] == {"step": step}
    for name, tensors in tensors_of(step).items():
        held = found.tensors(name)
        assert held.keys() == tensors.keys()
        assert all(torch.equal(held[key], tensors[key]) for key in tensors)


# ---- writing


def test_newest_good_is_read_back(tmp_path: Path) -> None:
    for step in (5, 20, 10):
        save(tmp_path, step)
    assert_good(tmp_path, 20)
    assert newest_good(tmp_path)[1] == []


def test_no_checkpoint_is_no_fault(tmp_path: Path) -> None:
    assert newest_good(tmp_path / "none") == (None, [])


# What a write is made of, so that it can be cut off between any two of its parts.
OPERATIONS = [(os, "fsync"), (os, "open"), (checkpoint, "save_file"), (checkpoint, "_sha256")]
OPERATIONS += [(Path, name) for name in ("mkdir", "write_text", "replace", "stat", "open")]


def fail_at(patch: pytest.MonkeyPatch, place: int, error: Callable[[], BaseException]) -> list[int]:
    """Let operation `place` of those that write raise, before or after it was done."""
    done = [0]

    def failing(usual: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **keys: Any) -> Any:
            done[0] += 1
            if done[0] == place and place % 2:
                raise error()
            result = usual(*arguments, **keys)
            if done[0] == place:
                raise error()
            return result

        return operation

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, failing(getattr(owner, name)))
    return done


def test_write_killed_anywhere_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    cut = 0
    for place in range(1, 200):
        root = tmp_path / str(place)
        save(root, 10)
        with pytest.MonkeyPatch.context() as patch:
            done = fail_at(patch, place, Killed)
            try:
                save(root, 20)
                survived = True
            except Killed:
                survived = False
        cut += not survived
        found, _ = newest_good(root)
        assert found is not None
        assert_good(root, found.step)
        assert found.step == 20 or not survived
        save(root, 20)  # what is left over is in nobody's way
        assert_good(root, 20)
        remove_old(root, 2, step=20, best=None)
        assert sorted(path.name for path in root.iterdir()) == ["step-000010", "step-000020"]
        if place > done[0]:
            break
    assert cut > 15


def test_full_disk_anywhere_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    refused = 0
    for place in range(1, 40):
        root = tmp_path / str(place)
        save(root, 10)
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, place, lambda: OSError(errno.ENOSPC, "No space left on device"))
            try:
                save(root, 20)
            except CheckpointError as error:
                refused += 1
                assert re.search("No space left.*Free some space", str(error))
        found, faults = newest_good(root)
        assert found is not None
        assert_good(root, found.step)
        assert faults == []
        assert not list(root.glob(".*"))
    assert refused > 15


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_disk_that_is_really_full_keeps_the_older_checkpoint(small_disk: Path) -> None:
    big = {"model": {"weight": torch.zeros(100_000)}, "optimizer": {}}  # 0.4 MB
    save_checkpoint(small_disk, 1, big, {})
    save_checkpoint(small_disk, 2, big, {})
    with pytest.raises(CheckpointError, match=r"step-000003.*Free some space"):
        save_checkpoint(small_disk, 3, big, {})
    found, faults = newest_good(small_disk)
    assert found is not None
    assert (found.step, faults) == (2, [])
    assert sorted(path.name for path in small_disk.iterdir()) == ["step-000001", "step-000002"]


def test_metrics_on_a_full_disk_are_an_error_with_a_remedy(small_disk: Path) -> None:
    folder = RunFolder(small_disk)
    (small_disk / "full").write_bytes(b"x" * 2**20)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl.*Free some space"):
        folder.append({"step": 1, "text": "x" * 10_000})


def test_saving_a_step_again_never_loses_it(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for place in range(1, 30):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, place, Killed)
            try:
                save(tmp_path, 10)
            except Killed:
                pass
        assert_good(tmp_path, 10)


def test_damaged_checkpoint_of_a_step_is_replaced(tmp_path: Path) -> None:
    damaged = save(tmp_path, 10)
    (damaged / "state.json").write_text("{}")
    save(tmp_path, 10)
    assert_good(tmp_path, 10)


# ---- reading what is damaged or forged


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))


def forge(**files: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest.update(files)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


def point_outside(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["files"][name] = manifest["files"]["model.safetensors"]
        shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return change


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": truncate,
    "one bit": flip_a_bit,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "manifest is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "files are a list": forge(files=[]),
    "no files": forge(files={}),
    "file without facts": forge(files={"state.json": None}),
    "no step": forge(step=None),
    "lost file": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "parent": point_outside("../outside.safetensors"),
    "dots": point_outside(".."),
    "NUL": point_outside("a\0b"),
    "not UTF-8": lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xfe{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_is_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    DAMAGES[damage](newest)
    found, faults = newest_good(tmp_path)
    assert found is not None
    assert found.step == 10
    assert len(faults) == 1
    assert str(newest) in faults[0]
    assert "passed over" in faults[0]


def test_absolute_path_in_a_manifest_is_refused(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", 10)
    point_outside(str(tmp_path / "run" / "outside.safetensors"))(folder)
    with pytest.raises(CheckpointError, match="passed over"):
        read_checkpoint(folder)


def test_position_is_read_from_the_content(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 5).rename(tmp_path / "step-000099")
    assert_good(tmp_path, 10)


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_pickle_is_never_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", 10)
    canary = tmp_path / "canary"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": checkpoint._sha256(path)}
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"step": 10, "files": files}))
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)
    state = folder / "state.json"
    state.write_text("{}")
    files["state.json"] = {"bytes": 2, "sha256": checkpoint._sha256(state)}
    (folder / "manifest.json").write_text(json.dumps({"step": 10, "files": files}))
    with pytest.raises(CheckpointError, match="model"):
        read_checkpoint(folder).tensors("model")
    assert not canary.exists()


def test_tensors_of_other_names_or_shapes_are_refused(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    good = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    for odd in ({"weight": torch.zeros(1, 3)}, {"bias": torch.zeros(1)}, {"other": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match=f"{next(iter(odd))!r}.*--fresh"):
            load_changed(network, {"weight", "bias"}, good | odd, tmp_path)
        assert torch.equal(network.weight, before)
    load_changed(network, {"weight", "bias"}, good, tmp_path)
    assert not network.weight.any()


# ---- rotation


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(10, 70, 10):
        save(tmp_path, step)
        remove_old(tmp_path, 2, step=step, best=20 if step >= 20 else None)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000020", "step-000050", "step-000060"]


def test_rotation_counts_steps_not_letters(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
        remove_old(tmp_path, 1, step=step, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000000"]


def test_rotation_does_not_prefer_a_damaged_later_one(tmp_path: Path) -> None:
    save(tmp_path, 20)
    truncate(save(tmp_path, 30))
    save(tmp_path, 25)  # the run went on from 20
    remove_old(tmp_path, 1, step=25, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000025"]


def test_rotation_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "step-by-step").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(1, 5):
        save(tmp_path, step)
        remove_old(tmp_path, 1, step=step, best=None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-by-step",
        "notes.txt",
        "step-000004",
    }
    assert_good(tmp_path, 4)


def test_many_random_kills_never_leave_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    save(tmp_path, 0)
    step = 0
    for _ in range(60):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, rng.randint(1, 45), Killed)
            try:
                save(tmp_path, step + 10)
                remove_old(tmp_path, 1, step=step + 10, best=None)
            except Killed:
                pass
        found, _ = newest_good(tmp_path)
        assert found is not None
        assert found.step in (step, step + 10)
        step = found.step
        assert_good(tmp_path, step)
    assert step > 0


# ---- whether a folder's run may go on

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


def test_same_command_goes_on_with_what_was_filled_in(folder: RunFolder) -> None:
    held = check_same_run(folder, config(), DIGESTS, extend=False)
    assert held == config(train={"precision": "bf16"})


def test_value_that_was_filled_in_may_be_given(folder: RunFolder) -> None:
    assert check_same_run(folder, config(train={"precision": "bf16"}), DIGESTS, extend=False)


def test_changed_keys_are_refused_with_both_values(folder: RunFolder) -> None:
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


def test_free_keys_may_change_and_are_taken(folder: RunFolder) -> None:
    train = {"workers": 3, "log_every": 1, "save_every": 7, "keep_checkpoints": 9, "micro_batch": 2}
    held = check_same_run(folder, config(train=train), DIGESTS, extend=False)
    assert held is not None
    assert held.train == TrainConfig(epochs=2, precision="bf16", **train)


def test_longer_training_needs_extend(folder: RunFolder) -> None:
    longer = config(train={"epochs": 5})
    with pytest.raises(CheckpointError, match=r"epochs: 2.0 in the run, 5.0 now\n.*--extend"):
        check_same_run(folder, longer, DIGESTS, extend=False)
    held = check_same_run(folder, longer, DIGESTS, extend=True)
    assert held is not None
    assert held.train.epochs == 5


def test_extend_allows_nothing_else(folder: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="seed"):
        check_same_run(folder, config(train={"epochs": 5, "seed": 1}), DIGESTS, extend=True)


def test_changed_data_is_refused(folder: RunFolder) -> None:
    with pytest.raises(DataError, match=r"rows of train are not.*--fresh"):
        check_same_run(folder, config(), {**DIGESTS, "train": "c"}, extend=False)
    with pytest.raises(DataError, match="rows of validation"):
        check_same_run(folder, config(), {"train": "a"}, extend=False)


def test_run_that_never_got_to_a_config_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    assert check_same_run(folder, config(train={"seed": 9}), {}, extend=False) is None


def test_damaged_run_json_is_an_error_with_a_remedy(folder: RunFolder) -> None:
    (folder.path / "run.json").write_text('{"given": ')
    with pytest.raises(CheckpointError, match=r"run.json.*--fresh"):
        check_same_run(folder, config(), DIGESTS, extend=False)


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-000001").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"output.dir.*holds no run"):
        check_free(RunFolder(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"is a file"):
        check_free(RunFolder(file))
    (tmp_path / "empty").mkdir()
    check_free(RunFolder(tmp_path / "empty"))
    check_free(RunFolder(tmp_path / "new"))


def test_run_folder_is_free_for_its_run(folder: RunFolder) -> None:
    check_free(folder)


def test_clearing_removes_no_foreign_files(folder: RunFolder, tmp_path: Path) -> None:
    save(folder.checkpoints, 1)
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


def test_history_bears_a_line_that_was_cut_off(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.append({"step": step, "loss": 0.1 * step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    folder.cut_history(2)
    folder.append({"step": 3})
    assert [line["step"] for line in folder.history()] == [1, 2, 3]
    assert folder.history()[1]["loss"] == 0.2


def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"output.dir: .*file/run cannot be written"):
        RunFolder(file / "run").begin(config(), DIGESTS, {})
