"""COCO's metrics of boxes from statistics of images, and what hinders a detector whose AP stays 0.

The protocol is that of cocodataset.org/#detection-eval, computed by faster-coco-eval: AP is the
mean over intersections over union of 0.50 to 0.95 and over classes.

Shapes: N images, K detections and M boxes of an image, both padded; boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

MOST = 100
"""Detections of an image that count."""
AREAS = ("all", "small", "medium", "large")
LOW = 0.01
"""AP50 under which it is said what hinders."""


def summarize_boxes(stats: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """ap, ap50, ap75, ap_small ..., ar1, ar10, ar100, and ap/<class>.

    Of a size or a class that no box has, nothing is said. Stats: "boxes" [N, K, 4], "scores" and
    "labels" [N, K], "found" [N]; "true_boxes" [N, M, 4], "true_labels", "true_areas" and "crowds"
    [N, M], "present" [N].
    """
    precision, recall = _evaluate(stats, len(names))  # [T, R, C, A, D], [T, C, A, D]
    metrics = {"ap": _mean(precision[:, :, :, 0, -1])}
    metrics["ap50"] = _mean(precision[0, :, :, 0, -1])
    metrics["ap75"] = _mean(precision[5, :, :, 0, -1])
    for place, most in enumerate((1, 10, MOST)):
        metrics[f"ar{most}"] = _mean(recall[:, :, 0, place])
    for place, area in enumerate(AREAS[1:], start=1):
        metrics[f"ap_{area}"] = _mean(precision[:, :, :, place, -1])
        metrics[f"ar_{area}"] = _mean(recall[:, :, place, -1])
    for place, name in enumerate(names):
        metrics[f"ap/{name}"] = _mean(precision[:, :, place, 0, -1])
    said = {name: value for name, value in metrics.items() if not np.isnan(value)}
    return {name: metrics[name] for name in ("ap", "ap50")} | said


def _mean(values: np.ndarray) -> float:
    """Of what is known: the protocol marks with -1 what no box has."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _evaluate(stats: Mapping[str, Tensor], classes: int) -> tuple[np.ndarray, np.ndarray]:
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_as_coco(stats, classes), use_deepcopy=False)
    detections = _detections(stats)
    found = truth.loadRes(detections) if detections else COCO({**truth.dataset, "annotations": []})
    evaluator = COCOeval_faster(truth, found, iouType="bbox")
    evaluator.params.maxDets = [1, 10, MOST]
    evaluator.params.catIds = list(range(1, classes + 1))
    evaluator.evaluate()
    evaluator.accumulate()
    shape = evaluator.eval["counts"]  # T, R, C, A, D
    precision = np.asarray(evaluator.eval["precision"]).reshape(shape)
    recall = np.asarray(evaluator.eval["recall"]).reshape(shape[0], *shape[2:])
    return precision, recall


def _as_coco(stats: Mapping[str, Tensor], classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    held = {name: stats[name].tolist() for name in ("true_boxes", "true_labels", "true_areas")}
    crowds, present = stats["crowds"].tolist(), stats["present"].tolist()
    for image, count in enumerate(present):
        for place in range(int(count)):
            left, top, right, bottom = held["true_boxes"][image][place]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(held["true_labels"][image][place]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": held["true_areas"][image][place],
                    "iscrowd": int(crowds[image][place]),
                }
            )
    return {
        "images": [{"id": image + 1} for image in range(len(present))],
        "annotations": annotations,
        "categories": [{"id": place + 1, "name": str(place)} for place in range(classes)],
    }


def _detections(stats: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    boxes, scores, labels = (stats[name].tolist() for name in ("boxes", "scores", "labels"))
    return [
        {
            "image_id": image + 1,
            "category_id": int(labels[image][place]) + 1,
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": scores[image][place],
        }
        for image, count in enumerate(stats["found"].tolist())
        for place, box in enumerate(boxes[image][: int(count)])
    ]


def overlaps(stats: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each true box: "any", the largest intersection over union with a detection; "class", the
    same with one of its class; "rank", how many detections of the image score higher than that one.
    """
    found: dict[str, list[float]] = {"any": [], "class": [], "rank": []}
    for image in range(len(stats["present"])):
        count, true = int(stats["found"][image]), int(stats["present"][image])
        iou = box_iou(
            stats["true_boxes"][image, :true], stats["boxes"][image, :count]
        )  # [true, count]
        same = stats["true_labels"][image, :true, None] == stats["labels"][image, None, :count]
        for own, of_class in zip(iou, same, strict=True):
            if not count:
                own, of_class = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
            fitting = own * of_class
            found["any"].append(float(own.max()))
            found["class"].append(float(fitting.max()))
            found["rank"].append(float(fitting.argmax()))
    return {name: torch.tensor(values) for name, values in found.items()}


def diagnose(stats: Mapping[str, Tensor], loss: float, first_loss: float | None) -> str | None:
    """Which stage of a detector is still empty, where its AP is about 0; None without true
    boxes.
    """
    if not int(stats["present"].sum()):
        return None
    found = overlaps(stats)
    shares = {name: float((found[name] >= 0.5).float().mean()) for name in ("any", "class")}
    best = float(stats["scores"].max()) if stats["scores"].numel() else 0.0
    told = (
        f"of the true boxes {shares['any']:.0%} overlap with a detection by half, "
        f"{shares['class']:.0%} with one of their class; the best score is {best:.2f}"
    )
    if first_loss is not None and not loss < 0.9 * first_loss:
        cause = (
            f"learning rate: the loss is {loss:.2f} after {first_loss:.2f} before training; give "
            "it more steps, or change optim.lr and optim.head_lr by a factor of 3"
        )
    elif not int(stats["found"].sum()):
        cause = "low score: no detection is over the least score; train for more epochs"
    elif shares["any"] < 0.05:
        cause = (
            f"no match: the best overlap is {float(found['any'].mean()):.2f} on average; if that "
            "lasts, look at the drawn boxes (task.boxes), and let objects be larger than 16 pixels "
            "on the input (task.image_size, task.tile)"
        )
    elif shares["class"] < 0.5 * shares["any"]:
        cause = "wrong class: boxes are found but named otherwise; train longer, look at the labels"
    else:
        cause = "low score: other boxes score higher than those that fit; train for more epochs"
    return f"AP50 is about 0. {cause} ({told})"
