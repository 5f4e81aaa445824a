"""predictions.csv and the other reports of training and of `finetune evaluate`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import finetune
from finetune.errors import DataError
from finetune.inference.predictor import load
from finetune.inference.split_reports import write_outcomes
from finetune.tables.faults import RowNumber
from finetune.task_parts.views import Outcome
from tests.support.command_line import finetune as command
from tests.support.tiny_models import text_rows


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, into which reports may be written."""
    ignored = shutil.ignore_patterns("evaluate")  # reports of other tests
    return Path(shutil.copytree(finished_run, tmp_path / "run", ignore=ignored))


def test_training_writes_its_predictions_with_confident_mistakes_first(
    finished_run: Path, held_csv: Path
) -> None:
    lines = read(finished_run / "reports" / "validation" / "predictions.csv")
    assert list(lines[0]) == ["row", "true", "predicted", "probability", "text"]
    source = list(csv.DictReader(held_csv.open(newline="")))
    assert sorted(int(line["row"]) for line in lines) == list(range(1, len(source) + 1))
    predictions = load(finished_run, device="cpu")([row["text"] for row in source])
    for line in lines:
        index = int(line["row"]) - 1
        assert (line["text"], line["true"]) == (source[index]["text"], source[index]["label"])
        assert line["predicted"] == predictions[index]["label"]
        assert float(line["probability"]) == pytest.approx(predictions[index]["score"], abs=1e-5)
    wrong = [line["true"] != line["predicted"] for line in lines]
    assert wrong == sorted(wrong, reverse=True)
    doubts = [-float(line["probability"]) for line in lines if line["true"] != line["predicted"]]
    assert doubts == sorted(doubts)


def test_training_lists_the_largest_errors_of_numbers_first(
    bert_folder: Path, tmp_path: Path
) -> None:
    rows = [{"text": row["text"], "label": n + 0.06} for n, row in enumerate(text_rows(24))]
    finetune.train(
        "text-classification",
        data={"train": rows, "test": rows[:9]},
        model=str(bert_folder),
        output=str(tmp_path / "run"),
        kind="number",
        epochs=1,
        validation=0,
    )
    folder = tmp_path / "run" / "reports" / "test"
    lines = read(folder / "predictions.csv")
    errors = [float(line["error"]) for line in lines]
    assert len(lines) == 9
    assert errors == pytest.approx(
        [float(line["predicted"]) - float(line["true"]) for line in lines]
    )
    assert [abs(error) for error in errors] == sorted(map(abs, errors), reverse=True)
    assert {line["true"] for line in lines} == {f"{n}.06" for n in range(9)}
    assert (folder / "scatter.png").is_file()


def test_write_outcomes_keeps_its_columns_apart_from_those_of_the_input(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"row": "a", "image": b"1"}, {"row": "b", "image": b"2"}])
    outcomes = [Outcome({"true": 1}, 0.0), Outcome({"true": 2}, 1.0)]
    path = tmp_path / "predictions.csv"
    write_outcomes(path, outcomes, rows, [4, 7], ["row", "image", "file"])
    assert read(path) == [
        {"row": "7", "true": "2", "input_row": "b"},
        {"row": "4", "true": "1", "input_row": "a"},
    ]


def test_write_outcomes_names_the_file_where_there_are_several(tmp_path: Path) -> None:
    rows = Dataset.from_list([{"text": "a"}, {"text": "b"}])
    outcomes = [Outcome({"true": 1}, 1.0), Outcome({"true": 2}, 0.0)]
    path = tmp_path / "predictions.csv"
    numbers = [RowNumber(4, "a.csv row 4"), RowNumber(7, "b.csv row 2")]
    write_outcomes(path, outcomes, rows, numbers, ["text", "file"])
    assert read(path) == [
        {"row": "4", "true": "1", "text": "a", "file": "a.csv row 4"},
        {"row": "7", "true": "2", "text": "b", "file": "b.csv row 2"},
    ]


# ---- evaluate


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """12 rows with a source; the second has no text."""
    rows = [{**row, "source": "ab"[n % 2]} for n, row in enumerate(text_rows(12, seed=5))]
    rows[1]["text"] = ""
    path = tmp_path / "more rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_evaluate_writes_reports_into_those_of_the_run(run: Path, table: Path) -> None:
    before = (run / "reports" / "validation" / "predictions.csv").read_bytes()
    assert command("evaluate", run, table, "on_error=skip") == 0
    folder = run / "reports" / "evaluate" / "more-rows"
    assert (folder / "confusion.csv").is_file()
    numbers = {int(line["row"]) for line in read(folder / "predictions.csv")}
    assert numbers == {1, *range(3, 13)}  # as in the file, also after a skipped row
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == pytest.approx(finetune.evaluate(run, str(table), on_error="skip"))
    assert (run / "reports" / "validation" / "predictions.csv").read_bytes() == before


def test_evaluate_splits_the_metrics_by_a_column(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", run, table, "on_error=skip"]
    assert command(*words, "by=source", "-o", tmp_path / "report") == 0
    assert "by source" in capsys.readouterr().out
    results = json.loads((tmp_path / "report" / "metrics.json").read_text())
    groups: dict[str, dict[str, Any]] = results["by"]["source"]
    assert {name: group["rows"] for name, group in groups.items()} == {"a": 6, "b": 5}
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    of_a = [row for row in rows if row["source"] == "a"]
    assert groups["a"]["accuracy"] == finetune.evaluate(run, of_a)["accuracy"]
    assert not (run / "reports" / "evaluate").exists()
    assert command(*words, "by=sauce") == 2
    assert "by=sauce: no such column; did you mean 'source'" in capsys.readouterr().err


def test_evaluate_writes_metrics_alone_to_a_json_file(
    run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", run, table, "on_error=skip", "-o"]
    assert command(*words, tmp_path / "metrics.json") == 0
    assert "accuracy" in json.loads((tmp_path / "metrics.json").read_text())
    assert not (run / "reports" / "evaluate").exists()
    assert command(*words, tmp_path / "metrics.csv") == 2
    assert "name a .json file for the metrics, or a folder" in capsys.readouterr().err


def test_evaluate_refuses_to_split_by_a_column_of_many_values(run: Path) -> None:
    from finetune.data.source import Source
    from finetune.inference.evaluate import evaluate_source
    from finetune.reporting.console import Console

    rows = [{**row, "id": n} for n, row in enumerate(text_rows(250))]
    with pytest.raises(DataError, match="by=id: has 250 values"):
        evaluate_source(str(run), Source(rows), Console(enabled=False), 32, "id")
