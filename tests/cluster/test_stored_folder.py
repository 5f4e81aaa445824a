"""A folder and its copy in a store, here another folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.cluster.stored_folder import StoredFolder
from finetune.errors import CheckpointError


def files(folder: Path) -> dict[str, str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_folder_is_sent_and_fetched_with_what_has_changed(tmp_path: Path) -> None:
    here, there, store = (tmp_path / name for name in ("here", "there", "store"))
    write(here, trial__config="a", trial__checkpoints__one="b", log="c")
    sender, receiver = (StoredFolder(folder, store.as_uri()) for folder in (here, there))
    sender.push("trial")
    assert files(store) == {"trial/config": "a", "trial/checkpoints/one": "b"}
    (here / "trial/checkpoints/one").unlink()
    write(here, trial__config="longer", trial__checkpoints__two="d")
    (here / "trial/.lock").touch()
    sender.push("trial")
    sender.push("log")
    assert files(store) == {"trial/config": "longer", "trial/checkpoints/two": "d", "log": "c"}
    write(there, trial__checkpoints__one="left by an earlier run")
    assert [receiver.pull(name) for name in ("trial", "log", "missing")] == [True, True, False]
    assert files(there) == files(store)
    receiver.pull("trial", without=["checkpoints"])
    assert files(there) == {"trial/config": "longer", "log": "c"}


def test_a_whole_folder_is_sent(tmp_path: Path) -> None:
    here, store = tmp_path / "here", tmp_path / "store"
    write(here, search="a", trial__config="b")
    StoredFolder(here, store.as_uri()).push("")
    assert files(store) == files(here)


def test_what_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    here, store = tmp_path / "here", tmp_path / "store"
    write(here, weights="a")
    folder = StoredFolder(here, store.as_uri())
    folder.push("weights")
    (store / "weights").write_text("untouched")
    folder.push("weights")
    assert files(store) == {"weights": "untouched"}


def test_files_are_sent_in_the_order_in_which_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, sent = tmp_path / "here", list[str]()
    write(here, trial__a="last", trial__b="first")
    os.utime(here / "trial/b", (1, 1))
    monkeypatch.setattr(StoredFolder, "_send", lambda _self, _path, key: sent.append(key))
    StoredFolder(here, (tmp_path / "store").as_uri()).push("trial")
    assert sent == ["trial/b", "trial/a"]


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write(tmp_path, file="not a folder", here__weights="a")
    folder = StoredFolder(tmp_path / "here", f"{(tmp_path / 'file').as_uri()}/inside")
    with pytest.raises(CheckpointError, match=r"search\.storage: file://.*cannot be written by"):
        folder.push("weights")
