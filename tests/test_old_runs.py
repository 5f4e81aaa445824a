"""Backward compatibility: runs of earlier versions load and give the same results.

See old_runs/README.md.
"""

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
# Other library versions add floats in a different order.
CLOSE = 1e-4


def test_old_runs_are_all_tested() -> None:
    assert {path.name for path in OLD.iterdir() if path.is_dir()} == {"data", *RUNS}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prediction_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction in an output row, without the other columns.

    Earlier versions used the prefix only if the name was that of an input column.
    """
    others = ("text", "label", "image", "mask", "file", "objects", "row", "error")
    names = [name for name in row if name not in others]
    return {name.removeprefix("predicted_"): row[name] for name in names}


def assert_close(actual: Any, expected: Any) -> None:
    """Assert equality up to rounding of floats, in nested values."""
    if isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=CLOSE, abs=CLOSE)
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            assert_close(actual[name], value)
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other)
    else:
        assert actual == expected


@pytest.mark.parametrize("run", RUNS)
def test_old_run_reproduces_its_predictions(run: str, tmp_path: Path) -> None:
    output = tmp_path / "predictions.jsonl"
    code = command("predict", str(OLD / run), str(OLD / "data" / DATA[run]), "-o", str(output))
    assert code == 0
    actual, expected = lines(output), lines(OLD / run / "expected" / "predictions.jsonl")
    assert_close(list(map(prediction_of, actual)), list(map(prediction_of, expected)))


@pytest.mark.parametrize("run", RUNS)
def test_old_run_reproduces_its_metrics(run: str, tmp_path: Path) -> None:
    output = tmp_path / "metrics.json"
    code = command("evaluate", str(OLD / run), str(OLD / "data" / DATA[run]), "-o", str(output))
    assert code == 0
    expected = json.loads((OLD / run / "expected" / "metrics.json").read_text())
    assert_close(json.loads(output.read_text()), expected)


@pytest.mark.parametrize("run", RUNS)
def test_old_run_loads_in_python(run: str) -> None:
    assert finetune.load(OLD / run).task
    assert finetune.Run(OLD / run).metrics["validation"]


@pytest.mark.parametrize("what", ["merged", "both"])
def test_old_run_loads_after_a_push(what: str, tmp_path: Path) -> None:
    root = tmp_path / "hub"
    root.mkdir()
    run = Path(shutil.copytree(OLD / "text-lora", tmp_path / "text-lora"))
    with serve_hub(root) as address, at(address, root):
        assert command("push", str(run), "me/news", "--what", what) == 0
        pushed = finetune.load("me/news")
    texts = ["market shares profit", "goal match player"]
    assert pushed(texts) == finetune.load(OLD / "text-lora")(texts)
