"""A finished run goes to a model hub and comes back: the hub is one on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

import finetune
from finetune.errors import ConfigError, HubError, ModelError
from finetune.hub import push
from tests.hub_server import serve_hub
from tests.lives import one_thread
from tests.tiny_models import text_rows

TOKEN = "hf_canaryCANARYcanaryCANARYcanary1234"
ROWS = text_rows(6, seed=3)


@pytest.fixture(scope="module")
def run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    """A finished LoRA run, trained while a token stood in the environment."""
    with one_thread(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        folder = tmp_path_factory.mktemp("hub") / "run"
        keys = {"model": str(bert_folder), "method": "lora", "epochs": 1, "output": str(folder)}
        return finetune.train("text-classification", data=str(news_csv), **keys)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder of the hub's files."""
    folder = tmp_path / "hub"
    folder.mkdir()
    return folder


@contextmanager
def hub(root: Path, refuses: tuple[str, int] | None = None) -> Iterator[str]:
    """A hub to which this process's huggingface_hub talks, with a token and an empty cache."""
    with serve_hub(root, refuses) as address, at(address, root):
        yield address


@contextmanager
def at(address: str, root: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        patch.setattr(constants, "ENDPOINT", address)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(root.parent / "cache"))
        patch.setenv("HF_TOKEN", TOKEN)
        yield


def written(root: Path) -> list[dict[str, Any]]:
    """What the hub was asked to write."""
    path = root / "requests.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def digest(folder: Path) -> dict[str, str]:
    """{file: digest} of everything in a folder."""
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    assert found
    return found


def test_pushed_model_comes_back_with_the_same_predictions(run: finetune.Run, root: Path) -> None:
    before, expected = digest(run.path), run.predict(ROWS)
    with hub(root) as address:
        assert run.push("me/news") == f"{address}/me/news"
        loaded = finetune.load("me/news")
        assert loaded(ROWS) == expected
    on_hub = digest(root / "models" / "me" / "news")
    final = digest(run.path / "final")
    assert on_hub == {name: d for name, d in final.items() if not name.startswith("adapter/")}
    assert {"model.safetensors", "config.json", "task.json", "README.md"} <= on_hub.keys()
    assert digest(run.path) == before


def test_repository_is_private_unless_it_is_to_be_public(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/secret")
        push(run.path, "me/open", private=False)
    created = [line for seen in written(root) if "create" in seen["path"] for line in seen["lines"]]
    assert [(line["name"], _is_private(line)) for line in created] == [
        ("secret", True),
        ("open", False),
    ]


def _is_private(created: dict[str, Any]) -> bool:
    return bool(created.get("private", created.get("visibility") == "private"))


def test_pushing_again_sends_no_large_file_again(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        first = [seen["path"] for seen in written(root)]
        push(run.path, "me/news")
        again = [seen["path"] for seen in written(root)][len(first) :]
    assert any(path.startswith("/large/") for path in first)
    assert not any(path.startswith("/large/") for path in again)


def test_dry_run_shows_files_and_card_and_uploads_nothing(
    run: finetune.Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(root):
        assert push(run.path, "me/news", dry_run=True) == ""
    said = capsys.readouterr().out
    size = (run.path / "final" / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in said
    assert "adapter" not in said.split("---")[0]
    assert "| accuracy |" in said
    assert not written(root)


@pytest.mark.parametrize(
    ("what", "files"),
    [
        ("adapter", {"adapter_config.json", "adapter_model.safetensors"}),
        ("both", {"adapter/adapter_config.json", "model.safetensors"}),
    ],
)
def test_adapter_is_pushed_if_it_is_asked_for(
    what: str, files: set[str], run: finetune.Run, root: Path
) -> None:
    with hub(root):
        push(run.path, "me/news", what=what)
    on_hub = digest(root / "models" / "me" / "news").keys()
    assert files <= on_hub
    assert ("model.safetensors" in on_hub) == (what == "both")


def test_adapter_has_a_card_in_a_dry_run(
    run: finetune.Run, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run.path, "me/news", what="adapter", dry_run=True)
    said = capsys.readouterr().out
    assert "adapter_model.safetensors" in said
    assert "| accuracy |" in said


def test_what_cannot_be_pushed_is_refused_before_the_hub_is_asked(
    run: finetune.Run, root: Path, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    with hub(root):
        with pytest.raises(ConfigError, match="'wheels'.*merged, adapter, both"):
            push(run.path, "me/news", what="wheels")
        with pytest.raises(ModelError, match="holds no model of this kit"):
            push(tmp_path, "me/news")
        with pytest.raises(HubError, match="a/b/c"):
            push(run.path, "a/b/c")
        keys = {"model": str(bert_folder), "max_steps": 1, "output": str(tmp_path / "full")}
        with one_thread():
            full = finetune.train("text-classification", data=news_csv, method="full", **keys)
        with pytest.raises(HubError, match="holds no adapter"):
            push(full.path, "me/news", what="adapter")
    assert not written(root)


@pytest.mark.parametrize(
    ("place", "status"),
    [("create", 500), ("create", 401), ("batch", 403), ("/large/", 403), ("commit", 403)],
)
def test_failing_hub_leaves_the_run_as_it_was_and_can_be_tried_again(
    place: str, status: int, run: finetune.Run, root: Path
) -> None:
    before = digest(run.path)
    with hub(root, refuses=(place, status)), pytest.raises(HubError) as caught:
        push(run.path, "me/news")
    assert "me/news" in str(caught.value)
    assert "push again" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert digest(run.path) == before
    with hub(root):
        push(run.path, "me/news")
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)


def test_hub_that_cannot_be_reached_is_an_error_of_the_hub(run: finetune.Run, root: Path) -> None:
    with at("http://127.0.0.1:9", root), pytest.raises(HubError, match="127.0.0.1:9"):
        push(run.path, "me/news")
    with at("http://127.0.0.1:9", root), pytest.raises(ModelError, match="me/news"):
        finetune.load("me/news")


def test_model_that_is_not_on_the_hub_is_an_error_of_the_model(root: Path) -> None:
    with hub(root), pytest.raises(ModelError, match="me/nws: neither a folder here nor"):
        finetune.load("me/nws")


def test_token_reaches_the_hub_and_no_file_of_the_run(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
    assert {seen["authorization"] for seen in written(root) if "/large/" not in seen["path"]} == {
        f"Bearer {TOKEN}"
    }
    for folder in (run.path, root / "models"):
        for name in digest(folder):
            assert TOKEN.encode() not in (folder / name).read_bytes(), name
