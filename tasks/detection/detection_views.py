"""Views of object detection: text, drawings, the pipeline's output format and model-card code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from finetune.config.formats import WRITTEN_TABLES
from finetune.errors import DataError, format_count
from finetune.model import Batch, TransferModel
from finetune.reports.temperature import unscale_item
from finetune.task_parts.samples import Prediction, Row, Sample, Stats
from finetune.task_parts.views import (
    REPOSITORY,
    CardFacts,
    ItemScores,
    NamedRow,
    Outcome,
    Picture,
    PredictionForm,
    Views,
)
from tasks.box_audits.box_outcomes import box_outcomes
from tasks.box_audits.detector_report import ReportedDetector, detector_sections
from tasks.box_audits.doubt_lines import doubt_lines
from tasks.box_audits.doubtful_boxes import find_doubts
from tasks.box_audits.drawing import (
    SIDES,
    Mark,
    class_colors,
    draw_marks,
    draw_pair,
    predicted_marks,
    scaled,
    true_marks,
)
from tasks.box_audits.judged_boxes import CORRECT, IGNORED, judge_boxes
from tasks.detection.detection_config import USUAL_THRESHOLD
from tasks.detection.detection_metrics import (
    LOW_AP50,
    MatchedBoxes,
    capped_note,
    diagnose,
    measure_precision,
)
from tasks.image.image_reading import picture_size
from tasks.image.picture_rows import as_rgb, describe_pixels
from tasks.image.preprocessing import INPUT
from tasks.image.sheets import IMAGES_ON_SHEET, make_sheet, shrink

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection
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


def detection_forms(
    labels: Sequence[str], size: Callable[[Row], tuple[int, int]]
) -> dict[str, PredictionForm]:
    """Return the forms of detections that other tools read; `size` gives (H, W) of a row's image.

    boxes: a table with a box per line. coco: results as cocodataset.org/#format-results has them;
    the image id is the number that the file is named by, else its name. yolo: class, center and
    size in shares of the image, and score.
    """

    def boxes(row: Row, name: str, prediction: Prediction) -> list[Row]:
        items = prediction["detections"]
        return [
            {"image": name, "label": item["label"], "score": item["score"], **item["box"]}
            for item in items
        ]

    def coco(row: Row, name: str, prediction: Prediction) -> list[Row]:
        stem, records = Path(name).stem, []
        for item in prediction["detections"]:
            left, top, right, bottom = (item["box"][side] for side in SIDES)
            records.append(
                {
                    "image_id": int(stem) if stem.isdecimal() else stem,
                    "category_id": labels.index(item["label"]) + 1,
                    "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
                    "score": item["score"],
                    "file_name": name,
                    "category": item["label"],
                }
            )
        return records

    def yolo(row: Row, name: str, prediction: Prediction) -> list[Row]:
        height, width = size(row)
        records = []
        for item in prediction["detections"]:
            left, top, right, bottom = (item["box"][side] for side in SIDES)
            shares = {
                "x": (left + right) / 2 / width,
                "y": (top + bottom) / 2 / height,
                "width": (right - left) / width,
                "height": (bottom - top) / height,
                "score": item["score"],
            }
            rounded = {key: f"{value:.6f}" for key, value in shares.items()}
            records.append({"class": labels.index(item["label"]), **rounded})
        return records

    classes = "".join(f"{label}\n" for label in labels)
    return {
        "boxes": PredictionForm(boxes, ("image", "label", "score", *SIDES), WRITTEN_TABLES),
        "coco": PredictionForm(coco, endings=(".json",)),
        "yolo": PredictionForm(yolo, files={"classes.txt": classes}),
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
        boxes = (
            ""
            if target is None
            else f", {format_count(sum(map(len, target['boxes'])), 'box', 'es')}"
        )
        return describe_pixels(sample["inputs"][INPUT]) + boxes

    def metric_names(self) -> list[str]:
        last = f"ar{self.task.measured_detections}"
        return [*self.task.config.measured, last, *(f"ap/{name}" for name in self.task.labels)]

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        present = {label for row in rows for label in self.task.rows.labels(row)}
        missing = sorted(set(self.task.labels) - present)
        if not missing:
            return []
        return [f"{split}: no objects of {', '.join(missing)}; these classes are not evaluated"]

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        if metrics.get("ap50", 0.0) < LOW_AP50:
            return diagnose(stats, metrics["loss"], first.get("loss")) or ""
        maximum, threshold = self.task.max_detections, self.task.score_threshold
        return capped_note(self.task.scaled(stats), maximum, threshold)

    def summarizer(self, stats: Stats) -> Callable[[Sequence[int]], dict[str, float]]:
        labels = self.task.labels
        matched = MatchedBoxes(stats, len(labels), self.task.measured_detections)
        return lambda some: matched.summarize(labels, some)

    def item_scores(self, stats: Stats) -> ItemScores:
        """Return the scores of boxes, right where they match a true one at an IoU of 0.5."""
        judged = judge_boxes(stats)
        counted = judged.kinds != IGNORED
        return ItemScores(
            judged.scores[counted],
            judged.kinds[counted] == CORRECT,
            judged.images[counted],
            np.bincount(judged.true_images, minlength=len(stats["found"])),
            USUAL_THRESHOLD,
        )

    def item_issues(
        self, stats: Stats, read: Callable[[Sequence[int]], Sequence[Row]]
    ) -> list[tuple[int, Row]]:
        def numbers(row: Row) -> list[int]:
            return self.task.rows.objects.numbers(row, self._size(row))

        names, judged = self.task.labels, judge_boxes(self.task.scaled(stats))
        doubts = find_doubts(judge_boxes(stats), len(names))  # made for the network's scores
        return doubt_lines(doubts, judged, names, lambda places: map(numbers, read(places)))

    def keep_scale(self, scale: Sequence[float] | None) -> None:
        self.task.scale_ = None if scale is None else list(scale)

    def keep_decisions(self, state: Mapping[str, Any]) -> None:
        self.task.learned_threshold_ = state.get("score_threshold")

    def pictures(self, batch: Batch) -> list[Picture]:
        """Render the inputs with the boxes that the network learns, tiles each on their own."""
        contents = batch["frames"][:, :2]
        learned = self.task.head_.learned_boxes(batch["targets"]["head"], contents)
        restored = map(self.task.canvas_.preprocessing.restore, batch["inputs"][INPUT].cpu())
        shown, colors = [], class_colors(self.task.labels)
        for pixels, (boxes, labels) in zip(restored, learned, strict=True):
            image = Image.fromarray(as_rgb(pixels.permute(1, 2, 0).numpy()).copy())
            marks = true_marks(boxes, labels, self.task.labels)
            caption = format_count(len(marks), "box", "es")
            shown.append(Picture(caption, np.asarray(draw_marks(image, marks, colors))))
        return shown

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        return box_outcomes(self.task.scaled(stats), self.task.labels, self.task.score_threshold)

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        """Describe the errors by kind, and precision by class, confidence, overlap and size."""
        labels, maximum = self.task.labels, self.task.measured_detections
        precision, recall = measure_precision(evidence.stats, len(labels), maximum)
        curves, scaled = (precision[..., -1], recall[..., -1]), self.task.scaled(evidence.stats)
        threshold, image = self.task.score_threshold, self.task.rows.image
        items = self.item_scores(scaled)
        detector = ReportedDetector(scaled, items, curves, labels, threshold, image)
        return list(detector_sections(evidence, detector))

    illustrated = IMAGES_ON_SHEET

    def illustrate(
        self,
        rows: Sequence[NamedRow],
        stats: Stats,
        predict: Callable[[], Sequence[Prediction]],
        folder: Path,
    ) -> list[Path]:
        """Draw a contact sheet of predicted and true boxes."""
        pairs = []
        for name, row, index in rows:
            image = self.task.rows.image(row)
            small, factor = shrink(image)
            marks = scaled(predicted_marks(self._measured_prediction(stats, index)), factor)
            truth = scaled(self._true_marks(row, image) or [], factor)
            pairs.append(draw_pair(small, marks, truth, self.task.labels, name))
        path = folder / "contact-sheet.jpg"
        make_sheet(pairs).save(path)
        return [path]

    def _measured_prediction(self, stats: Stats, image: int) -> Prediction:
        """Return the prediction of an image, from the detections that its metrics use."""
        names, stats = ("boxes", "scores", "labels"), self.task.scaled(stats)
        kept = stats["scores"][image, : int(stats["found"][image])]
        kept = (kept >= self.task.score_threshold).nonzero()[: self.task.max_detections]
        return to_prediction({n: stats[n][image][kept[:, 0]] for n in names}, self.task.labels)

    def present(self, prediction: Prediction) -> Any:
        return detections_to_pipeline(prediction)

    @property
    def forms(self) -> Mapping[str, PredictionForm]:
        return detection_forms(self.task.labels, self._size)

    def _size(self, row: Row) -> tuple[int, int]:
        return picture_size(self.task.rows.cell(row))

    def caveat(self, prediction: Prediction) -> str:
        maximum = self.task.max_detections
        if len(prediction["detections"]) < maximum:
            return ""
        return f"{maximum} boxes predicted, the most that task.max_detections allows; raise it"

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        image = self.task.rows.image(row)
        marks, path = self._true_marks(row, image), folder / f"{name}.png"
        draw_pair(image, predicted_marks(prediction), marks, self.task.labels).save(path)
        return [path]

    def _true_marks(self, row: Row, image: Image.Image) -> list[Mark] | None:
        """Return the true boxes of a row, also those of unknown classes; None if there are none."""
        objects = self.task.rows.objects
        if row.get(objects.column) is None:
            return None
        try:
            names = [*self.task.labels, *objects.unknown(row, self.task.labels)]
            truth = objects.truth(row, (image.height, image.width), names)
        except DataError:  # rows to predict are not checked for what the model does not read
            return None
        return true_marks(truth.boxes, truth.labels, names)

    def card(self, model: TransferModel) -> CardFacts:
        config = self.task.resolved_
        # transformers cannot merge tiles: no code can be shown for it.
        if self.task.processor_ is None or config.tile is not None:
            return CardFacts(config.name)
        # The pipeline gives scores as the network does.
        threshold = unscale_item(self.task.score_threshold, self.task.scale_)
        return CardFacts(config.name, "transformers", detection_card_code(round(threshold, 6)))
