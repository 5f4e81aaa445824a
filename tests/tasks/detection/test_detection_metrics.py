"""COCO's metrics from padded statistics, against pycocotools; and the diagnosis when AP stays 0."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from finetune.inference.evaluation_loop import _concatenate
from tasks.detection.detection_encoder import pad_boxes
from tasks.detection.detection_metrics import (
    MatchedBoxes,
    capped_note,
    diagnose,
    room_for_objects,
    summarize_boxes,
)
from tasks.detection.suppression import Suppression, join_tiles
from tests.support.judged_scenes import random_stats

NAMES = ["cat", "dog", "emu", "none of it"]
# What pycocotools summarizes, in its order.
PROTOCOL = [
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
]


def random_boxes(count: int, rng: np.random.Generator) -> Tensor:
    start = rng.uniform(0, 300, (count, 2))
    return torch.tensor(np.hstack([start, start + rng.uniform(5, 200, (count, 2))])).float()


def scene(seed: int) -> dict[str, Tensor]:
    """A picture with up to 8 true boxes and up to 130 detections, some of them near true ones."""
    rng = np.random.default_rng(seed)
    true, found = int(rng.integers(0, 9)), int(rng.integers(0, 131))
    boxes = random_boxes(true, rng)
    said = random_boxes(found, rng)
    true_labels = torch.tensor(rng.integers(0, 3, true))
    labels = torch.tensor(rng.integers(0, 3, found))
    scores = torch.tensor(rng.permutation(1000)[:found] / 1000).float()
    for place in range(min(true * 3, found)):
        labels[place] = true_labels[place % true]
        scores[place] = scores[place] ** 0.25
        said[place] = boxes[place % true] + torch.tensor(rng.normal(0, 6, 4)).float()
    said[:, 2:] = torch.maximum(said[:, 2:], said[:, :2] + 1)
    order = scores.argsort(descending=True)[:100]
    return {
        "boxes": said[order],
        "scores": scores[order],
        "labels": labels[order],
        "true_boxes": boxes,
        "true_labels": true_labels,
        "true_areas": (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * 0.7,
        "crowds": torch.tensor(rng.random(true) < 0.15),
    }


def joined(scenes: list[dict[str, Tensor]], batch: int) -> dict[str, Tensor]:
    """Statistics as evaluation joins them from batches of `batch` pictures."""
    parts = []
    for start in range(0, len(scenes), batch):
        some = scenes[start : start + batch]
        stats = {name: pad_boxes([each[name] for each in some]) for name in some[0]}
        stats["found"] = torch.tensor([len(each["scores"]) for each in some])
        stats["present"] = torch.tensor([len(each["true_labels"]) for each in some])
        parts.append(stats)
    return {name: _concatenate([part[name] for part in parts]) for name in parts[0]}


def by_pycocotools(scenes: list[dict[str, Tensor]]) -> tuple[dict[str, float], dict[str, float]]:
    def sized(box: Tensor) -> list[float]:
        left, top, right, bottom = box.tolist()
        return [left, top, right - left, bottom - top]

    truth: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for number, each in enumerate(scenes):
        for place, box in enumerate(each["true_boxes"]):
            truth.append(
                {
                    "id": len(truth) + 1,
                    "image_id": number,
                    "category_id": int(each["true_labels"][place]),
                    "bbox": sized(box),
                    "area": float(each["true_areas"][place]),
                    "iscrowd": int(each["crowds"][place]),
                }
            )
        for place, box in enumerate(each["boxes"]):
            said.append(
                {
                    "image_id": number,
                    "category_id": int(each["labels"][place]),
                    "bbox": sized(box),
                    "score": float(each["scores"][place]),
                }
            )
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(scenes))],
            "annotations": truth,
            "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
            "info": {},
        }
        coco.createIndex()
        evaluator = COCOeval(coco, coco.loadRes(said), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    by_class = {}
    for number, name in enumerate(NAMES):
        own = evaluator.eval["precision"][:, :, number, 0, -1]
        if (own > -1).any():
            by_class[f"ap/{name}"] = float(own[own > -1].mean())
    return dict(zip(PROTOCOL, map(float, evaluator.stats), strict=True)), by_class


@pytest.mark.parametrize("batch", [1, 7])
def test_summarize_boxes_equals_pycocotools(batch: int) -> None:
    scenes = [scene(seed) for seed in range(30)]
    ours = summarize_boxes(joined(scenes, batch), NAMES)
    overall, by_class = by_pycocotools(scenes)
    assert 0.05 < overall["ap50"] < 0.95
    assert len(by_class) == 3
    for name, value in {**overall, **by_class}.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
    assert ours.keys() == overall.keys() | by_class.keys()


def test_summarize_boxes_is_zero_without_detections_and_leaves_out_classes_without_boxes() -> None:
    scenes = [scene(seed) for seed in range(4)]
    silent = [{**each, **_no_detections()} for each in scenes]
    assert summarize_boxes(joined(silent, 4), NAMES)["ap"] == 0
    empty = [{**each, **_no_truth()} for each in scenes]
    found = summarize_boxes(joined(empty, 4), NAMES)
    assert set(found) == {"ap", "ap50"}
    assert np.isnan(found["ap"])


def _no_detections() -> dict[str, Tensor]:
    return {
        "boxes": torch.zeros(0, 4),
        "scores": torch.zeros(0),
        "labels": torch.zeros(0, dtype=torch.int64),
    }


def _no_truth() -> dict[str, Tensor]:
    return {
        "true_boxes": torch.zeros(0, 4),
        "true_labels": torch.zeros(0, dtype=torch.int64),
        "true_areas": torch.zeros(0),
        "crowds": torch.zeros(0, dtype=torch.bool),
    }


def test_diagnose_names_the_stage_that_fails() -> None:
    true = torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]])
    base = {
        "true_boxes": true,
        "true_labels": torch.tensor([0, 1]),
        "true_areas": torch.tensor([1600.0, 900.0]),
        "crowds": torch.tensor([False, False]),
        "boxes": true,
        "scores": torch.tensor([0.4, 0.3]),
        "labels": torch.tensor([0, 1]),
    }
    cases = {
        "no match": {"boxes": true + 200},
        "wrong class": {"labels": torch.tensor([1, 0])},
        "low scores": _no_detections(),
    }
    for stage, change in cases.items():
        assert f"{stage}:" in str(diagnose(joined([{**base, **change}], 1), 1.0, 2.0)), stage
    assert "learning rate:" in str(diagnose(joined([base], 1), 2.1, 2.0))
    assert diagnose(joined([{**base, **_no_truth()}], 1), 1.0, 2.0) is None


def test_suppression_merges_the_detections_of_tiles() -> None:
    whole = torch.tensor([[100.0, 10, 160, 60]])
    cut = torch.tensor([[100.0, 10, 128, 60], [300, 10, 340, 60]])  # the same, cut by a border
    tiles = [
        {"boxes": cut, "scores": torch.tensor([0.7, 0.6]), "labels": torch.tensor([0, 1])},
        {"boxes": whole, "scores": torch.tensor([0.9]), "labels": torch.tensor([0])},
        {"boxes": whole, "scores": torch.tensor([0.5]), "labels": torch.tensor([2])},
    ]
    first, second = join_tiles(tiles, [2, 1], Suppression(0.1))
    assert first["scores"].tolist() == pytest.approx([0.9, 0.6])
    assert first["boxes"].tolist() == [whole[0].tolist(), cut[1].tolist()]
    assert second["labels"].tolist() == [2]


def test_room_for_objects_is_above_the_fullest_image() -> None:
    assert [room_for_objects(most) for most in (0, 12, 66, 67, 574)] == [100, 100, 100, 200, 900]


def test_summarize_boxes_of_crowded_images_reaches_full_recall_above_the_maximum_of_coco() -> None:
    grid = torch.arange(144, dtype=torch.float32)
    corner = torch.stack([grid % 12, grid // 12], 1) * 50
    boxes = torch.cat([corner, corner + 40], 1)
    scene = {
        "true_boxes": boxes,
        "true_labels": torch.zeros(144, dtype=torch.int64),
        "true_areas": torch.full((144,), 1600.0),
        "crowds": torch.zeros(144, dtype=torch.bool),
        "boxes": boxes,
        "scores": torch.linspace(0.9, 0.5, 144),
        "labels": torch.zeros(144, dtype=torch.int64),
    }
    stats = joined([scene], 1)
    assert summarize_boxes(stats, ["roof"])["ar100"] == pytest.approx(100 / 144)
    metrics = summarize_boxes(stats, ["roof"], 300)
    assert (metrics["ar300"], metrics["ap"]) == (pytest.approx(1), pytest.approx(1))
    assert "ar100" not in metrics
    assert capped_note(stats, 144, 0.5).startswith("1 of 1 images have task.max_detections=144")
    assert capped_note(stats, 200, 0.5) == ""


def test_matched_boxes_of_drawn_images_equal_those_that_are_matched_again() -> None:
    names, rng = list("abcd"), np.random.default_rng(0)
    stats = random_stats(1, images=10, crowds=0.1)
    matched = MatchedBoxes(stats, len(names), 100)
    for _ in range(5):
        drawn = rng.integers(10, size=10)
        again = summarize_boxes({name: each[drawn] for name, each in stats.items()}, names)
        assert repr(matched.summarize(names, drawn.tolist())) == repr(again)
