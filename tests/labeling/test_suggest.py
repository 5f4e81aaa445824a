"""`finetune suggest`: from a pool to a sheet, and back to the training rows."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.labeling.suggest import suggest
from tasks import ImageClassification
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows
from tests.support.tiny_vision import shape_folder, tiny_timm


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """60 texts of which the run knows 30 from training, and the first new one twice."""
    known, new = text_rows(50)[:30], text_rows(30, seed=7)
    return write(tmp_path / "pool.csv", [{"text": row["text"]} for row in [*known, *new, new[0]]])


def test_suggest_by_a_run_writes_a_sheet_whose_answers_join_the_training_rows(
    finished_run: Path,
    pool: Path,
    news_csv: Path,
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sheet = tmp_path / "to_label.csv"
    assert finetune("suggest", finished_run, pool, "-n", 8, "-o", sheet) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "8 rows of 30 without a label" in output
    again = f"finetune train {finished_run}/config.yaml data.answers={sheet} output={finished_run}"
    assert f"fill in the column label, then run: {again}-next" in output
    lines = read(sheet)
    assert list(lines[0]) == ["row", "suggested_label", "uncertainty", "label", "text"]
    texts = [row["text"] for row in read(pool)]
    assert all(texts[int(line["row"]) - 1] == line["text"] for line in lines)
    assert {int(line["row"]) for line in lines} <= {*range(31, 61)}
    uncertainty = [float(line["uncertainty"]) for line in lines]
    assert uncertainty == sorted(uncertainty, reverse=True)

    first = sheet.read_bytes()
    assert finetune("suggest", finished_run, pool, "-n", 8, "-o", sheet) == 0
    assert sheet.read_bytes() == first

    labels = {row["text"]: row["label"] for row in text_rows(30, seed=7)}
    filled = [{**line, "label": labels[line["text"]]} for line in lines[:6]]
    write(sheet, [*filled, *lines[6:], {**lines[7], "text": texts[0], "label": "sport"}])
    words = ["task=text-classification", f"model={bert_folder}", "method=frozen", "epochs=1"]
    words += [f"data={news_csv}", "data.validation=0", f"data.answers={sheet}"]
    capsys.readouterr()
    assert finetune("train", *words, f"output={tmp_path / 'run'}") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "6 rows of data.answers" in output
    assert "2 without a label, 1 that a split has" in output
    assert "rows: 56 train" in output

    other = tmp_path / "other.csv"
    assert finetune("suggest", tmp_path / "run", pool, "-n", 50, "-o", other) == 0
    assert f"'data.answers=[{sheet},{other}]'" in " ".join(capsys.readouterr().out.split())
    assert not {line["text"] for line in filled} & {line["text"] for line in read(other)}


def test_suggest_by_a_pretrained_network_starts_from_unlabeled_rows(
    bert_folder: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read(pool)
    write(pool, [{**row, "topic": "x" if n < 5 else ""} for n, row in enumerate(rows)])
    sheet = tmp_path / "first.jsonl"
    lines = suggest(bert_folder, str(pool), sheet, count=4, label="topic")
    assert [set(line) for line in lines] == [{"row", "topic", "text"}] * 4
    assert min(line["row"] for line in lines) > 5
    assert finetune("suggest", bert_folder, pool, "--by", "uncertainty", "-o", sheet) == 2
    assert "is not fine-tuned" in capsys.readouterr().err


def test_suggest_names_pictures_so_that_the_sheet_can_be_read_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, sheet = tmp_path / "shapes", tmp_path / "sheets" / "to_label.csv"
    shape_folder(folder, 12)
    monkeypatch.chdir(tmp_path)
    assert len(suggest(tiny_timm(tmp_path / "timm"), "shapes/*/*.png", sheet, count=3)) == 3
    lines = read(sheet)
    write(sheet, [{**line, "label": Path(line["image"]).parent.name} for line in lines])
    half = shape_folder(tmp_path / "labeled", 6, seed=5)
    config = DataConfig(source=str(half), validation=0.0, answers=str(sheet))
    splits = open_splits(config, ImageClassification())
    assert len(splits.train) == 9
    assert splits.train["label"][6:] == [Path(line["image"]).parent.name for line in lines]


def test_suggest_by_a_run_without_probabilities_names_other_criteria(
    bert_folder: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": row["text"], "stars": str(n / 7)} for n, row in enumerate(text_rows(20))]
    words = ["task=text-classification", f"model={bert_folder}", "method=frozen", "epochs=1"]
    words += [f"data={write(tmp_path / 'stars.csv', rows)}", "label=stars", "kind=number"]
    assert finetune("train", *words, "data.validation=0", f"output={tmp_path / 'run'}") == 0
    assert finetune("suggest", tmp_path / "run", pool, "-o", tmp_path / "a.csv") == 2
    assert "--by typicality or diversity" in capsys.readouterr().err
    assert not (tmp_path / "a.csv").exists()


def test_suggest_refuses_a_pool_without_unlabeled_rows(
    finished_run: Path, news_csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("suggest", finished_run, news_csv, "-o", tmp_path / "a.csv") == 2
    assert "every row has a label already" in capsys.readouterr().err
