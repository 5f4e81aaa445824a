"""Experiment trackers receive the values of metrics.jsonl; tested with real, local backends."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from finetune.config.loading import load_config
from finetune.config.schema import RunConfig, Tracker
from finetune.errors import ConfigError
from finetune.registry import INSTALLED
from finetune.reporting.trackers import check_trackers, track, track_run
from tests.support.lives import Stop, live, load


def values(folder: Path, split: str, name: str) -> dict[int, float]:
    """{step: value} of a metric in the run's metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if line["split"] == split}


def test_tensorboard_receives_the_values_of_the_history(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    keys = {"method": "frozen", "output.trackers": ["tensorboard"]}
    assert live(load(tmp_path, bert_folder, news_csv, keys)) is not None
    (log_folder,) = {
        path.parent
        for path in (tmp_path / "trackers").rglob("*tfevents*")
        if path.parent.name == "finetune-kit"
    }
    events = accumulators.EventAccumulator(str(log_folder))
    events.Reload()
    for split, name in (("train", "loss"), ("validation", "accuracy")):
        logged = {event.step: event.value for event in events.Scalars(f"{split}/{name}")}
        assert logged == pytest.approx(values(tmp_path, split, name))
        assert len(logged) >= 2


def test_trackers_can_change_when_a_stopped_run_resumes(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    loaded = load(
        tmp_path, bert_folder, news_csv, {"method": "frozen", "output.trackers": ["tensorboard"]}
    )
    assert live(loaded, stop=Stop(3)) is None
    assert list((tmp_path / "trackers").rglob("*tfevents*"))
    # Trackers are not part of a run's identity: a resumed run may use others.
    assert live(load(tmp_path, bert_folder, news_csv, {"method": "frozen"})) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_trackers_with_other_local_backends_receive_the_metrics(
    name: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """Runs in a separate process, since backends read their output path on import."""
    pytest.importorskip(name)
    folder, base = tmp_path / "run", tmp_path / "base.db"
    places = {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": f"sqlite:///{base}",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    words = ["task=text-classification", "method=frozen", f"model={bert_folder}"]
    words += [f"data={news_csv}", "epochs=2", f"output={folder}", f"output.trackers=[{name}]"]
    command = [sys.executable, "-m", "finetune", "train", *words]
    subprocess.run(command, check=True, env={**os.environ, **places})
    accuracies = values(folder, "validation", "accuracy")
    if name == "mlflow":
        with sqlite3.connect(base) as connection:
            rows = connection.execute(
                "select step, value from metrics where key = 'validation/accuracy'"
            )
            assert dict(rows) == pytest.approx(accuracies)
    elif name == "wandb":
        (record,) = folder.rglob("*.wandb")
        assert b"validation/accuracy" in record.read_bytes()
    else:
        (record,) = (tmp_path / "trackio").rglob("finetune-kit.db")
        with sqlite3.connect(record) as connection:
            rows = connection.execute("select step, metrics from metrics")
            logged = {step: json.loads(text) for step, text in rows}
        assert {step: logged[step]["validation/accuracy"] for step in accuracies} == accuracies


def test_check_trackers_rejects_unknown_and_missing_trackers() -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord'.*tensorboard"):
        load_config(None, {"output.trackers": ["tensorbord"]}, INSTALLED)
    assert set(get_args(Tracker)) == {*LOGGER_TYPE_TO_CLASS}
    with pytest.raises(ConfigError, match=r"comet_ml is not installed; run: pip install comet-ml"):
        check_trackers(["comet_ml"])
    assert RunConfig.model_fields["output"].default.trackers == []


def install_fake(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Install a fake module of a tracker that is not installed here."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_check_trackers_names_one_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "swanlab.py").write_text("import missing_part_of_swanlab")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = "swanlab cannot be imported .*missing_part.*pip install --upgrade swanlab"
    with pytest.raises(ConfigError, match=message):
        check_trackers(["swanlab"])


def test_check_trackers_asks_for_a_login_to_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    old = {"login": lambda key=None: True, "api": SimpleNamespace(api_key=None)}
    install_fake(monkeypatch, "wandb", **old)
    with pytest.raises(ConfigError, match="wandb is not logged in; run: wandb login"):
        check_trackers(["wandb"])
    install_fake(monkeypatch, "wandb", login=lambda prompt=True, verify=True: False)
    with pytest.raises(ConfigError, match="wandb is not logged in; run: wandb login"):
        check_trackers(["wandb"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])


def test_check_trackers_does_not_wait_for_a_server_of_mlflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        install_fake(monkeypatch, "mlflow", get_tracking_uri=lambda: address)
        check_trackers(["mlflow"])
    with pytest.raises(ConfigError, match=f"mlflow has no server at 127.0.0.1:{port} "):
        check_trackers(["mlflow"])
    install_fake(monkeypatch, "mlflow", get_tracking_uri=lambda: "sqlite:///local.db")
    check_trackers(["mlflow"])


class Broken(GeneralTracker):
    """A tracker whose backend fails, at its start or later."""

    name = "broken"
    requires_logging_directory = False
    tracker = None
    fails_at = "start"

    def start(self) -> None:
        if self.fails_at == "start":
            raise RuntimeError("no route\nto host")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        raise RuntimeError("connection lost")


def test_tracker_that_does_not_start_is_named(tmp_path: Path) -> None:
    accelerator = Accelerator(cpu=True, log_with=[Broken()])
    with (
        pytest.raises(ConfigError, match=r"did not start \(no route to host\)"),
        track_run(accelerator, tmp_path, {}),
    ):
        pass


def test_tracker_that_fails_later_is_dropped_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "fails_at", "log")
    accelerator = Accelerator(cpu=True, log_with=[Broken()])
    with track_run(accelerator, tmp_path, {"lr": 0.1}):
        note = track(accelerator, "train", 3, {"loss": 1.0})
        assert note.startswith("tracker broken failed (connection lost) at step 3;")
        assert track(accelerator, "train", 4, {"loss": 1.0}) == ""
