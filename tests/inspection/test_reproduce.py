"""`finetune reproduce`: a run is trained again from its card, and compared."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import pytest

from finetune.cli.main import app
from finetune.config.yaml import parse_value
from finetune.errors import CheckpointError, ConfigError, DataError
from finetune.export.reproduction import Reproduction, read_reproduction, reproduction_section
from finetune.inspection.reproduce import NotReproduced
from tests.support.local_hub import hub
from tests.support.tiny_models import TOPICS


def call(*words: str) -> None:
    app(list(words), standalone_mode=False)


def write_rows(path: Path, count: int = 160) -> None:
    rng, labels = random.Random(0), sorted(TOPICS)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label", "source"])
        writer.writeheader()
        for number in range(count):
            label = labels[number % len(labels)]
            text = " ".join(rng.choices(TOPICS[label], k=12))
            writer.writerow({"text": text, "label": label, "source": "ab"[number % 2]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("reproduce")
    write_rows(folder / "news.csv")
    words = [f"data={folder / 'news.csv'}", f"model={bert_folder}", f"output={folder / 'run'}"]
    keys = ["method=full", "epochs=2", "test=0.5", "slices=[source]", "groups=[source]"]
    call("train", "task=text-classification", *words, *keys)
    return folder / "run"


def test_a_run_is_reproduced_bit_for_bit_on_a_cpu(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("reproduce", str(trained), "-o", str(tmp_path / "again"))
    shown = capsys.readouterr().out
    assert "reproduced: all weights are equal bit for bit" in shown
    assert re.search(r"versions +equal to those of the run", shown)
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["metrics"] == json.loads((trained / "results.json").read_text())["metrics"]
    with pytest.raises(ConfigError, match="holds a run already; name another folder with -o"):
        call("reproduce", str(trained), "-o", str(tmp_path / "again"))


def test_a_model_of_a_hub_is_reproduced_from_its_card(
    tmp_path: Path,
    bert_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for folder in ("theirs", "ours", "hub"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "theirs")
    write_rows(Path("news.csv"), 60)
    keys = ["method=lora", "epochs=1", "test=0.5", "slices=none", "output=run"]
    call("train", "task=text-classification", "data=news.csv", f"model={bert_folder}", *keys)
    places = [f"data={Path('news.csv').absolute()}", f"model={bert_folder}"]
    with hub(tmp_path / "hub"):
        call("push", "run", "me/whole")
        call("push", "run", "me/adapter", "--what", "adapter", "--base-model", "me/bert")
        monkeypatch.chdir(tmp_path / "ours")
        with pytest.raises(ConfigError, match="'news.csv' is not on this machine; say where it is"):
            call("reproduce", "me/whole")
        for name in ("whole", "adapter"):
            capsys.readouterr()
            call("reproduce", f"me/{name}", *places)
            assert "reproduced: all weights are equal bit for bit" in capsys.readouterr().out
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "adapter-reproduced",
        "whole-reproduced",
    ]


def test_elsewhere_the_metrics_must_be_within_their_intervals(
    trained: Path, tmp_path: Path, bert_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = trained / "final" / "README.md"
    text = card.read_text(encoding="utf-8")
    places = [f"data={trained.parent / 'news.csv'}", f"model={bert_folder}", "seed=1"]
    elsewhere = re.sub(r'"python": "[\d.]+"', '"python": "3.0"', text)
    low = re.sub(r'("accuracy": )\[[^\]]*\]', r"\1[0.01, 0.0, 0.02]", elsewhere)
    wide = re.sub(r'("\w+": )\[[-\d.]+, [-\d.]+, [-\d.]+\]', r"\1[0.5, -1.0, 1.0]", elsewhere)
    try:
        card.write_text(wide, encoding="utf-8")
        call("reproduce", str(trained / "final"), *places, "-o", str(tmp_path / "one"))
        shown = capsys.readouterr().out
        assert "python: " in shown
        assert "all metrics are within their intervals; the weights differ (python)" in shown
        card.write_text(low, encoding="utf-8")
        with pytest.raises(NotReproduced, match="outside the interval: accuracy of test"):
            call("reproduce", str(trained / "final"), *places, "-o", str(tmp_path / "two"))
    finally:
        card.write_text(text, encoding="utf-8")


def test_other_rows_are_refused_before_training(trained: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "other.csv", 150)
    target = tmp_path / "again"
    with pytest.raises(DataError, match="the rows of test, train are not those of the run"):
        call("reproduce", str(trained), f"data={tmp_path / 'other.csv'}", "-o", str(target))
    assert not target.exists()


def test_the_card_has_intervals_slices_and_groups(trained: Path) -> None:
    text = (trained / "final" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| accuracy \| [\d.]+ \| [\d.]+ to [\d.]+ \|", text)
    assert "### Slices" in text
    assert "2 slices of test by accuracy" in text
    assert "### Groups" in text
    unmeasured = next(line for line in text.splitlines() if line.startswith("- Not evaluated"))
    assert "label errors" in unmeasured  # fewer than 100 rows
    assert "slices" not in unmeasured
    assert "fairness" not in unmeasured
    results = json.loads((trained / "results.json").read_text())
    assert {each["column"] for each in results["slices"]["slices"]} == {"source"}
    assert {each["column"] for each in results["groups"]} == {"source"}
    assert parse_value((trained / "config.yaml").read_text())["report"]["slices"] == ["source"]


def test_a_card_gives_back_what_was_written() -> None:
    facts = Reproduction(
        {"task.name": "x", "report.slices": ["a", "b"]},
        {"train": "0"},
        {"threads": 1},
        {"test": {"accuracy": [0.5, 0.25, 0.75], "loss": [1.0]}},
    )
    lines = reproduction_section(facts)
    assert '   "accuracy": [0.5, 0.25, 0.75],' in lines
    text = "\n".join(["# A card", *lines, "## Limitations", "```json", "{}", "```"])
    assert read_reproduction(text, "card") == facts
    with pytest.raises(CheckpointError, match="the card has no section '## Reproduction'"):
        read_reproduction("# A card", "card")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_reproduction(text.replace('"train": "0"', '"train": 0'), "card")


def test_code_that_a_card_names_needs_permission(trained: Path, tmp_path: Path) -> None:
    card = trained / "final" / "README.md"
    text = card.read_text(encoding="utf-8")
    try:
        card.write_text(text.replace('"config": {', '"config": {\n  "data.map": "os:remove",', 1))
        with pytest.raises(ConfigError, match="data.map names the code os:remove"):
            call("reproduce", str(trained), "-o", str(tmp_path / "again"))
    finally:
        card.write_text(text, encoding="utf-8")
