"""Thresholds and prediction sets of finished runs: learned, saved, predicted, evaluated, refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import finetune
from finetune.errors import ConfigError, FinetuneError
from tests.support.command_line import finetune as run_command
from tests.support.tiny_models import LABELS, text_rows


@pytest.fixture(scope="module")
def single(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> finetune.Run:
    """A run with one label a row, whose validation split has 30 rows."""
    rows, folder = text_rows(90), tmp_path_factory.mktemp("single") / "run"
    data = {"train": rows[:30], "validation": rows[30:60], "test": rows[60:]}
    return finetune.train(
        "text-classification", data=data, model=str(bert_folder), epochs=1, output=str(folder)
    )


def test_run_measures_prediction_sets_on_its_test_split(single: finetune.Run) -> None:
    sets = json.loads((single.path / "results.json").read_text())["decisions"]["sets"]
    assert [each["coverage"] for each in sets if not each["by_label"]] == [0.8, 0.9, 0.95]
    assert all(each["split"] == "test" and 0 <= each["measured"][0] <= 1 for each in sets)
    card = (single.path / "final" / "README.md").read_text()
    assert "| 0.9 of each label | test |" in card


def test_run_predicts_and_evaluates_with_coverage(single: finetune.Run) -> None:
    rows = text_rows(40, seed=5)  # none of those that set the thresholds, at which rounding decides
    sets = [set(each["set"]) for each in single.predict(rows, coverage=0.9)]
    labels = {row["label"] for row in rows}
    assert all(each <= labels for each in sets)
    metrics = single.evaluate(rows, coverage=0.9)
    hits = [row["label"] in each for row, each in zip(rows, sets, strict=True)]
    assert metrics["coverage"] == pytest.approx(sum(hits) / len(hits))
    assert metrics["set_size"] == pytest.approx(sum(map(len, sets)) / len(sets))
    assert "set" not in single.predict(rows[:1])[0]


def test_predict_writes_sets_and_counts_undecided_rows(
    single: finetune.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, table = text_rows(20), tmp_path / "sets.jsonl"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [str(single.path), str(tmp_path / "rows.jsonl"), "-o", str(table)]
    assert run_command("predict", *words, "--coverage", "0.95", "--class-conditional") == 0
    sets = [json.loads(line)["predicted_set"] for line in table.read_text().splitlines()]
    undecided = sum(len(each) > 1 for each in sets)
    assert f"{undecided} of 20 rows: several labels in the set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"class_conditional": True}, "needs a coverage"),
        ({"coverage": 1.5}, "less than 1"),
        ({"threshold": "auto"}, "applies to models of several labels"),
    ],
)
def test_run_refuses_keys_without_a_meaning(
    single: finetune.Run, keys: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        single.predict(text_rows(2), **keys)


def test_run_without_a_validation_split_has_no_sets(bert_folder: Path, tmp_path: Path) -> None:
    run = finetune.train(
        "text-classification",
        data=text_rows(20),
        validation=0,
        model=str(bert_folder),
        epochs=1,
        output=str(tmp_path / "run"),
    )
    with pytest.raises(ConfigError, match="finetune calibrate"):
        run.predict(text_rows(2), coverage=0.9)


def test_train_learns_a_threshold_per_label(bert_folder: Path, tmp_path: Path) -> None:
    # A third of the rows has a label, whatever the text: at 0.5, hardly any is predicted.
    rng = random.Random(0)
    rows = [
        {"text": row["text"], "label": [name for name in LABELS if rng.random() < 1 / 3]}
        for row in text_rows(150)
    ]
    data = {"train": rows[:30], "validation": rows[30:90], "test": rows[90:]}
    task = {"name": "text-classification", "threshold": "auto"}
    keys = {"method": {"name": "frozen", "solver": "exact"}, "output": str(tmp_path / "run")}
    run = finetune.train(task, data=data, model=str(bert_folder), **keys)
    facts = json.loads((run.path / "results.json").read_text())["decisions"]
    assert set(facts["thresholds"]) == set(LABELS)
    learned, usual = run.evaluate(rows[90:]), run.evaluate(rows[90:], threshold=0.5)
    assert run.metrics["test"]["f1_micro"] == pytest.approx(learned["f1_micro"])
    assert learned["f1_micro"] > usual["f1_micro"]
    assert "| label | threshold |" in (run.path / "final" / "README.md").read_text()
    with pytest.raises(ConfigError, match="one label per row"):
        run.predict(rows[:1], coverage=0.9)


def test_train_refuses_thresholds_without_a_validation_split(
    bert_folder: Path, tmp_path: Path
) -> None:
    rows = [{**row, "label": [row["label"]]} for row in text_rows(20)]
    task = {"name": "text-classification", "threshold": "auto"}
    keys = {"model": str(bert_folder), "output": str(tmp_path / "run")}
    with pytest.raises(FinetuneError, match="threshold=auto: is learned from a validation split"):
        finetune.train(task, data=rows, validation=0, **keys)
    with pytest.raises(FinetuneError, match="coverage: for predictions"):
        finetune.train({"name": "text-classification", "coverage": 0.9}, data=text_rows(20), **keys)
