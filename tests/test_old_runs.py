"""Runs of earlier code are read as if they were of today's; see old_runs/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import finetune
from tests.support.command_line import finetune as command
from tests.support.hub_server import at, serve_hub

OLD = Path(__file__).parent / "old_runs"
DATA = {
    "text-lora": "held.csv",
    "text-pooled": "held.csv",
    "generation-lora": "held.csv",
    "image-vit": "shapes",
    "detection-detr": "scenes",
    "segmentation-segformer": "scenes",
}
RUNS = sorted(DATA)
# Other releases of the libraries sum in another order.
CLOSE = 1e-4


def test_old_runs_are_all_tried() -> None:
    assert {path.name for path in OLD.iterdir() if path.is_dir()} == {"data", *RUNS}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said(row: dict[str, Any]) -> dict[str, Any]:
    """The prediction of a row, without the columns that were read."""
    read = ("text", "label", "image", "mask", "file", "objects")
    return {name: value for name, value in row.items() if name not in read or "predicted" in name}


def assert_close(found: Any, expected: Any) -> None:
    """Equal but for the last digits of numbers."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=CLOSE, abs=CLOSE)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == expected


@pytest.mark.parametrize("run", RUNS)
def test_old_run_predicts_what_it_did(run: str, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    code = command("predict", str(OLD / run), str(OLD / "data" / DATA[run]), "-o", str(output))
    assert code == 0
    found, expected = lines(output), lines(OLD / run / "expected" / "predictions.jsonl")
    assert_close(list(map(said, found)), list(map(said, expected)))


@pytest.mark.parametrize("run", RUNS)
def test_old_run_measures_what_it_did(run: str, tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    code = command("evaluate", str(OLD / run), str(OLD / "data" / DATA[run]), "-o", str(output))
    assert code == 0
    expected = json.loads((OLD / run / "expected" / "metrics.json").read_text())
    assert_close(json.loads(output.read_text()), expected)


@pytest.mark.parametrize("run", RUNS)
def test_old_run_is_loaded_and_shown_in_python(run: str) -> None:
    assert finetune.load(OLD / run).task
    assert finetune.Run(OLD / run).metrics["validation"]


@pytest.mark.parametrize("what", ["merged", "both"])
def test_old_run_is_pushed_and_comes_back(what: str, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    root.mkdir()
    run = Path(shutil.copytree(OLD / "text-lora", tmp_path / "text-lora"))
    with serve_hub(root) as address, at(address, root):
        assert command("push", str(run), "me/news", "--what", what) == 0
        pushed = finetune.load("me/news")
    texts = ["market shares profit", "goal match player"]
    assert pushed(texts) == finetune.load(OLD / "text-lora")(texts)
