"""A finished run goes to a model hub and comes back: the hub is one on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, constants

import finetune
from finetune.errors import ConfigError, FinetuneError, HubError, ModelError
from finetune.export.hub import push
from tests.support.command_line import finetune as command
from tests.support.hub_server import TOKEN, Fault, at, serve_hub
from tests.support.tiny_models import text_rows

ROWS = text_rows(6, seed=3)


@pytest.fixture(scope="module")
def run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    """A finished LoRA run, trained while a token stood in the environment."""
    with pytest.MonkeyPatch.context() as patch:
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


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for a hub, which pass at once."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@contextmanager
def hub(root: Path, *faults: Fault) -> Iterator[str]:
    """A hub to which this process's huggingface_hub talks, with a token and an empty cache."""
    with serve_hub(root, *faults) as address, at(address, root):
        yield address


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
    assert on_hub.pop("README.md") != final.pop("README.md"), "the card names its place"
    assert on_hub == {name: d for name, d in final.items() if not name.startswith("adapter/")}
    assert {"model.safetensors", "config.json", "task.json"} <= on_hub.keys()
    assert digest(run.path) == before


def test_repository_is_private_unless_it_is_to_be_public(
    run: finetune.Run, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub(root):
        push(run.path, "me/secret")
        push(run.path, "me/open", private=False)
        assert [p.name for p in (root / "private" / "me").iterdir()] == ["secret"]
        capsys.readouterr()
        push(run.path, "me/open")
    assert "(public)\nit was there before, so it is not made private" in capsys.readouterr().out


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
    assert "# me/news\n" in said
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
        with pytest.raises(ConfigError, match="a/b/c"):
            push(run.path, "a/b/c")
        keys = {"model": str(bert_folder), "max_steps": 1, "output": str(tmp_path / "full")}
        full = finetune.train("text-classification", data=news_csv, method="full", **keys)
        with pytest.raises(HubError, match="holds no adapter"):
            push(full.path, "me/news", what="adapter")
    assert not written(root)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut-weights": ("model.safetensors", halve, "is damaged"),
    "cut-json": ("task.json", lambda path: path.write_text("{"), "is damaged"),
    "no-config": ("config.json", Path.unlink, "is missing"),
    "no-card": ("README.md", Path.unlink, "is missing, and without a card"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_broken_model_is_not_pushed(
    name: str, run: finetune.Run, root: Path, tmp_path: Path
) -> None:
    file, damage, said = DAMAGES[name]
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    damage(folder / file)
    for dry_run in (True, False):
        with hub(root), pytest.raises(FinetuneError, match=f"{file}: {said}"):
            push(folder, "me/news", dry_run=dry_run, license="mit")
    assert not written(root)


def test_broken_adapter_is_not_pushed(run: finetune.Run, tmp_path: Path) -> None:
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: is missing"):
        push(folder, "me/news", what="adapter", dry_run=True)


def test_files_of_a_download_are_not_pushed(
    run: finetune.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(run.path / "final", tmp_path / "final")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "config.json.metadata").write_text("of the client")
    push(folder, "me/news", dry_run=True)
    assert "metadata" not in capsys.readouterr().out.split("---")[0]


def test_card_tells_of_an_adapter_only_where_one_is_pushed(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/merged")
        push(run.path, "me/both", what="both")
    merged, both = (
        (root / "models" / "me" / name / "README.md").read_text() for name in ("merged", "both")
    )
    assert "adapter" not in merged.partition("## Data")[0].partition("## Use")[2]
    assert "`adapter/` is the LoRA adapter of `bert`, which is no id of a hub" in both
    assert "## Data" in merged


def test_model_pushed_on_to_another_place_is_called_by_that(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        push("me/news", "me/news-copy")
        card = (root / "models/me/news-copy/README.md").read_text()
        assert finetune.load("me/news-copy")(ROWS) == run.predict(ROWS)
    assert "# me/news-copy\n" in card
    assert 'finetune.load("me/news-copy")' in card
    assert "me/news" not in card.replace("me/news-copy", "")


@pytest.mark.parametrize(
    ("license", "remedy"), [("apache2.0", "did you mean 'apache-2.0'"), ("1234", "or write other")]
)
def test_licence_that_no_hub_knows_is_refused(
    license: str, remedy: str, run: finetune.Run, bert_folder: Path, news_csv: Path
) -> None:
    with pytest.raises(ConfigError, match=f"--license: '{license}'.*{remedy}"):
        push(run.path, "me/news", dry_run=True, license=license)
    with pytest.raises(ConfigError, match=f"output.license: '{license}'.*{remedy}"):
        finetune.train(
            "text-classification",
            **{"data": str(news_csv), "model": str(bert_folder), "output.license": license},
        )


@pytest.mark.parametrize(
    ("place", "status"),
    [("create", 500), ("/large/", 403), ("commit", 403)],
)
def test_failing_hub_leaves_the_run_as_it_was_and_can_be_tried_again(
    place: str, status: int, run: finetune.Run, root: Path, naps: list[float]
) -> None:
    before = digest(run.path)
    with hub(root, Fault(place, status)), pytest.raises(HubError) as caught:
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
    ("place", "status"),
    [
        ("preupload", 503),
        ("/large/", 500),
        ("commit", 429),
        ("commit", 0),
    ],
)
def test_fault_that_passes_is_waited_for(
    place: str,
    status: int,
    run: finetune.Run,
    root: Path,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    fault = Fault(place, status, times=1, headers={"Retry-After": "7"} if status == 429 else {})
    with hub(root, fault):
        push(run.path, "me/news")
    assert naps
    assert status != 429 or 7 in naps
    on_hub, final = digest(root / "models" / "me" / "news"), digest(run.path / "final")
    assert on_hub["model.safetensors"] == final["model.safetensors"]
    assert on_hub.keys() == {name for name in final if not name.startswith("adapter/")}
    assert TOKEN not in capsys.readouterr().out


@pytest.mark.parametrize("status", [429, 0])
def test_model_is_fetched_through_a_fault_that_passes(
    status: int, run: finetune.Run, root: Path, naps: list[float]
) -> None:
    with hub(root):
        push(run.path, "me/news")
    with hub(root, Fault("model.safetensors", status, times=2)):
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)


def test_hub_that_forgets_a_file_is_found_out(run: finetune.Run, root: Path) -> None:
    def forget(*_: Any, **__: Any) -> None:
        """As if the hub had taken the files and lost them."""

    with hub(root), pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.export.hub._send_files", forget)
        with pytest.raises(HubError, match="does not show config.json, model.safetensors"):
            push(run.path, "me/news")


def test_hub_that_cannot_be_reached_is_an_error_of_the_hub(
    run: finetune.Run, root: Path, naps: list[float]
) -> None:
    with at("http://127.0.0.1:9", root), pytest.raises(HubError, match="127.0.0.1:9"):
        push(run.path, "me/news")
    with at("http://127.0.0.1:9", root), pytest.raises(ModelError, match="me/news"):
        finetune.load("me/news")


def test_model_that_is_not_on_the_hub_is_an_error_of_the_model(root: Path) -> None:
    with hub(root), pytest.raises(ModelError, match="me/nws: neither a folder here nor") as caught:
        finetune.load("me/nws")
    assert str(caught.value).count("404") == 1


def test_no_file_names_the_folder_of_the_pretrained_network(
    run: finetune.Run, root: Path, bert_folder: Path
) -> None:
    with hub(root):
        push(run.path, "me/news", what="both")
    for name in digest(root / "models" / "me" / "news"):
        content = (root / "models" / "me" / "news" / name).read_bytes()
        assert str(bert_folder).encode() not in content, name
    held = json.loads((root / "models/me/news/adapter/adapter_config.json").read_text())
    assert held["base_model_name_or_path"] == bert_folder.name
    here = json.loads((run.path / "final/adapter/adapter_config.json").read_text())
    assert here["base_model_name_or_path"] == str(bert_folder), "here peft still finds it"


def test_another_kind_of_model_replaces_the_one_before(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news")
        (root / "models/me/news/picture.png").write_bytes(b"of the owner")
        push(run.path, "me/news", what="adapter")
    on_hub = digest(root / "models" / "me" / "news").keys()
    assert "adapter_model.safetensors" in on_hub
    assert "model.safetensors" not in on_hub
    assert "picture.png" in on_hub


def test_licence_is_that_of_the_push(run: finetune.Run, root: Path) -> None:
    with hub(root):
        push(run.path, "me/news", license="apache-2.0")
    card = ModelCard((root / "models/me/news/README.md").read_text())
    assert card.data.license == "apache-2.0"
    assert "# me/news" in card.text


# ---- no secrets


@contextmanager
def logged_in(way: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The token in one of the places where a user may have it; what `push` is given beside."""
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
def test_token_reaches_the_hub_and_nothing_else(
    way: str,
    run: finetune.Run,
    root: Path,
    tmp_path: Path,
    naps: list[float],
    capfd: pytest.CaptureFixture[str],
) -> None:
    faults = Fault("create", 500, times=9), Fault("/resolve/", 403, times=1)
    with serve_hub(root, *faults) as address, at(address, root), logged_in(way, tmp_path) as given:
        said = ""
        for _ in range(3):  # refused, then taken
            try:
                push(run.path, "me/news", **given)
            except HubError as error:
                said += "".join(traceback.format_exception(error))
        with contextlib.suppress(ModelError):
            finetune.load("me/news", **given)
        push(run.path, "me/news", dry_run=True, **given)
    sent = {seen["authorization"] for seen in written(root) if "/large/" not in seen["path"]}
    assert sent == {f"Bearer {TOKEN}"}
    assert "did not take the model" in said
    captured = capfd.readouterr()
    assert TOKEN not in said + captured.out + captured.err
    for folder in (run.path, root / "models"):
        for name in digest(folder):
            assert TOKEN.encode() not in (folder / name).read_bytes(), name


# ---- output.hub


def words(run: finetune.Run, bert_folder: Path, news_csv: Path, *more: str) -> list[str]:
    said = ["train", "task=text-classification", f"model={bert_folder}", "method=lora", "epochs=1"]
    return [*said, f"data={news_csv}", f"output={run.path}", *more]


def test_run_is_pushed_when_it_ends_and_again_by_the_same_command(
    run: finetune.Run,
    root: Path,
    bert_folder: Path,
    news_csv: Path,
    naps: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = digest(run.path)
    asked = words(run, bert_folder, news_csv, "output.hub=me/news")
    with hub(root, Fault("commit", 403)):
        assert command(*asked) == 3, "trained, but not pushed"
    captured = capsys.readouterr()
    assert f"Later: finetune push {run.path} me/news" in captured.err
    assert "accuracy" in captured.out, "the results come first"
    assert TOKEN not in captured.err
    with hub(root):
        assert command(*asked) == 0
        assert finetune.load("me/news")(ROWS) == run.predict(ROWS)
    assert digest(run.path) == before


def test_what_is_no_place_on_a_hub_is_refused_before_training(
    run: finetune.Run, bert_folder: Path, news_csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("news", "a/b/c", "me/my news", "me/.."):
        assert command(*words(run, bert_folder, news_csv, f"output.hub={place}")) == 2
        assert "write OWNER/NAME" in capsys.readouterr().err
    assert command(*words(run, bert_folder, news_csv, f"output.hub={TOKEN}")) == 2
    assert TOKEN not in capsys.readouterr().err
