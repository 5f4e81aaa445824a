"""COCO box metrics from per-image statistics, and a diagnosis of a detector whose AP stays 0.

The protocol is that of cocodataset.org/#detection-eval, computed by faster-coco-eval: AP is the
mean over IoU thresholds of 0.50 to 0.95 and over classes.

Shapes: N images, K detections and M boxes of an image, both padded; boxes are xyxy in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

MAX_DETECTIONS = 100
"""COCO's maximum number of detections per image, and the least that metrics use."""
AREAS = ("all", "small", "medium", "large")
LOW_AP50 = 0.01
"""AP50 below which a diagnosis is given."""


def room_for_objects(most: int) -> int:
    """Return a maximum number of detections for images with up to `most` objects.

    COCO's maximum, or at least half as many again as there are objects, rounded up to hundreds.
    """
    return max(MAX_DETECTIONS, math.ceil(1.5 * most / 100) * 100)


def capped_note(stats: Mapping[str, Tensor], maximum: int, threshold: float) -> str:
    """Return a note on the images with `maximum` detections of at least `threshold`; "" if none."""
    scores = stats["scores"]
    capped = int(((scores >= threshold).sum(1) >= maximum).sum()) if scores.numel() else 0
    if not capped:
        return ""
    return (
        f"{capped} of {len(scores)} images have task.max_detections={maximum} detections with a "
        f"score of at least {threshold}: further objects are not predicted; raise it"
    )


def summarize_boxes(
    stats: Mapping[str, Tensor], names: Sequence[str], maximum: int = MAX_DETECTIONS
) -> dict[str, float]:
    """Compute ap, ap50, ap75, ap_small ..., ar1, ar10, ar100, and ap/<class>.

    All use up to `maximum` detections of an image, which names the last ar, such as ar600: COCO's
    are those of 100. Metrics of a size or a class that no true box has are left out.

    Stats: "boxes" [N, K, 4], "scores" and "labels" [N, K], "found" [N], the number of detections;
    "true_boxes" [N, M, 4], "true_labels", "true_areas" and "crowds" [N, M], "present" [N], the
    number of true boxes.
    """
    return MatchedBoxes(stats, len(names), maximum).summarize(names)


