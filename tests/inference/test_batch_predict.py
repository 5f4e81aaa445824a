"""`finetune predict`: each row keeps its columns and gets its prediction."""

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

ROWS = [{"id": number, **row} for number, row in enumerate(text_rows(11, seed=5))]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """11 rows with the columns id, text and label."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def expected(finished_run: Path) -> list[dict[str, Any]]:
    """Predictions of the model in Python."""
    return load(finished_run, device="cpu")([row["text"] for row in ROWS])


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".parquet":
        return pa.parquet.read_table(path).to_pylist()
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_keeps_columns_and_equals_python(
    suffix: str,
    finished_run: Path,
    table: Path,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    # Several windows, the last one incomplete.
    monkeypatch.setattr("finetune.inference.batch_predict.WINDOW", 4)
    output = table.parent / "deep" / f"predictions.{suffix}"
    assert finetune("predict", finished_run, table, "-o", output, "--batch-size", "3") == 0
    rows = read(output)
    names = ["row", "id", "text", "label", "predicted_label", "predicted_score", "error"]
    assert list(rows[0]) == names
    assert [int(row["row"]) for row in rows] == list(range(1, 12))
    assert not any(row["error"] for row in rows)
    assert [(int(row["id"]), row["text"], row["label"]) for row in rows] == [
        (row["id"], row["text"], row["label"]) for row in ROWS
    ]
    assert [row["predicted_label"] for row in rows] == [
        prediction["label"] for prediction in expected
    ]
    scores = [float(row["predicted_score"]) for row in rows]
    assert scores == pytest.approx([prediction["score"] for prediction in expected], abs=1e-6)
    assert capsys.readouterr().out == ""


def test_predict_writes_a_column_per_label_score(
    finished_run: Path, table: Path, expected: list[dict[str, Any]]
) -> None:
    output = table.with_name("scores.csv")
    assert finetune("predict", finished_run, table, "-o", output, "scores=all") == 0
    for row, prediction in zip(read(output), expected, strict=True):
        scores = {
            key.partition("/")[2]: float(value)
            for key, value in row.items()
            if key.startswith("predicted_score/")
        }
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert max(scores, key=scores.__getitem__) == row["predicted_label"]
        assert row["predicted_label"] == prediction["label"]
        assert scores[prediction["label"]] == pytest.approx(prediction["score"], abs=1e-6)


def test_predict_in_bf16_rounds_and_leaves_fp32_unchanged(
    finished_run: Path, table: Path, expected: list[dict[str, Any]]
) -> None:
    texts = [row["text"] for row in ROWS]
    predictor = load(finished_run, device="cpu", precision="bf16")
    rounded = [prediction["score"] for prediction in predictor(texts)]
    scores = [prediction["score"] for prediction in expected]
    assert rounded != scores
    assert rounded == pytest.approx(scores, abs=0.02)
    predictor.precision = "fp32"
    assert predictor(texts) == expected
    output = table.with_name("rounded.jsonl")
    assert finetune("predict", finished_run, table, "-o", output, "--precision", "bf16") == 0
    assert [row["predicted_score"] for row in read(output)] == pytest.approx(rounded, abs=1e-6)


@pytest.mark.parametrize(
    ("precision", "message"),
    [("fp16", "needs a GPU"), ("float16", "choose from: bf16, fp16, fp32")],
)
def test_load_rejects_unsupported_precision(
    precision: str, message: str, finished_run: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        load(finished_run, device="cpu", precision=precision)


def test_predict_accepts_unseen_labels(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text;label\nshares fell;cooking\nthe match;\n")
    words = [tmp_path / "rows.csv", "delimiter=;", "-o", tmp_path / "out.csv"]
    assert finetune("predict", finished_run, *words) == 0
    assert [row["label"] for row in read(tmp_path / "out.csv")] == ["cooking", ""]


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Four rows; the first and the last cannot be predicted."""
    rows = [{"text": None}, {"text": "shares"}, {"text": "match"}, {"text": "  "}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_gives_a_row_for_each_row_with_the_reason_in_place_of_a_prediction(
    suffix: str,
    finished_run: Path,
    faulty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The first window has no prediction that would name the columns.
    monkeypatch.setattr("finetune.inference.batch_predict.WINDOW", 1)
    output = faulty.with_name(f"out.{suffix}")
    assert finetune("predict", finished_run, faulty, "-o", output) == 0
    rows = read(output)
    assert {tuple(row) for row in rows} == {
        ("row", "text", "predicted_label", "predicted_score", "error")
    }
    assert [int(row["row"]) for row in rows] == [1, 2, 3, 4]
    assert [row["error"] or None for row in rows] == [
        "text is None, not text",
        None,
        None,
        "text is empty",
    ]
    assert [bool(row["predicted_label"]) for row in rows] == [False, True, True, False]
    error = capsys.readouterr().err
    assert "2 of 4 rows without a prediction, for the reason in column error: text" in error


def test_predict_of_invalid_rows_alone_gives_these_rows(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": null}\n')
    output = tmp_path / "out.csv"
    assert finetune("predict", finished_run, tmp_path / "rows.jsonl", "-o", output) == 0
    assert [row["error"] for row in read(output)] == ["text is None, not text"]


def test_predict_gives_a_row_for_each_line_that_is_not_one(
    finished_run: Path, tmp_path: Path
) -> None:
    path, output = tmp_path / "rows.csv", tmp_path / "out.csv"
    path.write_text("text,label\none,a\ntwo,a,b\nthree,b\n")
    assert finetune("predict", finished_run, path, "-o", output) == 0
    rows = read(output)
    assert [row["row"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["predicted_label"]) for row in rows] == [True, False, True]
    assert rows[1]["error"].startswith("line 3: 3 cells, but the header has 2")
    assert finetune("predict", finished_run, path, "-o", output, "on_error=skip") == 0
    assert [row["row"] for row in read(output)] == ["1", "3"]
    assert finetune("predict", finished_run, path, "-o", output, "on_error=stop") == 2


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predict_names_its_columns_alike_whatever_the_columns_of_the_input(
    suffix: str, finished_run: Path, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (table.with_name(f"{name}.{suffix}") for name in ("first", "second"))
    assert finetune("predict", finished_run, table, "-o", first) == 0
    assert finetune("predict", finished_run, first, "-o", second) == 0
    inputs = ["input_row", "id", "text", "label", "input_predicted_label", "input_predicted_score"]
    names = ["row", *inputs, "input_error", "predicted_label", "predicted_score", "error"]
    rows = read(second)
    assert list(rows[0]) == names
    assert [row["predicted_label"] for row in rows] == [
        row["input_predicted_label"] for row in rows
    ]
    assert "row as input_row, predicted_label as input_predicted_label" in capsys.readouterr().err


def test_predict_stops_or_skips_if_asked_to(
    finished_run: Path, faulty: Path, tmp_path: Path, capsys: Any
) -> None:
    words = [finished_run, faulty, "-o", tmp_path / "out.csv"]
    assert finetune("predict", *words, "on_error=stop") == 2
    message = capsys.readouterr().err
    assert "row 1: text is None, not text" in message
    assert "row 4: text is empty" in message
    assert not (tmp_path / "out.csv").exists()
    assert finetune("predict", *words, "on_error=skip") == 0
    rows = [(row["row"], row["text"]) for row in read(tmp_path / "out.csv")]
    assert rows == [("2", "shares"), ("3", "match")]
    assert "2 of 4 rows skipped" in capsys.readouterr().err


def test_predict_numbers_sampled_rows_as_in_the_input(finished_run: Path, table: Path) -> None:
    output = table.with_name("sampled.csv")
    assert finetune("predict", finished_run, table, "-o", output, "limit=4") == 0
    rows = read(output)
    assert [int(row["row"]) - 1 for row in rows] == [int(row["id"]) for row in rows]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            ["tekst.csv"],
            "has no column 'text', which the model was trained on; did you mean 'tekst'",
        ),
        (["tekst.csv", "-o", "tekst.csv"], "is the input file"),
        (["tekst.csv", "-o", "out.xlsx"], "choose from: .csv"),
        (["tekst.csv", "limit=many"], "data.limit: 'many'"),
        (["test.csv"], "did you mean 'tekst.csv'"),
    ],
)
def test_predict_names_the_remedy(
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
def test_predict_does_not_depend_on_the_number_of_processes(
    finished_run: Path, table: Path, tmp_path: Path
) -> None:
    # Windows of 4 rows: each process has several, and the last one is incomplete.
    script = (
        "import finetune.inference.batch_predict as p, finetune.cli.main as c; p.WINDOW = 4; "
        "c.main()"
    )
    for processes in (1, 2):
        words = ["predict", str(finished_run), str(table), "--batch-size", "3"]
        launch(script, processes, *words, "-o", str(tmp_path / f"{processes}.jsonl"))
    one, two = (read(tmp_path / f"{processes}.jsonl") for processes in (1, 2))
    assert [row["id"] for row in two] == [row["id"] for row in ROWS]
    scores = [[row.pop("predicted_score") for row in rows] for rows in (one, two)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert one == two


def test_predict_rejects_standard_input_for_several_processes(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    state = SimpleNamespace(is_main_process=True, num_processes=2)
    monkeypatch.setattr("finetune.inference.batch_predict.this_process", lambda: state)
    assert finetune("predict", finished_run) == 2
    assert "only a single process can read standard input" in capsys.readouterr().err


# ---- standard input


def set_standard_input(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_predict_reads_one_text_per_line_of_standard_input(
    finished_run: Path,
    expected: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    content = "\ufeff" + "\r\n".join(row["text"] for row in ROWS)
    set_standard_input(monkeypatch, content.encode())
    assert finetune("predict", finished_run, "-") == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [row["predicted_label"] for row in rows] == [each["label"] for each in expected]
    assert [row["row"] for row in rows] == list(range(1, 12))
    assert captured.err == ""


def test_predict_names_an_invalid_line_of_standard_input(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    set_standard_input(monkeypatch, b"shares\n\nmatch\n")
    assert finetune("predict", finished_run, "on_error=stop") == 2
    assert "standard input, line 2: text is empty" in capsys.readouterr().err
    set_standard_input(monkeypatch, b"shares\n\nmatch\n")
    assert finetune("predict", finished_run, "on_error=skip") == 0
    captured = capsys.readouterr()
    assert [json.loads(line)["row"] for line in captured.out.splitlines()] == [1, 3]
    assert "standard input: 1 of 3 rows skipped: text is empty (1)" in captured.err
    set_standard_input(monkeypatch, b"shares\n\nmatch\n")
    assert finetune("predict", finished_run) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["error"] for row in rows] == [None, "text is empty", None]
    set_standard_input(monkeypatch, "Aktien für alle\n".encode("cp1252"))
    assert finetune("predict", finished_run, "encoding=utf-8") == 2
    assert "line 1: cannot be decoded as utf-8; set the actual encoding" in capsys.readouterr().err
    for key in ((), ("encoding=cp1252",)):
        set_standard_input(monkeypatch, b"shares\n" + "Aktien für alle\n".encode("cp1252"))
        assert finetune("predict", finished_run, *key) == 0
        captured = capsys.readouterr()
        assert "für" in captured.out
        assert ("standard input: 1 line read as cp1252" in captured.err) == (not key)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("predict", "1 of 12 rows truncated to the maximum length of the model"),
        ("evaluate", "1 of 12 rows are truncated to "),
        ("embed", "1 of 12 rows truncated to the maximum length of the model"),
    ],
)
def test_commands_count_truncated_rows(
    command: str,
    message: str,
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    long = {"text": "shares fell " * 200, "label": ROWS[0]["label"]}
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, long]))
    output = ["-o", tmp_path / "vectors.parquet"] if command == "embed" else []
    assert finetune(command, finished_run, table, *output) == 0
    assert message in "".join(capsys.readouterr())


def test_predict_reads_a_column_of_another_name(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [row["text"] for row in text_rows(3)]
    (tmp_path / "other.csv").write_text("\n".join(["review", *texts, ""]))
    words = ["predict", str(finished_run), str(tmp_path / "other.csv")]
    assert finetune(*words) == 2
    error = capsys.readouterr().err
    assert "no column 'text'" in error and "choose from: review" in error
    assert "name another with task.text=COLUMN" in error
    assert finetune(*words, "task.text=[review,reply]") == 2
    assert "trained on a single text (text), so it needs 1 of the columns" in (
        capsys.readouterr().err
    )
    assert finetune(*words, "task.text=review") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["review"] for row in rows] == texts
    expected = load(finished_run)(texts)
    assert [row["predicted_label"] for row in rows] == [each["label"] for each in expected]
    assert load(finished_run).trained_task.resolved_.text == "text"
