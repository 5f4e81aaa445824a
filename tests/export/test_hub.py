"""`push` uploads a finished run to a model hub, which runs on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import finetune
from finetune.errors import ConfigError, HubError, ModelError
from finetune.export.hub import push
from tests.support.local_hub import ROWS, digest, hub, written


def test_push_uploads_a_model_that_loads_with_equal_predictions(
    run: finetune.Run, root: Path
) -> None:
    before, expected = digest(run.path), run.predict(ROWS)
    with hub(root) as address:
        assert run.push("me/news") == f"{address}/me/news"
        loaded = finetune.load("me/news")
        assert loaded(ROWS) == expected
    on_hub = digest(root / "models" / "me" / "news")
    final = digest(run.path / "final")
    for name in ("README.md", "manifest.json"):
        assert on_hub.pop(name) != final.pop(name), "the card names its repository"
    assert on_hub == {name: sha for name, sha in final.items() if not name.startswith("adapter/")}
    assert {"model.safetensors", "config.json", "task.json"} <= on_hub.keys()
    assert digest(run.path) == before


def test_push_creates_a_private_repository_by_default(
    run: finetune.Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(root):
        push(run.path, "me/secret")
        push(run.path, "me/open", private=False)
        assert [p.name for p in (root / "private" / "me").iterdir()] == ["secret"]
        capsys.readouterr()
        push(run.path, "me/open")
    assert (
        "(public)\nthe repository already existed and was not made private"
        in capsys.readouterr().out
    )


def test_push_again_skips_large_files_on_the_hub(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        first = [request["path"] for request in written(root)]
        push(run.path, "me/news")
        again = [request["path"] for request in written(root)][len(first) :]
    assert any(path.startswith("/large/") for path in first)
    assert not any(path.startswith("/large/") for path in again)


def test_push_dry_run_prints_files_and_card_without_uploading(
    run: finetune.Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(root):
        assert push(run.path, "me/news", dry_run=True) == ""
    output = capsys.readouterr().out
    size = (run.path / "final" / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in output
    assert "adapter" not in output.split("---")[0]
    assert "# me/news\n" in output
    assert "| accuracy |" in output
    assert not written(root)


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("adapter", {"adapter_config.json", "adapter_model.safetensors"}),
        ("both", {"adapter/adapter_config.json", "model.safetensors"}),
    ],
)
def test_push_uploads_the_adapter_on_request(
    what: str, files: set[str], run: finetune.Run, root: Path
) -> None:
    with hub(root):
        push(run.path, "me/news", what=what)
    on_hub = digest(root / "models" / "me" / "news").keys()
    assert files <= on_hub
    assert ("model.safetensors" in on_hub) == (what == "both")


def test_push_dry_run_prints_the_card_of_an_adapter(
    run: finetune.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run.path, "me/news", what="adapter", dry_run=True)
    output = capsys.readouterr().out
    assert "adapter_model.safetensors" in output
    assert "| accuracy |" in output


def test_push_rejects_invalid_arguments_without_contacting_the_hub(
    run: finetune.Run, root: Path, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    with hub(root):
        with pytest.raises(ConfigError, match="'wheels'.*merged, adapter, both"):
            push(run.path, "me/news", what="wheels")
        with pytest.raises(ModelError, match="not a model of this kit"):
            push(tmp_path, "me/news")
        with pytest.raises(ConfigError, match="a/b/c"):
            push(run.path, "a/b/c")
        keys = {"model": str(bert_folder), "max_steps": 1, "output": str(tmp_path / "full")}
        full = finetune.train("text-classification", data=news_csv, method="full", **keys)
        with pytest.raises(HubError, match="contains no adapter"):
            push(full.path, "me/news", what="adapter")
    assert not written(root)


def test_push_skips_hidden_files(
    run: finetune.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "config.json.metadata").write_text("client cache")
    push(folder, "me/news", dry_run=True)
    assert "metadata" not in capsys.readouterr().out.split("---")[0]


def test_push_removes_the_adapter_section_for_a_merged_model(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/merged")
        push(run.path, "me/both", what="both")
    merged, both = (
        (root / "models" / "me" / name / "README.md").read_text() for name in ("merged", "both")
    )
    assert "adapter" not in merged.partition("## Data")[0].partition("## Usage")[2]
    assert "`adapter/` contains the LoRA adapter for `bert`. That base model has no hub id" in both
    assert "## Data" in merged


def test_push_renames_the_card_of_a_copied_model(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        push("me/news", "me/news-copy")
        card = (root / "models/me/news-copy/README.md").read_text()
        assert finetune.load("me/news-copy")(ROWS) == run.predict(ROWS)
    assert "# me/news-copy\n" in card
    assert 'finetune.load("me/news-copy")' in card
    assert "me/news" not in card.replace("me/news-copy", "")


def test_push_replaces_the_files_of_an_earlier_model(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        (root / "models/me/news/picture.png").write_bytes(b"image")
        push(run.path, "me/news", what="adapter")
    on_hub = digest(root / "models" / "me" / "news").keys()
    assert "adapter_model.safetensors" in on_hub
    assert "model.safetensors" not in on_hub
    assert "picture.png" in on_hub


def test_push_writes_the_license_to_the_card(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news", license="apache-2.0")
    card = ModelCard((root / "models/me/news/README.md").read_text())
    assert card.data.license == "apache-2.0"
    assert "# me/news" in card.text


@pytest.mark.parametrize(
    ("license", "remedy"), [("apache2.0", "did you mean 'apache-2.0'"), ("1234", "or use 'other'")]
)
def test_push_and_train_reject_unknown_licenses(
    license: str, remedy: str, run: finetune.Run, bert_folder: Path, news_csv: Path
) -> None:
    with pytest.raises(ConfigError, match=f"--license: unknown license '{license}'.*{remedy}"):
        push(run.path, "me/news", dry_run=True, license=license)
    with pytest.raises(ConfigError, match=f"output.license: unknown license '{license}'.*{remedy}"):
        finetune.train(
            "text-classification",
            **{"data": str(news_csv), "model": str(bert_folder), "output.license": license},
        )
