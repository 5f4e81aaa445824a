"""Scores of a detector that are scaled beside its network: predictions, metrics, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import finetune
from finetune.cli.main import app
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.reports.temperature import scale_items
from tasks import ObjectDetection
from tests.support.detection_runs import SMALL, build, train
from tests.support.judged_scenes import random_stats


def test_object_detection_scales_the_scores_that_it_predicts(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, model, _ = build(detection_networks["fcos"], object_rows, score_threshold=0.0)
    batch = task.collate([task.encode(row) for row in object_rows[2:4]])
    with torch.no_grad():
        raw, stats = task.predict(model, batch), task.measure(model(batch), batch)
        task.views.keep_scale([2.0, 1.0])
        scaled, again = task.predict(model, batch), task.measure(model(batch), batch)
        few = [item["score"] for each in scaled for item in each["detections"]][5]
        task.config = task.resolved_ = task.resolved_.model_copy(update={"score_threshold": few})
        chosen = task.predict(model, batch)
    for one, other in zip(raw, scaled, strict=True):
        scores = [torch.tensor([item["score"] for item in x["detections"]]) for x in (one, other)]
        assert scores[1].numpy() == pytest.approx(scale_items(scores[0].numpy(), [2.0, 1.0]))
        assert [each["box"] for each in one["detections"]] == [
            each["box"] for each in other["detections"]
        ]
    assert all(stats[name].equal(again[name]) for name in stats)  # so metrics are the same
    kept = [item["score"] for each in chosen for item in each["detections"]]
    assert len(kept) >= 6
    assert min(kept) >= few - 1e-6
    copy = ObjectDetection(**SMALL)
    copy.restore(json.loads(json.dumps(task.state())), ModelConfig(name="none"))
    assert copy.scale_ == [2.0, 1.0]


def test_item_scores_are_right_where_detections_match(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, _, _ = build(detection_networks["fcos"], object_rows)
    stats = random_stats(0)
    items = task.views.item_scores(stats)
    assert len(items.scores) == int(stats["found"].sum())
    assert 0 < items.right.sum() <= items.objects.sum() == int(stats["present"].sum())


def test_calibrate_keeps_the_scale_of_a_detector_beside_its_network(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys = {"epochs": 2, "lr": 3e-3, "head_lr": 3e-3, "validation": 0.3, "data.limit": None}
    folder = tmp_path / "run"
    run = train(
        detection_networks["fcos"], scenes, folder, score_threshold="auto", calibrate="none", **keys
    )
    weights = load_file(folder / "final" / "model.safetensors")
    before = run.evaluate(str(scenes), split="test")
    results = json.loads((folder / "results.json").read_text())
    assert "score_threshold" in results["decisions"]["note"]
    app(["calibrate", str(folder), str(scenes), "split=train"], standalone_mode=False)
    results = json.loads((folder / "results.json").read_text())
    state = json.loads((folder / "final" / "task.json").read_text())["state"]
    assert state["scale"] == results["calibration"]["scale"]
    after = load_file(folder / "final" / "model.safetensors")
    assert all(weights[name].equal(after[name]) for name in weights)
    again = finetune.Run(str(folder))
    assert again.evaluate(str(scenes), split="test") == before
    assert "slope and offset" in (folder / "final" / "README.md").read_text()


def test_score_threshold_auto_is_for_training(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(detection_networks["fcos"], scenes, tmp_path / "run", **{"data.limit": 8})
    with pytest.raises(ConfigError, match="a threshold is learned in training"):
        run.predict([], score_threshold="auto")
