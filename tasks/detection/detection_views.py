"""Views of object detection: text, drawings, the pipeline's output format and model-card code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune.model import TransferModel
from finetune.task_parts import REPOSITORY, CardFacts, Prediction, Row, Sample, Stats, Views
from tasks.detection.detection_metrics import LOW_AP50, capped_note, diagnose
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
    """Return the model-card code of a transformers detector; it defines `detect(path)`.

    There is no code for adapters: peft calls get_input_embeddings, which the detectors of
    transformers 5.24 do not implement.
    """
    return USAGE.format(repository=REPOSITORY, threshold=threshold).strip()


def to_prediction(detections: Mapping[str, Tensor], names: Sequence[str]) -> Prediction:
    """Convert the detections of an image to a prediction; boxes are rounded to 0.01 pixels.

    {"detections": [{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}]}
    """
    columns = ("scores", "labels", "boxes")
    rows = zip(*(detections[name].tolist() for name in columns), strict=True)
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
    """Return the output of transformers' object-detection pipeline: boxes in whole pixels."""
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
        return [f"{split}: no objects of {', '.join(missing)}; these classes are not evaluated"]

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        if metrics["ap50"] < LOW_AP50:
            return diagnose(stats, metrics["loss"], first.get("loss")) or ""
        maximum, threshold = self.task.max_detections, self.task.resolved_.score_threshold
        return capped_note(stats, maximum, threshold)

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """Draw a contact sheet of predicted and true boxes, on images spread over the split."""
        reader, threshold = self.task.rows, self.task.resolved_.score_threshold
        sheet = draw_detection_sheet(
            lambda index: reader.image(rows[index]), stats, self.task.labels, threshold
        )
        path = folder / "contact-sheet.jpg"
        sheet.save(path)
        return [path]

    def present(self, prediction: Prediction) -> Any:
        return detections_to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        reader, labels = self.task.rows, self.task.labels
        image, marks = reader.image(row), None
        if row.get(reader.objects.column) is not None:
            truth = reader.objects.truth(row, (image.height, image.width), labels)
            marks = true_marks(truth, labels)
        path = folder / f"{name}.png"
        draw_pair(image, predicted_marks(prediction), marks, labels).save(path)
        return [path]

    def card(self, model: TransferModel) -> CardFacts:
        config = self.task.resolved_
        # transformers cannot merge tiles: no code can be shown for it.
        if self.task.processor_ is None or config.tile is not None:
            return CardFacts(config.name)
        return CardFacts(config.name, "transformers", detection_card_code(config.score_threshold))