def _mean(values: np.ndarray) -> float:
    """Return the mean of the known values; the protocol marks the others with -1."""
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def measure_precision(
    stats: Mapping[str, Tensor], classes: int, maximum: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision [T, R, C, A, D] and recall [T, C, A, D]; -1 where there is no true box.

    T IoU thresholds of 0.50 to 0.95, R recalls of 0 to 1, C classes, A sizes as in AREAS, D limits
    of the detections of an image: 1, 10 and `maximum`.
    """
    return MatchedBoxes(stats, classes, maximum).measure()


class MatchedBoxes:
    """Detections matched to true boxes, image by image and class by class.

    Matching takes most of the time of COCO's metrics and concerns one image at a time, so metrics
    of resampled images need it once. A class is accumulated over the images that have it only.
    """

    def __init__(self, stats: Mapping[str, Tensor], classes: int, maximum: int) -> None:
        self._maximum = maximum
        self._images = len(stats["found"])
        self._classes = [
            _MatchedClass(objects, maximum) for objects in _objects_by_class(stats, classes)
        ]

    def measure(self, drawn: Sequence[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what `measure_precision` does, of all images or of `drawn` ones."""
        order = range(self._images) if drawn is None else drawn
        parts = [each.measure(order) for each in self._classes]
        precision, recall = (np.stack(each, axis=-3) for each in zip(*parts, strict=True))
        return precision, recall

    def summarize(
        self, names: Sequence[str], drawn: Sequence[int] | None = None
    ) -> dict[str, float]:
        """Compute the metrics of `summarize_boxes` of all or of `drawn` images."""
        precision, recall = self.measure(drawn)
        metrics = {"ap": _mean(precision[:, :, :, 0, -1])}
        metrics["ap50"] = _mean(precision[0, :, :, 0, -1])
        metrics["ap75"] = _mean(precision[5, :, :, 0, -1])
        for index, limit in enumerate((1, 10, self._maximum)):
            metrics[f"ar{limit}"] = _mean(recall[:, :, 0, index])
        for index, area in enumerate(AREAS[1:], start=1):
            metrics[f"ap_{area}"] = _mean(precision[:, :, :, index, -1])
            metrics[f"ar_{area}"] = _mean(recall[:, :, index, -1])
        for index, name in enumerate(names):
            metrics[f"ap/{name}"] = _mean(precision[:, :, index, 0, -1])
        known = {name: value for name, value in metrics.items() if not np.isnan(value)}
        return {name: metrics[name] for name in ("ap", "ap50")} | known


class _MatchedClass:
    """The boxes of one class, matched in each image that has any."""

    def __init__(self, objects: _ClassObjects, maximum: int) -> None:
        from faster_coco_eval import COCO, COCOeval_faster

        images = sorted({item["image_id"] for side in objects for item in side})
        data = {"images": [{"id": image} for image in images], "categories": [{"id": 1}]}
        truth = COCO({**data, "annotations": objects.true}, use_deepcopy=False)
        found = objects.found
        results = truth.loadRes(found) if found else COCO({**data, "annotations": []})
        evaluator = COCOeval_faster(truth, results, iouType="bbox", separate_eval=True)
        evaluator.params.maxDets = [1, 10, maximum]
        evaluator.evaluate()
        self._params, self._areas = evaluator._paramsEval, len(AREAS)
        self._matches = evaluator._evalImgs_cpp  # [area x image]
        self._places = {image: place for place, image in enumerate(images)}

    def measure(self, order: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return precision [T, R, A, D] and recall [T, A, D] of images in this order."""
        from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate

        places = [self._places[image] for image in order if image in self._places]
        count = len(self._places)
        self._params.imgIds = list(range(len(places)))
        matches = [self._matches[area * count + at] for area in range(self._areas) for at in places]
        found = COCOevalAccumulate(self._params, matches)
        thresholds, recalls, _, areas, limits = found["counts"]
        precision = np.asarray(found["precision"]).reshape(thresholds, recalls, areas, limits)
        return precision, np.asarray(found["recall"]).reshape(thresholds, areas, limits)


class _ClassObjects(NamedTuple):
    """True and detected boxes of a class, as the COCO format has them; images count from 0."""

    true: list[dict[str, Any]]
    found: list[dict[str, Any]]


def _objects_by_class(stats: Mapping[str, Tensor], classes: int) -> list[_ClassObjects]:
    objects = [_ClassObjects([], []) for _ in range(classes)]
    names = ("true_boxes", "true_labels", "true_areas", "crowds", "boxes", "scores", "labels")
    columns = {name: stats[name].tolist() for name in names}
    for image, count in enumerate(stats["present"].tolist()):
        for at in range(int(count)):
            true = objects[int(columns["true_labels"][image][at])].true
            true.append(
                {
                    "id": len(true) + 1,
                    "area": columns["true_areas"][image][at],
                    "iscrowd": int(columns["crowds"][image][at]),
                    **_as_coco(image, columns["true_boxes"][image][at]),
                }
            )
    for image, count in enumerate(stats["found"].tolist()):
        for at in range(int(count)):
            box, score = columns["boxes"][image][at], columns["scores"][image][at]
            found = objects[int(columns["labels"][image][at])].found
            found.append({**_as_coco(image, box), "score": score})
    return objects


def _as_coco(image: int, box: Sequence[float]) -> dict[str, Any]:
    sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    return {"image_id": image, "category_id": 1, "bbox": sides}


def measure_overlaps(stats: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return statistics of each true box of all images.

    "any" is the largest IoU with a detection, "class" the same with a detection of its class,
    "rank" the number of detections of the image that score higher than that one.
    """
    overlaps: dict[str, list[float]] = {"any": [], "class": [], "rank": []}
    for image in range(len(stats["present"])):
        count, true = int(stats["found"][image]), int(stats["present"][image])
        iou = box_iou(
            stats["true_boxes"][image, :true], stats["boxes"][image, :count]
        )  # [true, count]
        same = stats["true_labels"][image, :true, None] == stats["labels"][image, None, :count]
        for ious, has_class in zip(iou, same, strict=True):
            if not count:
                ious, has_class = torch.zeros(1), torch.zeros(1, dtype=torch.bool)
            of_class = ious * has_class
            overlaps["any"].append(float(ious.max()))
            overlaps["class"].append(float(of_class.max()))
            overlaps["rank"].append(float(of_class.argmax()))
    return {name: torch.tensor(values) for name, values in overlaps.items()}


def diagnose(stats: Mapping[str, Tensor], loss: float, first_loss: float | None) -> str | None:
    """Explain an AP of about 0 by the stage of the detector that fails; None without true boxes."""
    if not int(stats["present"].sum()):
        return None
    overlaps = measure_overlaps(stats)
    shares = {name: float((overlaps[name] >= 0.5).float().mean()) for name in ("any", "class")}
    best = float(stats["scores"].max()) if stats["scores"].numel() else 0.0
    summary = (
        f"{shares['any']:.0%} of the true boxes have a detection with IoU >= 0.5, "
        f"{shares['class']:.0%} one of their class; best score: {best:.2f}"
    )
    if first_loss is not None and not loss < 0.9 * first_loss:
        cause = (
            f"learning rate: the loss is {loss:.2f}, and was {first_loss:.2f} before training; "
            "train for more steps, or change optim.lr and optim.head_lr by a factor of 3"
        )
    elif not int(stats["found"].sum()):
        cause = "low scores: no detection reaches the minimum score; train for more epochs"
    elif shares["any"] < 0.05:
        cause = (
            f"no match: the best IoU is {float(overlaps['any'].mean()):.2f} on average; if this "
            "persists, check the drawn boxes (task.boxes), and make objects larger than 16 pixels "
            "in the input (task.image_size, task.tile)"
        )
    elif shares["class"] < 0.5 * shares["any"]:
        cause = (
            "wrong class: boxes are found but misclassified; train for more epochs, and check the "
            "labels"
        )
    else:
        cause = "low scores: other boxes score higher than the matching ones; train for more epochs"
    return f"AP50 is about 0. {cause} ({summary})"
