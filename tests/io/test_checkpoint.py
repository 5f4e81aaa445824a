"""Checkpoints: atomic writes, verification on reading, and removal of old ones."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.errors import CheckpointError
from finetune.io import checkpoint, files
from finetune.io.checkpoint import (
    find_latest_checkpoint,
    load_changed_tensors,
    read_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from finetune.io.files import file_facts


class Killed(BaseException):
    """Stand-in for SIGKILL: nothing in the engine catches it."""


def tensors_of(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"weight": torch.full((40, 5), float(step))},
        "optimizer": {"weight|exp_avg": torch.full((40, 5), step / 2)},
    }


def save(root: Path, step: int) -> Path:
    return save_checkpoint(root, step, tensors_of(step), {"progress": {"step": step}})


def assert_good(root: Path, step: int) -> None:
    latest, _ = find_latest_checkpoint(root)
    assert latest is not None
    assert latest.step == step
    assert latest.state["progress"] == {"step": step}
    for name, tensors in tensors_of(step).items():
        stored = latest.tensors(name)
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[key], tensors[key]) for key in tensors)


# ---- writing


def test_find_latest_checkpoint_returns_the_highest_step(tmp_path: Path) -> None:
    for step in (5, 20, 10):
        save(tmp_path, step)
    assert_good(tmp_path, 20)
    assert find_latest_checkpoint(tmp_path)[1] == []


def test_find_latest_checkpoint_accepts_a_missing_folder(tmp_path: Path) -> None:
    assert find_latest_checkpoint(tmp_path / "none") == (None, [])


# The operations of a write, so that it can be interrupted between any two of them.
OPERATIONS = [(os, "fsync"), (os, "open"), (checkpoint, "save_file"), (files, "sha256_of")]
OPERATIONS += [(Path, name) for name in ("mkdir", "write_text", "replace", "stat", "open")]


def fail_at(patch: pytest.MonkeyPatch, place: int, error: Callable[[], BaseException]) -> list[int]:
    """Make write operation number `place` raise `error`, before or after its execution."""
    done = [0]

    def failing(original: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **keys: Any) -> Any:
            done[0] += 1
            if done[0] == place and place % 2:
                raise error()
            result = original(*arguments, **keys)
            if done[0] == place:
                raise error()
            return result

        return operation

    for owner, name in OPERATIONS:
        patch.setattr(owner, name, failing(getattr(owner, name)))
    return done


def test_save_checkpoint_killed_anywhere_keeps_the_older_one(tmp_path: Path) -> None:
    killed = 0
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
        killed += not survived
        latest, _ = find_latest_checkpoint(root)
        assert latest is not None
        assert_good(root, latest.step)
        assert latest.step == 20 or not survived
        save(root, 20)  # leftovers do not get in the way
        assert_good(root, 20)
        remove_old_checkpoints(root, 2, step=20, best=None)
        assert sorted(path.name for path in root.iterdir()) == ["step-000010", "step-000020"]
        if place > done[0]:
            break
    assert killed > 15


def test_save_checkpoint_reports_a_full_disk_anywhere(tmp_path: Path) -> None:
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
        latest, faults = find_latest_checkpoint(root)
        assert latest is not None
        assert_good(root, latest.step)
        assert faults == []
        assert not list(root.glob(".*"))
    assert refused > 15


def test_save_checkpoint_on_a_really_full_disk_keeps_the_older_one(small_disk: Path) -> None:
    big = {"model": {"weight": torch.zeros(100_000)}, "optimizer": {}}  # 0.4 MB
    save_checkpoint(small_disk, 1, big, {})
    save_checkpoint(small_disk, 2, big, {})
    with pytest.raises(CheckpointError, match=r"step-000003.*Free some space"):
        save_checkpoint(small_disk, 3, big, {})
    latest, faults = find_latest_checkpoint(small_disk)
    assert latest is not None
    assert (latest.step, faults) == (2, [])
    assert sorted(path.name for path in small_disk.iterdir()) == ["step-000001", "step-000002"]


def test_save_checkpoint_of_a_saved_step_never_loses_it(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for place in range(1, 30):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, place, Killed)
            try:
                save(tmp_path, 10)
            except Killed:
                pass
        assert_good(tmp_path, 10)


def test_save_checkpoint_replaces_a_damaged_one(tmp_path: Path) -> None:
    damaged = save(tmp_path, 10)
    (damaged / "state.json").write_text("{}")
    save(tmp_path, 10)
    assert_good(tmp_path, 10)


# ---- reading damaged or forged checkpoints


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
def test_find_latest_checkpoint_reports_and_skips_damaged_ones(tmp_path: Path, damage: str) -> None:
    save(tmp_path, 10)
    newest = save(tmp_path, 20)
    DAMAGES[damage](newest)
    latest, faults = find_latest_checkpoint(tmp_path)
    assert latest is not None
    assert latest.step == 10
    assert len(faults) == 1
    assert str(newest) in faults[0]
    assert "skipping" in faults[0]


def test_read_checkpoint_rejects_absolute_paths_in_the_manifest(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", 10)
    point_outside(str(tmp_path / "run" / "outside.safetensors"))(folder)
    with pytest.raises(CheckpointError, match="skipping"):
        read_checkpoint(folder)


def test_find_latest_checkpoint_reads_the_step_from_the_content(tmp_path: Path) -> None:
    save(tmp_path, 10)
    save(tmp_path, 5).rename(tmp_path / "step-000099")
    assert_good(tmp_path, 10)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_read_checkpoint_never_unpickles(tmp_path: Path) -> None:
    folder = save(tmp_path / "run", 10)
    canary = tmp_path / "canary"
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    facts = {
        path.name: file_facts(path) for path in folder.iterdir() if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(json.dumps({"step": 10, "files": facts}))
    with pytest.raises(CheckpointError):
        read_checkpoint(folder)
    state = folder / "state.json"
    state.write_text("{}")
    facts["state.json"] = file_facts(state)
    (folder / "manifest.json").write_text(json.dumps({"step": 10, "files": facts}))
    with pytest.raises(CheckpointError, match="model"):
        read_checkpoint(folder).tensors("model")
    assert not canary.exists()


HALF = {"weight": torch.zeros(2, 3, dtype=torch.float16)}


def test_load_changed_tensors_rejects_other_names_shapes_and_dtypes(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    before = network.weight.clone()
    good = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    for bad in (
        {"weight": torch.zeros(1, 3)},
        {"bias": torch.zeros(1)},
        {"other": torch.zeros(1)},
        HALF,
    ):
        with pytest.raises(CheckpointError, match=f"{next(iter(bad))!r}.*--fresh"):
            load_changed_tensors(network, {"weight", "bias"}, good | bad, tmp_path)
        assert torch.equal(network.weight, before)
    load_changed_tensors(network, {"weight", "bias"}, good, tmp_path)
    assert not network.weight.any()


# ---- removal of old checkpoints


def test_remove_old_checkpoints_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in range(10, 70, 10):
        save(tmp_path, step)
        remove_old_checkpoints(tmp_path, 2, step=step, best=20 if step >= 20 else None)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-000020", "step-000050", "step-000060"]


def test_remove_old_checkpoints_sorts_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
        remove_old_checkpoints(tmp_path, 1, step=step, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1000000"]


def test_remove_old_checkpoints_removes_damaged_later_ones(tmp_path: Path) -> None:
    save(tmp_path, 20)
    truncate(save(tmp_path, 30))
    save(tmp_path, 25)  # the run resumed from 20
    remove_old_checkpoints(tmp_path, 1, step=25, best=None)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000025"]


def test_remove_old_checkpoints_keeps_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "step-by-step").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    for step in range(1, 5):
        save(tmp_path, step)
        remove_old_checkpoints(tmp_path, 1, step=step, best=None)
    assert {path.name for path in tmp_path.iterdir()} == {
        "step-by-step",
        "notes.txt",
        "step-000004",
    }
    assert_good(tmp_path, 4)


def test_checkpoints_survive_many_random_kills(tmp_path: Path) -> None:
    rng = random.Random(0)
    save(tmp_path, 0)
    step = 0
    for _ in range(60):
        with pytest.MonkeyPatch.context() as patch:
            fail_at(patch, rng.randint(1, 45), Killed)
            try:
                save(tmp_path, step + 10)
                remove_old_checkpoints(tmp_path, 1, step=step + 10, best=None)
            except Killed:
                pass
        latest, _ = find_latest_checkpoint(tmp_path)
        assert latest is not None
        assert latest.step in (step, step + 10)
        step = latest.step
        assert_good(tmp_path, step)
    assert step > 0
