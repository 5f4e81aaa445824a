"""Label issues: planted wrong labels are found, written, and taken back by a training run."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest

from finetune.cli.main import app
from finetune.errors import ConfigError
from tests.support.tiny_models import TOPICS

pytest.importorskip("cleanlab")


def planted(path: Path, count: int = 120, wrong: int = 6) -> dict[int, str]:
    """Write rows of which the first ones have a wrong label; return {row: right label}."""
    rng, labels = random.Random(0), sorted(TOPICS)
    rows = [
        {"text": " ".join(rng.choices(TOPICS[label], k=12)), "label": label}
        for label in (labels[number % len(labels)] for number in range(count))
    ]
    right = {number: row["label"] for number, row in enumerate(rows[:wrong], start=1)}
    for row in rows[:wrong]:
        row["label"] = labels[(labels.index(row["label"]) + 1) % len(labels)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return right


def call(*words: str) -> None:
    app(list(words), standalone_mode=False)


def test_label_issues_finds_planted_errors_and_training_takes_them_back(
    tmp_path: Path, bert_folder: Path
) -> None:
    right = planted(tmp_path / "news.csv")
    table, run = tmp_path / "issues.csv", tmp_path / "run"
    words = ["task=text-classification", f"data={tmp_path / 'news.csv'}", f"model={bert_folder}"]
    call("label-issues", *words, "-o", str(table))
    with table.open(newline="", encoding="utf-8") as file:
        issues = list(csv.DictReader(file))
    found = {int(issue["row"]): issue for issue in issues}
    assert [int(issue["rank"]) for issue in issues] == list(range(1, len(issues) + 1))
    hits = [row for row in right if row in found and found[row]["suggested"] == right[row]]
    assert len(hits) >= 4
    assert {"given", "suggested", "probability", "text"} <= set(issues[0])
    call("train", *words, "method=full", "epochs=1", f"data.relabel={table}", f"output={run}")
    notes = (run / "final" / "README.md").read_text(encoding="utf-8")
    assert "rows relabeled" in notes
    call("label-issues", str(run))
    assert (run / "reports" / "label_issues.csv").is_file()
    assert json.loads((run / "results.json").read_text())["metrics"]


def test_label_issues_needs_labels(tmp_path: Path, bert_folder: Path) -> None:
    table = tmp_path / "numbers.csv"
    lines = [f"the year {number},{number / 7}" for number in range(40)]
    table.write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no labels"):
        call("label-issues", "task=text-classification", f"data={table}", f"model={bert_folder}")


def test_label_issues_of_detectors_need_a_finished_run(tmp_path: Path) -> None:
    words = ["task=object-detection", "data=nowhere", "model=timm/test_resnet"]
    with pytest.raises(ConfigError, match="name a finished run: finetune label-issues RUN"):
        call("label-issues", *words, "-o", str(tmp_path / "issues.csv"))
