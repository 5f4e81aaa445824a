"""Object detection: the task contract, tiles, whole runs, and saved models in transformers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import finetune
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.inference.model_loading import changed_config
from finetune.testing import check_task
from tasks import ObjectDetection
from tasks.image.preprocessing import INPUT
from tests.support.detection_runs import SIDE, SMALL, build, train
from tests.support.lives import Seen, Stop, left_behind, live, load
from tests.support.tiny_detectors import MAKERS


@pytest.mark.parametrize("name", ["fcos", *MAKERS])
def test_object_detection_keeps_the_task_contract(
    name: str, detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    check_task(ObjectDetection(**SMALL), object_rows, str(detection_networks[name]))


def test_object_detection_state_survives_json(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, _, _ = build(detection_networks["detr"], object_rows)
    assert task.masks_
    restored = ObjectDetection(**SMALL)
    source = ModelConfig(name=str(detection_networks["detr"]))
    restored.restore(json.loads(json.dumps(task.state())), source)
    assert restored.state() == task.state()


def test_object_detection_changes_prediction_keys_only(object_rows: list[dict[str, Any]]) -> None:
    config = ObjectDetection(**SMALL).config
    allowed = config.prediction_keys
    changed = changed_config(config, {"score_threshold": 0.7}, allowed)
    assert changed.score_threshold == 0.7  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="image_size: does not affect predictions"):
        changed_config(config, {"image_size": 32}, allowed)
    with pytest.raises(ConfigError, match="score_threshold"):
        changed_config(config, {"score_threshold": 7}, allowed)


def test_object_detection_trains_on_tiles_and_merges_their_predictions(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]]
) -> None:
    task, model, _ = build(detection_networks["fcos"], object_rows, tile={"size": 32, "overlap": 8})
    parts = task.parts(object_rows)
    assert parts is not None
    assert [len(part) for part in parts] == [6] * len(object_rows)  # of 64 x 48 pixels
    sample = task.encode({**object_rows[2], **parts[2][0]})
    assert sample["inputs"][INPUT].shape == (1, 3, SIDE, SIDE)
    whole = task.encode(object_rows[2])
    assert whole["inputs"][INPUT].shape == (6, 3, SIDE, SIDE)
    assert task.lengths(object_rows[:1])[0].used == 6
    batch = task.collate([task.encode(row) for row in object_rows[1:4]])
    with torch.no_grad():
        stats = task.measure(model(batch), batch)
        assert len(task.predict(model, batch)) == 3
    assert stats["present"].tolist() == [len(row["objects"]) for row in object_rows[1:4]]
    # Boxes of tiles are in pixels of the whole image.
    assert float(stats["boxes"][..., 2].max()) > 40
    assert float(stats["boxes"][..., 2].max()) <= 64


def test_detection_views_draw_predictions_beside_the_truth(
    detection_networks: dict[str, Path], object_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    task, _, _ = build(detection_networks["fcos"], object_rows)
    box = {"xmin": 5.0, "ymin": 6.0, "xmax": 30.0, "ymax": 40.0}
    prediction = {"detections": [{"score": 0.9, "label": "circle", "box": box}]}
    [pair] = task.views.draw(object_rows[2], prediction, tmp_path, "pair")
    [alone] = task.views.draw({"image": object_rows[2]["image"]}, prediction, tmp_path, "alone")
    assert Image.open(alone).size == (64, 48)
    assert Image.open(pair).size[0] > 2 * 64


# ---- whole runs


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "partial", "ia3", "bitfit"])
def test_train_fits_fcos_with_every_method(
    method: str, detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(detection_networks["fcos"], scenes, tmp_path / "run", method=method)
    assert {"ap", "ap50", "ar100"} <= run.metrics["test"].keys()
    predictions = run.predict([{"image": str(scenes / "test" / "images" / "00001.jpg")}])
    assert len(predictions) == 1
    folder = tmp_path / "run" / "reports" / "test"
    with Image.open(folder / "contact-sheet.jpg") as sheet:
        assert sheet.height > 6 * 168  # all of the 12 images, in two columns
    with (folder / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    columns = ["row", "true", "predicted", "missed", "false", "kinds", "image", "file"]
    assert list(lines[0]) == columns
    mistakes = [int(line["missed"]) + int(line["false"]) for line in lines]
    assert mistakes == sorted(mistakes, reverse=True)
    assert {Path(line["file"]).name for line in lines} == {f"{n:05}.jpg" for n in range(12)}


def test_query_detector_works_in_the_transformers_pipeline(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    run = train(detection_networks["rt-detr-v2"], scenes, tmp_path / "run", method="lora", rank=2)
    folder = str(tmp_path / "run" / "final")
    transformers.AutoModelForObjectDetection.from_pretrained(folder)
    pipeline = transformers.pipeline("object-detection", model=folder, threshold=0.0)
    path = str(scenes / "test" / "images" / "00001.jpg")
    theirs = pipeline(Image.open(path).convert("RGB"))
    predictor = finetune.load(run.path, score_threshold=0.0)
    ours = predictor([{"image": path}])[0]
    assert ours
    assert set(ours[0]) == {"score", "label", "box"}
    key = lambda item: (-round(item["score"], 4), item["label"])  # noqa: E731
    best, other = sorted(ours, key=key)[:5], sorted(theirs, key=key)[:5]
    for mine, theirs_ in zip(best, other, strict=True):
        assert mine["label"] == theirs_["label"]
        assert mine["score"] == pytest.approx(theirs_["score"], abs=1e-3)
        for side, value in mine["box"].items():
            # The pipeline does not clip boxes at the borders of the image.
            assert abs(value - min(max(theirs_["box"][side], 0), 64)) <= 1


def test_fcos_trains_on_cached_features_as_on_computed_ones(
    detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    losses = {}
    for cache in ("auto", "off"):
        keys = {"method": "frozen", "method.cache": cache, "task.augmentation": "none"}
        run = train(detection_networks["fcos"], scenes, tmp_path / cache, **keys)
        losses[cache] = run.metrics["test"]["loss"]
    assert losses["auto"] == pytest.approx(losses["off"], rel=1e-5)


def test_feature_cache_keeps_the_bf16_maps_of_fcos(
    detection_networks: dict[str, Path],
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    keys = {"method": "frozen", "precision": "bf16"}
    train(detection_networks["fcos"], scenes, tmp_path / "run", **keys)
    manifests = sorted((tmp_path / "cache").rglob("manifest.json"))
    assert len(manifests) == 2  # train and test
    for manifest in manifests:
        for name, facts in json.loads(manifest.read_text())["files"].items():
            assert facts["dtype"] == "bfloat16"
            size = (manifest.parent / f"{name}.bin").stat().st_size
            assert size == 2 * np.prod(facts["shape"])
    with pytest.raises(ModelError, match="method.cache_gib: the features would take"):
        train(
            detection_networks["fcos"],
            scenes,
            tmp_path / "other",
            **keys,
            cache_gib=1e-6,
            image_size=96,
        )


@pytest.mark.parametrize(
    ("name", "workers"), [("fcos", 2), pytest.param("rt-detr-v2", 0, marks=pytest.mark.slow)]
)
def test_object_detection_run_resumes_bitwise_equal(
    name: str, workers: int, detection_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    keys = {
        "method": "full",
        "train.workers": workers,
        "data.limit": 16,
        "data.validation": 0,
        **{f"task.{key}": value for key, value in SMALL.items()},
    }
    once, often = Seen(), Seen()

    def loaded(folder: str) -> Any:
        return load(tmp_path / folder, detection_networks[name], scenes, keys, ObjectDetection)

    unstopped = live(loaded("once"), seen=once)
    for stop in (Stop(1), Stop(2, "saved"), Stop(3, "log")):
        live(loaded("often"), seen=often, stop=stop)
    stopped = live(loaded("often"), seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)
