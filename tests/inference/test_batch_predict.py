"""`finetune predict`: every row gets its own prediction, and keeps its columns."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune.errors import ConfigError
from finetune.inference.predictor import load
from tests.support.command_line import finetune, launch
from tests.support.tiny_models import text_rows

ROWS = [{"id": place, **row} for place, row in enumerate(text_rows(11, seed=5))]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """11 rows with the columns id, text and label."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def expected(finished_run: Path) -> list[dict[str, Any]]:
    """What the model says in Python."""
    return load(finished_run, device="cpu")([row["text"] for row in ROWS])


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_are_kept_and_predictions_are_those_of_python(
    suffix: str,
    finished_run: Path,
    table: Path,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.setattr(
        "finetune.inference.batch_predict.WINDOW", 4
    )  # several windows, the last one incomplete
    output = table.parent / "deep" / f"predictions.{suffix}"
    assert finetune("predict", finished_run, table, "-o", output, "--batch-size", "3") == 0
    rows = read(output)
    assert list(rows[0]) == ["id", "text", "label", "predicted_label", "predicted_score"]
    assert [(int(row["id"]), row["text"], row["label"]) for row in rows] == [
        (row["id"], row["text"], row["label"]) for row in ROWS
    ]
    assert [row["predicted_label"] for row in rows] == [said["label"] for said in expected]
    scores = [float(row["predicted_score"]) for row in rows]
    assert scores == pytest.approx([said["score"] for said in expected], abs=1e-6)
    captured = capsys.readouterr()
    assert "predictions are in predicted_label, predicted_score" in captured.err
    assert captured.out == ""


def test_probability_of_every_label_has_a_column(
    finished_run: Path, table: Path, expected: list[dict[str, Any]]
) -> None:
    output = table.with_name("scores.csv")
    assert finetune("predict", finished_run, table, "-o", output, "scores=all") == 0
    for row, said in zip(read(output), expected, strict=True):
        scores = {
            key.partition("/")[2]: float(value)
            for key, value in row.items()
            if key.startswith("predicted_score/")
        }
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert max(scores, key=scores.__getitem__) == row["predicted_label"] == said["label"]
        assert scores[said["label"]] == pytest.approx(said["score"], abs=1e-6)


def test_predictions_in_bf16_are_rounded_and_those_after_them_are_not(
    finished_run: Path, table: Path, expected: list[dict[str, Any]]
) -> None:
    texts = [row["text"] for row in ROWS]
    predictor = load(finished_run, device="cpu", precision="bf16")
    rounded = [said["score"] for said in predictor(texts)]
    scores = [said["score"] for said in expected]
    assert rounded != scores
    assert rounded == pytest.approx(scores, abs=0.02)
    predictor.precision = "fp32"
    assert predictor(texts) == expected
    output = table.with_name("rounded.jsonl")
    assert finetune("predict", finished_run, table, "-o", output, "--precision", "bf16") == 0
    assert [row["predicted_score"] for row in read(output)] == pytest.approx(rounded, abs=1e-6)


@pytest.mark.parametrize(
    ("precision", "said"), [("fp16", "needs a GPU"), ("float16", "choose from: bf16, fp16, fp32")]
)
def test_precision_that_there_is_not_is_refused(
    precision: str, said: str, finished_run: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(finished_run, device="cpu", precision=precision)


def test_labels_that_training_never_saw_do_not_stop_a_prediction(
    finished_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("text;label\nshares fell;cooking\nthe match;\n")
    words = [tmp_path / "rows.csv", "delimiter=;", "-o", tmp_path / "out.csv"]
    assert finetune("predict", finished_run, *words) == 0
    assert [row["label"] for row in read(tmp_path / "out.csv")] == ["cooking", ""]


def test_rows_without_text_are_listed_and_nothing_is_written(
    finished_run: Path, tmp_path: Path, capsys: Any
) -> None:
    rows = [{"text": "shares"}, {"text": None}, {"text": "match"}, {"text": "  "}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [finished_run, tmp_path / "rows.jsonl", "-o", tmp_path / "out.csv"]
    assert finetune("predict", *words) == 2
    message = capsys.readouterr().err
    assert "row 2: text is None, not text" in message
    assert "row 4: text is empty" in message
    assert not (tmp_path / "out.csv").exists()
    assert finetune("predict", *words, "on_error=skip") == 0
    assert [row["text"] for row in read(tmp_path / "out.csv")] == ["shares", "match"]
    assert "2 of 4 rows left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            ["tekst.csv"],
            "has no column 'text', which the model was trained on; did you mean 'tekst'",
        ),
        (["tekst.csv", "-o", "tekst.csv"], "is the file that is read"),
        (["tekst.csv", "-o", "out.xlsx"], "choose from: .csv"),
        (["tekst.csv", "limit=many"], "data.limit: 'many'"),
        (["test.csv"], "did you mean 'tekst.csv'"),
    ],
)
def test_faults_are_answered_with_a_remedy(
    words: list[str],
    remedy: str,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tekst.csv").write_text("tekst,label\nshares,tech\n")
    assert finetune("predict", finished_run, *words) == 2
    assert remedy in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tekst.csv"]


@pytest.mark.slow
def test_several_processes_write_what_one_does(
    finished_run: Path, table: Path, tmp_path: Path
) -> None:
    """Windows of 4 rows, so that each process has several, and the last one is incomplete."""
    script = "import finetune.inference.batch_predict, finetune.cli.main; finetune.inference.batch_predict.WINDOW = 4; finetune.cli.main.main()"
    for processes in (1, 2):
        words = ["predict", str(finished_run), str(table), "--batch-size", "3"]
        launch(script, processes, *words, "-o", str(tmp_path / f"{processes}.jsonl"))
    one, two = (read(tmp_path / f"{processes}.jsonl") for processes in (1, 2))
    assert [row["id"] for row in two] == [row["id"] for row in ROWS]
    scores = [[row.pop("predicted_score") for row in rows] for rows in (one, two)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert one == two


def test_standard_input_is_not_for_several_processes(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    state = SimpleNamespace(is_main_process=True, num_processes=2)
    monkeypatch.setattr("finetune.inference.batch_predict.this_process", lambda: state)
    assert finetune("predict", finished_run) == 2
    assert "read by one process" in capsys.readouterr().err


# ---- the standard input


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_standard_input_is_one_text_a_line(
    finished_run: Path,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    content = "\ufeff" + "\r\n".join(row["text"] for row in ROWS)
    type_in(monkeypatch, content.encode())
    assert finetune("predict", finished_run, "-") == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [row["label"] for row in rows] == [said["label"] for said in expected]
    assert captured.err == ""


def test_a_line_that_cannot_be_predicted_is_named(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    type_in(monkeypatch, b"shares\n\nmatch\n")
    assert finetune("predict", finished_run) == 2
    assert "standard input, line 2: text is empty" in capsys.readouterr().err
    type_in(monkeypatch, b"shares\n\nmatch\n")
    assert finetune("predict", finished_run, "on_error=skip") == 0
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "1 line left out" in captured.err
    type_in(monkeypatch, "Aktien für alle\n".encode("cp1252"))
    assert finetune("predict", finished_run) == 2
    assert "line 1: is not utf-8; write encoding=cp1252" in capsys.readouterr().err
    type_in(monkeypatch, "Aktien für alle\n".encode("cp1252"))
    assert finetune("predict", finished_run, "encoding=cp1252") == 0
    assert "für" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict", "1 of 12 rows are longer than the model reads: they were cut"),
        ("evaluate", "1 of 12 rows are cut to "),
        ("embed", "1 of 12 rows are longer than the network reads: they were cut"),
    ],
)
def test_rows_that_are_cut_are_counted(
    command: str,
    said: str,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = {"text": "shares fell " * 200, "label": ROWS[0]["label"]}
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, long]))
    output = ["-o", tmp_path / "vectors.parquet"] if command == "embed" else []
    assert finetune(command, finished_run, table, *output) == 0
    assert said in "".join(capsys.readouterr())
