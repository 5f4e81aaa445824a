"""Files of cached features: damage of any kind is found, and builds are whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.batching import feature_files
from finetune.batching.feature_files import (
    ABSENT,
    MANIFEST,
    begin_features,
    claim_features,
    find_damage,
    map_file,
    open_features,
    publish_features,
)
from finetune.errors import ModelError
from finetune.io.run_lock import OWNER, this_owner

ROWS = 40
FILES = {
    "level0": {"dtype": "float32", "shape": [ROWS, 3, 5]},
    "level1": {"dtype": "bfloat16", "shape": [ROWS, 2]},
}


def build(root: Path, name: str = "one", seed: int = 0) -> Path:
    """Write an unfinished build with random features."""
    partial = root / f"key.{name}.partial"
    begin_features(partial)
    generator = torch.Generator().manual_seed(seed)
    for file, facts in FILES.items():
        tensor = map_file(partial / f"{file}.bin", **facts, create=True)  # type: ignore[arg-type]
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return partial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    publish_features(build(tmp_path), tmp_path / "key", FILES)
    return tmp_path / "key"


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads(path.read_text())
    edit(manifest)
    path.write_text(json.dumps(manifest))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_tensor(folder: Path) -> None:
    shutil.copy(folder / "level0.bin", folder / "level1.bin")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda f: flip(f / "level0.bin"),
    "truncated": lambda f: os.truncate(f / "level0.bin", 100),
    "appended": lambda f: (f / "level0.bin").open("ab").write(b"x"),
    "emptied": lambda f: (f / "level1.bin").write_bytes(b""),
    "zeros": lambda f: (f / "level1.bin").write_bytes(bytes(ROWS * 2 * 2)),
    "missing file": lambda f: (f / "level1.bin").unlink(),
    "other file": other_tensor,
    "folder as file": lambda f: ((f / "level1.bin").unlink(), (f / "level1.bin").mkdir()),
    "no manifest": lambda f: (f / MANIFEST).unlink(),
    "pipe as manifest": lambda f: ((f / MANIFEST).unlink(), os.mkfifo(f / MANIFEST)),
    "empty manifest": lambda f: (f / MANIFEST).write_text(""),
    "zeros in the manifest": lambda f: (f / MANIFEST).write_bytes(bytes(500)),
    "manifest of another kind": lambda f: (f / MANIFEST).write_text("[1]"),
    "manifest without files": lambda f: (f / MANIFEST).write_text('{"files": {}, "crc32": 0}'),
    "deep manifest": lambda f: (f / MANIFEST).write_text("[" * 10**5),
    "shape": lambda f: change(
        f / MANIFEST, lambda m: m["files"]["level0"].update(shape=[ROWS, 15])
    ),
    "dtype": lambda f: change(f / MANIFEST, lambda m: m["files"]["level0"].update(dtype="int32")),
    "unknown dtype": lambda f: change(
        f / MANIFEST, lambda m: m["files"]["level0"].update(dtype="load")
    ),
    "entry lost": lambda f: change(f / MANIFEST, lambda m: m["files"].pop("level1")),
    "half written": lambda f: [path.unlink() for path in f.iterdir() if path.name != "level0.bin"],
    "empty folder": lambda f: [path.unlink() for path in f.iterdir()],
    "a file in its place": lambda f: (shutil.rmtree(f), f.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_features_are_found_and_replaced(damage: str, folder: Path) -> None:
    before = {name: tensor.clone() for name, tensor in open_features(folder).items()}
    assert find_damage(folder, ROWS) == ""
    DAMAGES[damage](folder)
    assert find_damage(folder, ROWS) not in ("", ABSENT)
    publish_features(build(folder.parent, "again"), folder, FILES)
    assert find_damage(folder, ROWS) == ""
    after = open_features(folder)
    assert all(torch.equal(before[name], after[name]) for name in FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["key"]


def test_features_of_other_rows_are_damaged(folder: Path) -> None:
    assert "another size" in find_damage(folder, ROWS + 1)
    assert find_damage(folder.parent / "other", ROWS) == ABSENT


def test_features_of_the_build_that_ends_first_are_kept(tmp_path: Path) -> None:
    first, second = build(tmp_path, "one", seed=1), build(tmp_path, "two", seed=2)
    publish_features(first, tmp_path / "key", FILES)
    kept = open_features(tmp_path / "key")
    publish_features(second, tmp_path / "key", FILES)
    assert torch.equal(kept["level0"], open_features(tmp_path / "key")["level0"])
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_features_that_a_run_reads_outlive_their_replacement(folder: Path) -> None:
    read = open_features(folder)
    expected = read["level1"].clone()
    (folder / MANIFEST).unlink()
    publish_features(build(folder.parent, "again", seed=9), folder, FILES)
    assert torch.equal(read["level1"], expected)


def test_begin_features_removes_builds_whose_process_has_ended(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    owners = {"killed": {"pid": gone.pid}, "running": {}, "elsewhere": {"host": "elsewhere"}}
    for name, change in owners.items():
        (tmp_path / f"{name}.partial").mkdir()
        text = json.dumps({**this_owner(), **change})
        (tmp_path / f"{name}.partial" / OWNER).write_text(text)
    begin_features(tmp_path / "new.partial")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"running.partial", "elsewhere.partial", "new.partial"}


def test_full_disk_is_a_message_with_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = build(tmp_path)

    def fail(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_files, "sync_to_disk", fail)
    with pytest.raises(ModelError, match=r"cannot write the features .*No space left.*cache=off"):
        publish_features(partial, tmp_path / "key", FILES)
    assert find_damage(tmp_path / "key", ROWS) == ABSENT


@pytest.mark.parametrize("publishes", [True, False])
def test_a_second_run_waits_for_the_features_that_another_one_computes(
    tmp_path: Path, publishes: bool
) -> None:
    folder, found = tmp_path / "key", list[str]()

    def claim() -> None:
        with claim_features(folder, ROWS) as (fault, _):
            found.append(fault)

    second = threading.Thread(target=claim)
    with claim_features(folder, ROWS) as (fault, _):
        assert fault == ABSENT
        second.start()
        second.join(3 * feature_files.SECONDS_BETWEEN_LOOKS)
        assert second.is_alive()
        if publishes:
            publish_features(build(tmp_path), folder, FILES)
    second.join(10)
    # If the first run ends without them, the second one computes them.
    assert found == ["" if publishes else ABSENT]
    assert not list(tmp_path.glob("*.lock"))
