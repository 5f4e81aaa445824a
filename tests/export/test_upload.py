"""`push` uploads the files that the run wrote, as it wrote them, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import finetune
from finetune.errors import FinetuneError, HubError, ModelError
from finetune.export.hub import push
from tests.support.local_hub import ROWS, digest, hub, written


@pytest.fixture
def final(run: finetune.Run, tmp_path: Path) -> Path:
    """A copy of a final model."""
    return shutil.copytree(run.path / "final", tmp_path / "final")


def test_push_names_foreign_files_and_does_not_upload_them(
    final: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    (final / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (final / "folder").symlink_to(tmp_path)
    (final / "id_rsa").write_text("secret")
    (final / "*").write_text("secret")
    (final / "model.safetensors.md").write_text("secret")
    (final / "adapter" / "extra.json").write_text("{}")
    with hub(root):
        push(final, "me/news", what="both")
    on_hub = digest(root / "models" / "me" / "news")
    assert on_hub.keys() == json.loads((final / "manifest.json").read_text())["files"].keys() | {
        "manifest.json"
    }
    output = capsys.readouterr().out
    assert "not uploaded, since the run did not write them: *, adapter/extra.json, folder" in output
    for request in written(root):
        assert "secret" not in json.dumps(request)


def test_push_uploads_a_manifest_of_what_is_on_the_hub(final: Path, root: Path) -> None:
    with hub(root):
        push(final, "me/news", what="both", license="mit")
        push("me/news", "me/copy")
    for name in ("news", "copy"):
        on_hub = digest(root / "models" / "me" / name)
        manifest = json.loads((root / "models" / "me" / name / "manifest.json").read_text())
        del on_hub["manifest.json"]
        assert on_hub == {file: facts["sha256"] for file, facts in manifest["files"].items()}


@pytest.mark.parametrize(
    "name", ["model.safetensors", "task.json", "README.md", "manifest.json", "adapter"]
)
def test_push_refuses_links_by_name(name: str, final: Path, root: Path, tmp_path: Path) -> None:
    (final / name).rename(tmp_path / "elsewhere")
    (final / name).symlink_to(tmp_path / "elsewhere")
    with hub(root), pytest.raises(FinetuneError, match=rf"{name}: is a symbolic link to .*replace"):
        push(final, "me/news", what="both")
    assert not written(root)


def test_push_refuses_a_linked_folder(final: Path, root: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(final)
    with hub(root), pytest.raises(HubError, match=r"linked: is a symbolic link; give the folder"):
        push(tmp_path / "linked", "me/news")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "task.json"])
def test_push_notices_a_changed_byte(name: str, final: Path, root: Path) -> None:
    content = bytearray((final / name).read_bytes())
    place = content.rindex(b"1") if name.endswith(".json") else len(content) - 1
    content[place] ^= 1
    (final / name).write_bytes(content)
    with hub(root), pytest.raises(ModelError, match=rf"{name}: is damaged or was edited"):
        push(final, "me/news")
    assert not written(root)


def test_push_accepts_an_edited_card(
    final: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (final / "README.md").open("a") as file:
        file.write("\nAsk before use.\n")
    with hub(root):
        push(final, "me/news")
        assert len(finetune.load("me/news")(ROWS)) == len(ROWS)
    assert (
        "README.md was edited after the run: the edited text is pushed" in capsys.readouterr().out
    )
    assert "Ask before use." in (root / "models/me/news/README.md").read_text()


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "C:\\secret", "a/../../b", ""])
@pytest.mark.parametrize("has_manifest", [True, False])
def test_push_refuses_names_outside_of_the_model(
    name: str, has_manifest: bool, final: Path, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    path = final / ("manifest.json" if has_manifest else "task.json")
    facts = json.loads(path.read_text())
    if has_manifest:
        facts["files"][name] = {"bytes": 6, "sha256": ""}
    else:
        (final / "manifest.json").unlink()
        facts["files"].append(name)
    path.write_text(json.dumps(facts))
    with pytest.raises(ModelError, match=rf"{path.name}: lists .*not the name of a file in this"):
        push(final, "me/news", dry_run=True)


def test_push_uploads_the_listed_files_of_a_model_without_a_manifest(
    final: Path, root: Path
) -> None:
    """Earlier versions of the kit wrote none."""
    for name in ("manifest.json", "adapter/tokenizer.json", "adapter/tokenizer_config.json"):
        (final / name).unlink()
    (final / "id_rsa").write_text("secret")
    with hub(root):
        push(final, "me/news", what="both")
    on_hub = digest(root / "models" / "me" / "news").keys()
    assert on_hub == digest(final).keys() - {"id_rsa"}


def test_push_names_the_base_model_of_an_adapter(
    final: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(root):
        push(final, "me/local", what="adapter")
        hint = "adapter_config.json names the base model 'bert', which was loaded from this machine"
        assert hint in capsys.readouterr().out
        push(final, "me/named", what="both", base_model="google/bert-tiny")
    assert "loaded from this machine" not in capsys.readouterr().out
    folder = root / "models/me/named"
    config = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "google/bert-tiny"
    cards = [(folder / name).read_text() for name in ("README.md", "adapter/README.md")]
    for card, relation in zip(cards, ("finetune", "adapter"), strict=True):
        assert f"base_model: google/bert-tiny\nbase_model_relation: {relation}" in card
        assert "`google/bert-tiny`" in card
        assert "hub id" not in card
        assert "`bert`" not in card
    assert '    "google/bert-tiny", num_labels' in cards[1]


def test_push_refuses_weights_that_are_nan(final: Path, root: Path) -> None:
    path = final / "model.safetensors"
    tensors = load_file(path)
    tensors[min(tensors)].fill_(float("nan"))
    save_file(tensors, path, metadata={"format": "pt"})
    (final / "manifest.json").unlink()  # as of an earlier version
    with pytest.raises(ModelError, match=rf"{min(tensors)}' contains NaN; copy the model here"):
        push(final, "me/news", dry_run=True)
