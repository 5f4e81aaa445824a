"""Reports on finished runs: what each kind of output gets, whose rows, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import finetune
from finetune.audit.report_run import write_report
from finetune.data.source import Source
from finetune.errors import ConfigError, DataError
from finetune.reporting.console import Console
from tests.support.report_pages import HOSTILE, read_page
from tests.support.tiny_models import LABELS, several_csv, text_rows

Trainer = Callable[..., finetune.Run]


@pytest.fixture
def trained(bert_folder: Path, tmp_path: Path) -> Trainer:
    def train(data: Any, **keys: Any) -> finetune.Run:
        keys = {"validation": 0.4, "max_steps": 2, "method": "full", **keys}
        output = {"dir": str(tmp_path / "run"), **keys.pop("output", {})}
        task = {"name": "text-classification", **keys.pop("task", {})}
        return finetune.train(task, data=data, model=str(bert_folder), output=output, **keys)

    return train


def test_report_of_a_run_has_its_held_out_rows(trained: Trainer, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    rows = text_rows(60)
    rows[5]["text"] = f"{HOSTILE} {rows[5]['text']}"
    run = trained(rows, output={"report": True})
    page = Path(run) / "reports" / "index.html"
    sections, data = read_page(page)
    assert list(sections) == [
        "metrics", "curves", "confusions", "thresholds", "reliability", "worst", "labels",
        "duplicates", "rows",
    ]  # fmt: skip
    assert "accuracy" in sections["metrics"]
    assert "Optimistically biased" in sections["metrics"]  # validation selected the checkpoint
    assert "completeness error" in sections["worst"]
    assert len(data["rows"]) == 24
    assert data["columns"] == ["true", "predicted", "probability", "outcome"]
    wrong = [row.get("wrong", False) for row in data["rows"]]
    assert wrong == sorted(wrong, reverse=True)  # the worst first
    by_text = {row["text"]: row for row in data["rows"]}
    for number, row in enumerate(rows, start=1):
        if row["text"] in by_text:
            assert by_text[row["text"]]["row"] == number
            assert by_text[row["text"]]["values"][0] == row["label"]
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert str(tmp_path) not in text
    figures = {path.name for path in (Path(run) / "reports" / "figures").iterdir()}
    assert {"loss.png", "confusion-matrix.png", "reliability.png", "coverage.png"} <= figures

    written = page.stat().st_mtime_ns
    trained(rows, output={"report": True})  # finished already, and so is its report
    assert page.stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match="report .* DATA"):
        run.report()  # its rows were made in Python
    report = run.report([{**row, "label": LABELS[0]} for row in rows[:10]], tmp_path / "own")
    sections, data = read_page(report.path)
    assert "leaks were not looked for" in sections["duplicates"]
    assert "Optimistically biased" not in sections["metrics"]
    assert {row["values"][0] for row in data["rows"]} == {LABELS[0]}
    assert "Confusions" in report._repr_html_()


def test_report_of_several_labels_lists_missed_and_extra_ones(
    trained: Trainer, tmp_path: Path
) -> None:
    run = trained(str(several_csv(tmp_path / "several.csv", 40)), task={"kind": "several"})
    report = run.report()
    assert report.path == Path(run) / "reports" / "index.html"
    sections, data = read_page(report.path)
    assert data["columns"][-3:] == ["missed", "extra", "outcome"]
    for row in data["rows"]:
        true, predicted, _, missed, extra, outcome = row["values"]
        assert missed == [label for label in true if label not in predicted]
        assert extra == [label for label in predicted if label not in true]
        assert outcome == ("wrong" if missed or extra else "right")
    missed = sum(len(row["values"][3]) for row in data["rows"])
    assert f"{missed} labels missed" in report.findings["Mistaken labels"]
    assert "0 of 16 rows also occur in train" in sections["duplicates"]


@pytest.mark.slow
def test_report_of_numbers_shows_residuals(trained: Trainer, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": 0.5 + len(row["text"])} for row in text_rows(40)]
    run = trained(rows, task={"kind": "number"})
    source = Source(rows[:20])
    report = write_report(str(run.path), source, tmp_path / "report", Console(enabled=False))
    assert report is not None
    sections, data = read_page(report.path)
    assert "confusions" not in sections
    assert "Mean error" in sections["residuals"]
    points = data["charts"]["predicted"]["spec"]["data"]["values"]
    assert len(points) == 20
    assert data["charts"]["predicted"]["links"] == {"row": "row"}
    errors = [abs(row["values"][2]) for row in data["rows"]]
    assert errors == sorted(errors, reverse=True)


def test_report_without_its_libraries_says_what_to_install(
    trained: Trainer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = text_rows(60)
    run = trained(rows)
    for name in ("captum.attr", "cleanlab", "vl_convert"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    report = run.report(rows[:30], tmp_path / "report")
    sections, _ = read_page(report.path)
    install = "pip install 'finetune-kit[report]'"
    assert f"captum is not installed; {install}" in sections["worst"]
    assert f"cleanlab is not installed; {install}" in sections["labels"]
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(ConfigError, match="jinja2 is not installed"):
        run.report(rows[:30], tmp_path / "report")
    with pytest.raises(ConfigError, match="jinja2 is not installed"):
        trained(rows, output={"report": True, "dir": str(tmp_path / "other")})
    assert not (tmp_path / "other").exists()  # said before the run


def test_report_refuses_what_it_cannot_read(trained: Trainer, tmp_path: Path) -> None:
    run = trained(text_rows(20))
    with pytest.raises(ConfigError, match="delimiter needs data"):
        run.report(delimiter=";")
    with pytest.raises(ConfigError, match="name a folder for the report with -o"):
        write_report(str(run.path / "final"), Source(text_rows(9)), None, Console(enabled=False))
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ConfigError, match="file: cannot be a folder"):
        run.report(text_rows(9), tmp_path / "file")
    with pytest.raises(DataError, match="nowhere.csv"):
        run.report(str(tmp_path / "nowhere.csv"), tmp_path / "new")
    assert not (tmp_path / "new").exists()  # no empty folder is left
