"""Pushing a damaged model, and pushing to or loading from a hub that fails."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.errors import FinetuneError, HubError, ModelError
from finetune.export.hub import push
from tests.support.hub_server import TOKEN, Fault, at
from tests.support.local_hub import ROWS, digest, hub, written


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut-weights": ("model.safetensors", halve, "is damaged"),
    "cut-json": ("task.json", lambda path: path.write_text("{"), "is damaged"),
    "no-config": ("config.json", Path.unlink, "is missing"),
    "no-card": (
        "README.md",
        Path.unlink,
        "is missing, and a model is not pushed without a model card",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_push_rejects_a_damaged_model(
    name: str, run: finetune.Run, root: Path, tmp_path: Path
) -> None:
    file, damage, message = DAMAGES[name]
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    damage(folder / file)
    for dry_run in (True, False):
        with hub(root), pytest.raises(FinetuneError, match=f"{file}: {message}"):
            push(folder, "me/news", dry_run=dry_run, license="mit")
    assert not written(root)


def test_push_rejects_a_damaged_adapter(run: finetune.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: is missing"):
        push(folder, "me/news", what="adapter", dry_run=True)


@pytest.mark.parametrize(
    ("part", "status"),
    [("create", 500), ("/large/", 403), ("commit", 403)],
)
def test_push_can_be_repeated_after_a_hub_error(
    part: str, status: int, run: finetune.Run, root: Path, naps: list[float]
) -> None:
    before = digest(run.path)
    with hub(root, Fault(part, status)), pytest.raises(HubError) as caught:
        push(run.path, "me/news")
    assert "me/news" in str(caught.value)
    assert "push again" in str(caught.value)
    assert TOKEN not in "".join(traceback.format_exception(caught.value))
    assert digest(run.path) == before
    assert bool(naps) == (status == 500)
    with hub(root):
        push(run.path, "me/news")
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)


@pytest.mark.parametrize(
    ("part", "status"),
    [
        ("preupload", 503),
        ("/large/", 500),
        ("commit", 429),
        ("commit", 0),
    ],
)
def test_push_retries_after_a_temporary_error(
    part: str,
    status: int,
    run: finetune.Run,
    root: Path,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault = Fault(part, status, times=1, headers={"Retry-After": "7"} if status == 429 else {})
    with hub(root, fault):
        push(run.path, "me/news")
    assert naps
    assert status != 429 or 7 in naps
    on_hub, final = digest(root / "models" / "me" / "news"), digest(run.path / "final")
    assert on_hub["model.safetensors"] == final["model.safetensors"]
    assert on_hub.keys() == {name for name in final if not name.startswith("adapter/")}
    assert TOKEN not in capsys.readouterr().out


@pytest.mark.parametrize("status", [429, 0])
def test_load_retries_after_a_temporary_error(
    status: int, run: finetune.Run, root: Path, naps: list[float]
) -> None:
    with hub(root):
        push(run.path, "me/news")
    with hub(root, Fault("model.safetensors", status, times=2)):
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)


def test_push_reports_files_that_the_hub_does_not_list(run: finetune.Run, root: Path) -> None:
    def forget(*_: Any, **__: Any) -> None:
        """Simulate a hub that accepts the files and loses them."""

    with hub(root), pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.export.hub._send_files", forget)
        with pytest.raises(HubError, match="does not list config.json, model.safetensors"):
            push(run.path, "me/news")


def test_push_and_load_report_an_unreachable_hub(
    run: finetune.Run, root: Path, naps: list[float]
) -> None:
    with at("http://127.0.0.1:9", root), pytest.raises(HubError, match="127.0.0.1:9"):
        push(run.path, "me/news")
    with at("http://127.0.0.1:9", root), pytest.raises(ModelError, match="me/news"):
        finetune.load("me/news")


def test_load_reports_a_model_missing_on_the_hub(root: Path) -> None:
    with (
        hub(root),
        pytest.raises(
            ModelError, match="me/nws: no such folder, and not available on the hub"
        ) as caught,
    ):
        finetune.load("me/nws")
    assert str(caught.value).count("404") == 1
