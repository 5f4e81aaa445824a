"""Detections as people and programs read them: as text, images and the types of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune.model import TransferModel
from finetune.task_parts import REPOSITORY, CardFacts, Prediction, Row, Sample, Stats, Views
from tasks.detection.detection_metrics import LOW, diagnose
from tasks.detection.drawing import (
    SIDES,
    draw_detection_sheet,
    draw_pair,
    predicted_marks,
    true_marks,
)
from tasks.image.picture_rows import describe_pixels
from tasks.image.preprocessing import INPUT

if TYPE_CHECKING:
    from tasks.object_detection import ObjectDetection

USAGE = """
from transformers import pipeline

pipe = pipeline("object-detection", "{repository}")


def detect(path):
    return pipe(path, threshold={threshold})


print(detect("picture.jpg"))
"""


def detection_card_code(threshold: float) -> str:
    """The code on the card of a detector of transformers; it defines `detect`: a path -> boxes.

    There is none for an adapter: peft asks a network for its input embeddings, which the detectors
    of transformers 5.24 refuse to be asked for.
    """
    return USAGE.format(repository=REPOSITORY, threshold=threshold).strip()


def say(found: Mapping[str, Tensor], names: Sequence[str]) -> Prediction:
    """{"detections": [{"score", "label", "box": {"xmin", ...}}]} of the detections
    of a picture; boxes in pixels, to a hundredth.
    """
    rows = zip(*(found[name].tolist() for name in ("scores", "labels", "boxes")), strict=True)
    return {
        "detections": [
            {
                "score": score,
                "label": names[label],
                "box": {side: round(value, 2) for side, value in zip(SIDES, box, strict=True)},
            }
            for score, label, box in rows
        ]
    }


def detections_to_pipeline(prediction: Prediction) -> list[dict[str, Any]]:
    """The list that the object-detection pipeline of transformers gives: boxes in whole pixels."""
    return [
        {**item, "box": {side: int(value) for side, value in item["box"].items()}}
        for item in prediction["detections"]
    ]


class DetectionViews(Views):
    """Views of object detection."""

    length_unit = "tiles"

    def __init__(self, task: ObjectDetection) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        target = sample.get("target")
        boxes = "" if target is None else f", {sum(map(len, target['boxes']))} boxes"
        return describe_pixels(sample["inputs"][INPUT]) + boxes

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        present = {label for row in rows for label in self.task.rows.labels(row)}
        missing = sorted(set(self.task.labels) - present)
        if not missing:
            return []
        return [f"{split}: shows no {', '.join(missing)}: nothing is measured of that"]

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        if not metrics["ap50"] < LOW:
            return ""
        return diagnose(stats, metrics["loss"], first.get("loss")) or ""

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """A contact sheet: detections and true boxes, on images spread over the split."""
        path, own = folder / "contact-sheet.jpg", self.task.rows
        least = self.task.resolved_.score_threshold
        draw_detection_sheet(lambda n: own.image(rows[n]), stats, self.task.labels, least).save(
            path
        )
        return [path]

    def present(self, prediction: Prediction) -> Any:
        return detections_to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        own, labels = self.task.rows, self.task.labels
        image, truth = own.image(row), None
        if row.get(own.objects.column) is not None:
            found = own.objects.truth(row, (image.height, image.width), labels)
            truth = true_marks(found, labels)
        path = folder / f"{name}.png"
        draw_pair(image, predicted_marks(prediction), truth, labels).save(path)
        return [path]

    def card(self, model: TransferModel) -> CardFacts:
        config = self.task.resolved_
        if self.task.processor_ is None or config.tile is not None:  # what joins tiles is here
            return CardFacts(config.name)
        return CardFacts(config.name, "transformers", detection_card_code(config.score_threshold))
