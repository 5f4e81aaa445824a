"""Notes on a final model whose files are not those that its run wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io import manifest
from finetune.io.manifest import note_changes, write_manifest
from tasks.backbones.load_faults import check_outputs


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A folder as a run writes it."""
    for name in ("task.json", "tokenizer.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(f"content of {name}")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    write_manifest(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda folder: (folder / "tokenizer.json").write_text("foreign"),
            "tokenizer.json differs",
        ),
        (lambda folder: (folder / "task.json").write_text("{}"), "task.json differs"),
        (lambda folder: (folder / "vocab.txt").write_text("a"), "vocab.txt was added"),
        (lambda folder: (folder / "more.safetensors").write_text(""), "more.safetensors was added"),
    ],
)
def test_changes_that_may_change_predictions_are_noted(
    change: Callable[[Path], object], said: str, final: Path
) -> None:
    change(final)
    assert said in note_changes(final)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: None,
        lambda folder: (folder / "README.md").write_text("mine"),
        lambda folder: (folder / "notes.md").write_text("mine"),
        lambda folder: (folder / "adapter" / "adapter_config.json").unlink(),
        lambda folder: (folder / "manifest.json").unlink(),  # that of an earlier version
    ],
)
def test_other_changes_are_not_noted(change: Callable[[Path], object], final: Path) -> None:
    change(final)
    assert note_changes(final) == ""


def test_labels_in_another_order_are_refused_where_the_network_has_no_names(
    tmp_path: Path,
) -> None:
    saved = {"name": "a", "state": {"targets": {"names": ["x", "y"]}}, "config": {"threshold": 0.5}}
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "task.json").write_text(json.dumps(saved))
    write_manifest(tmp_path)
    source = ModelConfig(name=str(tmp_path))
    saved["config"] = {"threshold": 0.7}  # may be edited
    (tmp_path / "task.json").write_text(json.dumps(saved, indent=4))
    check_outputs(2, ["x", "y"], source)
    saved["state"] = {"targets": {"names": ["y", "x"]}}
    (tmp_path / "task.json").write_text(json.dumps(saved))
    with pytest.raises(
        ModelError, match=r"task\.json: the state, which has the labels in the order"
    ):
        check_outputs(2, ["y", "x"], source)
    facts = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({"files": facts["files"]}))  # as told
    check_outputs(2, ["y", "x"], source)


def test_large_files_are_compared_by_size(final: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_HASHED", 10)
    path = final / "model.safetensors"
    path.write_text("c" * path.stat().st_size)
    assert note_changes(final) == ""
    path.write_text("c" * 100)
    assert "model.safetensors differs" in note_changes(final)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": []}', '{"files": {"a": 1}}', "\0\0"])
def test_damaged_manifest_is_refused(text: str, final: Path) -> None:
    (final / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest\.json: .*copy the model here again"):
        note_changes(final)


def test_links_to_a_model_are_followed(final: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to(final)
    assert note_changes(link) == ""
    facts = json.loads((link / "manifest.json").read_text())
    assert "task.json" in facts["files"]
