"""Calibrated final models: in training, by a later command, and read by their own library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import pipeline

import finetune
from finetune.cli.main import app
from finetune.errors import ConfigError
from tests.support.tiny_models import text_csv


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 60, "validation": 120, "test": 60}
    return {
        split: str(text_csv(folder / f"{split}.csv", count=count, seed=seed))
        for seed, (split, count) in enumerate(sizes.items())
    }


def train(folder: Path, data: dict[str, str], model: Path, **keys: Any) -> dict[str, Any]:
    rates = {"method": "lora", "epochs": 4, "lr": 1e-2, "head_lr": 1e-2, "precision": "fp32"}
    finetune.train(
        "text-classification", model=str(model), output=str(folder), **{**data, **rates, **keys}
    )
    return json.loads((folder / "results.json").read_text())


def test_train_folds_the_temperature_into_the_final_model(
    tmp_path: Path, data: dict[str, str], bert_folder: Path
) -> None:
    raw = train(tmp_path / "raw", data, bert_folder, calibrate="none")
    done = train(tmp_path / "done", data, bert_folder, calibrate="temperature")
    factor = done["calibration"]["factors"][0]
    heads = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("raw", "done")]
    assert heads[1]["classifier.weight"] == pytest.approx(factor * heads[0]["classifier.weight"])
    steps = [sorted((tmp_path / n / "checkpoints").glob("*/model.safetensors")) for n in ("raw", "done")]  # fmt: skip
    assert [path.read_bytes() for path in steps[0]] == [path.read_bytes() for path in steps[1]]
    assert raw["metrics"]["test"]["accuracy"] == done["metrics"]["test"]["accuracy"]
    measured = done["calibration"]["measured"]["test"]
    assert measured["after"]["log_loss"][0] == pytest.approx(
        done["metrics"]["test"]["loss"], rel=1e-4
    )
    assert measured["before"]["log_loss"][0] == pytest.approx(
        raw["metrics"]["test"]["loss"], rel=1e-4
    )
    card = (tmp_path / "done" / "final" / "README.md").read_text()
    assert "### Calibration" in card
    assert "calibration, and robustness" not in card
    adapter = load_file(tmp_path / "done" / "final" / "adapter" / "adapter_model.safetensors")
    head = next(tensor for name, tensor in adapter.items() if name.endswith("classifier.weight"))
    assert head.equal(heads[1]["classifier.weight"])


def test_calibrate_rewrites_the_final_model_that_pipelines_read(
    tmp_path: Path, data: dict[str, str], bert_folder: Path
) -> None:
    run = tmp_path / "run"
    train(run, data, bert_folder, calibrate="none")
    (run / "final" / "notes.txt").write_text("mine")
    before = finetune.evaluate(run, data["validation"])
    app(["calibrate", str(run), data["validation"]], standalone_mode=False)
    facts = json.loads((run / "results.json").read_text())["calibration"]
    after = finetune.evaluate(run, data["validation"])
    assert after["loss"] < before["loss"]
    assert after["accuracy"] == before["accuracy"]
    assert facts["factors"]
    kit = finetune.load(run)(["said the market"])[0]
    plain = pipeline("text-classification", str(run / "final"))("said the market")[0]
    assert plain["label"] == kit["label"]
    assert plain["score"] == pytest.approx(kit["score"], abs=1e-5)
    assert (run / "final" / "notes.txt").read_text() == "mine"
    assert "notes.txt" not in (run / "final" / "manifest.json").read_text()
    card = (run / "final" / "README.md").read_text()
    assert card.count("### Calibration") == 1
    assert facts["note"][1:] in card
    assert "fitted to 120 rows of validation.csv" in card
    assert data["validation"] not in card
    head = load_file(run / "final" / "model.safetensors")["classifier.weight"]
    adapter = load_file(run / "final" / "adapter" / "adapter_model.safetensors")
    assert any(t.equal(head) for name, t in adapter.items() if name.endswith("classifier.weight"))


def test_calibrate_of_several_labels_has_a_factor_each(tmp_path: Path, bert_folder: Path) -> None:
    rows = [
        {
            "text": f"the year {'market' if i % 2 else 'game'} {i}",
            "label": ["a"] * (i % 2) + ["b"] * (i % 3 == 0),
        }
        for i in range(240)
    ]
    run = finetune.train(
        "text-classification", data=rows, validation=0.5, model=str(bert_folder), method="full",
        epochs=1, calibrate="temperature", output=str(tmp_path / "run"),
    )  # fmt: skip
    facts = json.loads((run.folder.path / "results.json").read_text())["calibration"]
    assert facts["labels"] == ["a", "b"]
    assert len(facts["factors"]) == 2


def test_calibrate_needs_rows_and_probabilities(tmp_path: Path, bert_folder: Path) -> None:
    rows = [{"text": f"the year {i}", "label": i / 7} for i in range(40)]
    keys = {"model": str(bert_folder), "method": "full", "epochs": 1, "output": str(tmp_path / "r")}
    with pytest.raises(ConfigError, match="needs rows with classes"):
        finetune.train("text-classification", data=rows, kind="number", validation=0.5, calibrate="temperature", **keys)  # fmt: skip
    named = [{**row, "label": "ab"[i % 2]} for i, row in enumerate(rows)]
    with pytest.raises(ConfigError, match="is computed on a validation split"):
        finetune.train("text-classification", data=named, validation=0, calibrate="temperature", fresh=True, **keys)  # fmt: skip
