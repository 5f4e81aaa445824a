"""Trackers get what metrics.jsonl gets, by their real backends, which write into files here."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError
from finetune.reporting.trackers import check_trackers
from tests.support.lives import Stop, live, load


def values(folder: Path, split: str, name: str) -> dict[int, float]:
    """{step: value} of a metric, as the run's own history has it."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if line["split"] == split}


def test_tensorboard_shows_what_the_history_holds(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    keys = {"method": "frozen", "output.trackers": ["tensorboard"]}
    assert live(load(tmp_path, bert_folder, news_csv, keys)) is not None
    (place,) = {
        path.parent
        for path in (tmp_path / "trackers").rglob("*tfevents*")
        if path.parent.name == "finetune-kit"
    }
    events = accumulators.EventAccumulator(str(place))
    events.Reload()
    for split, name in (("train", "loss"), ("validation", "accuracy")):
        shown = {event.step: event.value for event in events.Scalars(f"{split}/{name}")}
        assert shown == pytest.approx(values(tmp_path, split, name))
        assert len(shown) >= 2


def test_stopped_run_leaves_a_whole_record(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    loaded = load(
        tmp_path, bert_folder, news_csv, {"method": "frozen", "output.trackers": ["tensorboard"]}
    )
    assert live(loaded, stop=Stop(3)) is None
    assert list((tmp_path / "trackers").rglob("*tfevents*"))
    # A tracker is no part of what a run is: it may change when the run goes on.
    assert live(load(tmp_path, bert_folder, news_csv, {"method": "frozen"})) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlflow", "wandb", "trackio"])
def test_other_local_backends_take_a_run(
    name: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """In a process of its own: backends read where to write when they are imported."""
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
            found = connection.execute(
                "select step, value from metrics where key = 'validation/accuracy'"
            )
            assert dict(found) == pytest.approx(accuracies)
    elif name == "wandb":
        (record,) = folder.rglob("*.wandb")
        assert b"validation/accuracy" in record.read_bytes()
    else:
        (record,) = (tmp_path / "trackio").rglob("finetune-kit.db")
        with sqlite3.connect(record) as connection:
            found = connection.execute("select step, metrics from metrics")
            told = {step: json.loads(text) for step, text in found}
        assert {step: told[step]["validation/accuracy"] for step in accuracies} == accuracies


def test_tracker_that_is_unknown_or_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"'tensorbord' is no tracker.*tensorboard"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(ConfigError, match=r"comet_ml is not installed; run: pip install comet-ml"):
        check_trackers(["comet_ml"])
    assert RunConfig.model_fields["output"].default.trackers == []
