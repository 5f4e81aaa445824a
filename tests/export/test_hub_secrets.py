"""Pushing leaks neither tokens nor local paths."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

import finetune
from finetune.errors import HubError, ModelError
from finetune.export.hub import push
from tests.support.hub_server import TOKEN, Fault, at, serve_hub
from tests.support.local_hub import digest, hub, written


def test_push_removes_the_path_of_the_base_model(
    run: finetune.Run, root: Path, bert_folder: Path
) -> None:
    with hub(root):
        push(run.path, "me/news", what="both")
    for name in digest(root / "models" / "me" / "news"):
        content = (root / "models" / "me" / "news" / name).read_bytes()
        assert str(bert_folder).encode() not in content, name
    on_hub = json.loads((root / "models/me/news/adapter/adapter_config.json").read_text())
    assert on_hub["base_model_name_or_path"] == bert_folder.name
    local = json.loads((run.path / "final/adapter/adapter_config.json").read_text())
    assert local["base_model_name_or_path"] == str(bert_folder), "peft still finds it locally"


@contextmanager
def logged_in(way: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Provide the token in one of the usual ways; yield the keyword arguments for `push`."""
    file = tmp_path / "token"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_TOKEN_PATH", str(file))
        if way == "environment":
            patch.setenv("HF_TOKEN", TOKEN)
        else:
            patch.delenv("HF_TOKEN", raising=False)
        if way == "login":
            file.write_text(TOKEN)
        yield {"token": TOKEN} if way == "argument" else {}


@pytest.mark.parametrize("way", ["environment", "login", "argument"])
def test_push_sends_the_token_only_to_the_hub(
    way: str,
    run: finetune.Run,
    root: Path,
    tmp_path: Path,
    naps: list[float],
    capfd: pytest.CaptureFixture[str],
) -> None:
    faults = Fault("create", 500, times=9), Fault("/resolve/", 403, times=1)
    with serve_hub(root, *faults) as address, at(address, root), logged_in(way, tmp_path) as login:
        errors = ""
        for _ in range(3):  # fails, then succeeds
            try:
                push(run.path, "me/news", **login)
            except HubError as error:
                errors += "".join(traceback.format_exception(error))
        with contextlib.suppress(ModelError):
            finetune.load("me/news", **login)
        push(run.path, "me/news", dry_run=True, **login)
    requests = [request for request in written(root) if "/large/" not in request["path"]]
    assert {request["authorization"] for request in requests} == {f"Bearer {TOKEN}"}
    assert "upload to the hub at" in errors
    captured = capfd.readouterr()
    assert TOKEN not in errors + captured.out + captured.err
    for folder in (run.path, root / "models"):
        for name in digest(folder):
            assert TOKEN.encode() not in (folder / name).read_bytes(), name
