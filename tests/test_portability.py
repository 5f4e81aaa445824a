"""Portability to Windows, as far as it can be tested on other systems."""

from __future__ import annotations

import ast
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import pytest
from datasets import Dataset

from finetune import registry
from finetune.batching.data_loader import _Batches, measure_split
from finetune.batching.plan import MicroBatch
from finetune.config.loading import load_config
from finetune.config.schema import ModelConfig, TaskConfig
from finetune.distributed.signals import Signals
from finetune.errors import ConfigError, DataError, ModelError
from finetune.io import files, run_identity
from finetune.io.references import locate, resolve_model
from finetune.registry import INSTALLED
from tasks import TextClassification
from tests.support.contract import resolve
from tests.support.tiny_models import text_rows

PATHS = [r"C:\data\news.csv", "C:/data/news.csv", r"D:\news", r"data\news", r"\\server\share\news"]


@pytest.mark.parametrize("path", PATHS)
def test_windows_path_is_not_taken_for_a_hub_id(path: str) -> None:
    """On this system the path does not exist, and the error must say just that."""
    with pytest.raises(DataError, match="no such file or folder"):
        locate(path)
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve_model(path)


@pytest.mark.parametrize("path", PATHS)
def test_windows_path_survives_overrides_and_yaml(path: str, tmp_path: Path) -> None:
    words = ["task=text-classification", f"model={path}", f"data={path}", f"output={path}"]
    loaded = load_config(None, words, replace(INSTALLED, task=lambda _: TaskConfig))
    assert loaded.config.data.source == path
    assert loaded.config.model.name == path
    assert loaded.config.output.dir == path
    written = tmp_path / "news.yaml"
    written.write_text(
        f"task: text-classification\nmodel: {path}\ndata: {path}\n", encoding="utf-8"
    )
    loaded = load_config(written, [], replace(INSTALLED, task=lambda _: TaskConfig))
    assert loaded.config.data.source == path
    assert loaded.config.model.name == path


def test_find_object_accepts_a_windows_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []

    def fake_import(name: str, _: str) -> type:
        imported.append(name)
        return type("module", (), {"shout": len})

    monkeypatch.setattr(registry, "_import", fake_import)
    assert registry.find_object(r"C:\kit\rows.py:shout", "data.map") is len
    assert imported == [r"C:\kit\rows.py"]
    with pytest.raises(ConfigError, match=r"no function name in .*; write file.py:function"):
        registry.find_object(r"C:\kit\rows.py", "data.map")
    with pytest.raises(ConfigError, match=r"no class name in .*; write file.py:Class"):
        registry.find_task(r"C:\kit\tagging.py")


@pytest.mark.parametrize(
    ("reference", "word"),
    [
        (r"C:\data\news.csv", "news"),
        (r"C:\models\bert-base", "bert-base"),
        ("pkg://corpus/bbcnews/data", "bbcnews"),
        ("owner/model:latest", "model-latest"),
        ("photos/*.jpg", "-"),
    ],
)
def test_run_folder_name_is_valid_on_windows(
    reference: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_identity, "Path", PureWindowsPath)
    assert run_identity.short_name(reference) == word


def test_sync_skips_folders_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(files, "os", _Windows(synced))
    files.sync_to_disk(tmp_path)
    assert not synced
    (tmp_path / "file").write_bytes(b"x")
    files.sync_to_disk(tmp_path / "file")
    assert len(synced) == 1


class _Windows:
    """A fake `os` in which fsync needs a file opened for writing, and folders cannot be opened."""

    name = "nt"

    def __init__(self, synced: list[int]) -> None:
        self._os, self._synced = os, synced
        self.O_RDONLY, self.O_RDWR, self.close = os.O_RDONLY, os.O_RDWR, os.close

    def open(self, path: Path, flags: int) -> int:
        assert flags == self.O_RDWR
        assert not path.is_dir()
        return self._os.open(path, flags)

    def fsync(self, handle: int) -> None:
        self._synced.append(handle)


def test_signals_treats_sigbreak_as_a_shutdown_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR1 replaces SIGBREAK and is really sent."""
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def test_data_loader_batches_can_be_pickled_for_spawned_workers(bert_folder: Path) -> None:
    """Windows and macOS spawn workers, which receive their state as a pickle."""
    rows = Dataset.from_list(text_rows(6))
    task = TextClassification()
    resolve(task, rows[:])
    source = ModelConfig(name=str(bert_folder))
    task.setup(rows, source, frozen=False)
    task.build_model(source)
    split, _, _ = measure_split("train", rows, task)
    batches = _Batches(split, task, 0, True)
    copy = pickle.loads(pickle.dumps(batches))
    micro_batch = MicroBatch((0, 3), epoch=0)
    ids = [each[micro_batch][1]["inputs"]["input_ids"] for each in (batches, copy)]
    assert ids[0].equal(ids[1])


def test_text_files_are_opened_with_an_explicit_encoding() -> None:
    """The default on Windows is not UTF-8 and would corrupt names and labels."""
    calls, wrong = 0, []
    root = Path(__file__).parent.parent
    for path in [*(root / "finetune").rglob("*.py"), *(root / "tasks").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                calls += 1
                if "encoding" not in {keyword.arg for keyword in node.keywords}:
                    wrong.append(f"{path.relative_to(root)}:{node.lineno}: {ast.unparse(node)}")
    assert calls > 20, "hardly any call was found: the parsing is broken"
    assert not wrong


def _opens_text(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name.endswith((".read_text", ".write_text")):
        return True
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    is_open = name == "open" or (name.endswith(".open") and name != "os.open")
    is_file = name == "open" or not call.args or modes
    return is_open and bool(is_file) and not any("b" in mode for mode in modes)
