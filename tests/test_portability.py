"""Paths and files of Windows, as far as another system can tell: by strings, by PureWindowsPath and by the source."""

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
from finetune.batching.data_loader import _Batches, measured_split
from finetune.batching.plan import MicroBatch
from finetune.config.loading import load_config
from finetune.config.schema import ModelConfig, TaskConfig
from finetune.distributed.signals import Signals
from finetune.errors import ConfigError, DataError, ModelError
from finetune.io import files
from finetune.io.references import locate, resolve_model
from finetune.registry import INSTALLED
from finetune.training import run
from tasks import TextClassification
from tests.support.contract import resolve
from tests.support.tiny_models import text_rows

PATHS = [r"C:\data\news.csv", "C:/data/news.csv", r"D:\news", r"data\news", r"\\server\share\news"]


@pytest.mark.parametrize("path", PATHS)
def test_path_of_windows_is_no_address_and_no_hub_id(path: str) -> None:
    """A real one is found by Windows itself; here it is a path that leads nowhere."""
    with pytest.raises(DataError, match="no such file or folder"):
        locate(path)
    with pytest.raises(ModelError, match="no such file or folder"):
        resolve_model(path)


@pytest.mark.parametrize("path", PATHS)
def test_path_of_windows_survives_the_command_line_and_yaml(path: str, tmp_path: Path) -> None:
    usual = ["task=text-classification", "model=" + path]
    loaded = load_config(
        None,
        [*usual, f"data={path}", f"output={path}"],
        replace(INSTALLED, task=lambda _: TaskConfig),
    )
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


def test_drive_is_no_module(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def importing(name: str, _: str) -> type:
        asked.append(name)
        return type("module", (), {"shout": len})

    monkeypatch.setattr(registry, "_import", importing)
    assert registry.find_object(r"C:\kit\rows.py:shout", "data.map") is len
    assert asked == [r"C:\kit\rows.py"]
    with pytest.raises(ConfigError, match=r"names nothing; write file.py:function"):
        registry.find_object(r"C:\kit\rows.py", "data.map")
    with pytest.raises(ConfigError, match=r"names no class; write file.py:Class"):
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
def test_folder_of_a_run_has_a_name_that_windows_takes(
    reference: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "Path", PureWindowsPath)
    assert run._last_word(reference) == word


def test_folders_are_not_synced_where_that_is_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the system is pretended."""
    synced: list[int] = []
    monkeypatch.setattr(files, "os", _Windows(synced))
    files.sync(tmp_path)
    assert not synced
    (tmp_path / "file").write_bytes(b"x")
    files.sync(tmp_path / "file")
    assert len(synced) == 1


class _Windows:
    """The module `os`, where a file must be open for writing to be synced, and a folder cannot be opened."""

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


def test_break_of_windows_is_an_order_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another signal stands for SIGBREAK; it is really sent."""
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before


def test_worker_can_be_spawned(bert_folder: Path) -> None:
    """Windows and macOS start workers anew, which get what they need as a pickle."""
    rows = Dataset.from_list(text_rows(6))
    task = TextClassification()
    resolve(task, rows[:])
    source = ModelConfig(name=str(bert_folder))
    task.setup(rows, source, frozen=False)
    task.build_model(source)
    split, _, _ = measured_split("train", rows, task)
    batches = _Batches(split, task, 0, True)
    again = pickle.loads(pickle.dumps(batches))
    micro_batch = MicroBatch((0, 3), epoch=0)
    ids = [each[micro_batch][1]["inputs"]["input_ids"] for each in (batches, again)]
    assert ids[0].equal(ids[1])


def test_text_is_read_and_written_in_one_encoding() -> None:
    """That of Windows is another by default, and spoils names and labels."""
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
