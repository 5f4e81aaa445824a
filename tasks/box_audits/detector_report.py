"""The sections that only detectors have in a report; the page puts the worst errors last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from finetune.audit.label_sections import reliability_section
from finetune.audit.sections import CLASSES, Note, ReportSection
from finetune.reports.reliability import item_bins, item_error
from finetune.task_parts.samples import Row, Stats
from finetune.task_parts.views import ItemScores
from tasks.box_audits.doubt_sections import doubt_section
from tasks.box_audits.error_sections import error_section
from tasks.box_audits.judged_boxes import Array, judge_boxes
from tasks.box_audits.precision_sections import box_class_section, confidence_section, size_section
from tasks.box_audits.worst_pictures import worst_section

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence


@dataclass(frozen=True)
class ReportedDetector:
    """What the sections of a detector are made of, beside the evidence.

    Attributes:
        stats: the statistics with the scores of predictions, which may be calibrated.
        items: the scores of boxes in them.
        curves: the precision [I, R, C, A] and the recall [I, C, A] of the COCO protocol.
        names: the classes.
        threshold: the score from which boxes are predicted.
        open_image: function that decodes a row's image.
    """

    stats: Stats
    items: ItemScores
    curves: tuple[Array, Array]
    names: Sequence[str]
    threshold: float
    open_image: Callable[[Row], Image.Image]


def detector_sections(evidence: Evidence, detector: ReportedDetector) -> Iterator[ReportSection]:
    """Yield the sections of a detector."""
    judged, (precision, recall) = judge_boxes(detector.stats), detector.curves
    names, threshold, open_image = detector.names, detector.threshold, detector.open_image
    yield error_section(judged, names, threshold, evidence.metrics.get("ap50"))
    yield worst_section(evidence, detector.stats, names, threshold, open_image)
    if not len(judged.true_labels):
        note = Note("No image has an object, so precision and recall are not defined.")
        yield ReportSection(CLASSES, "Precision by class", [note])
        return
    intervals = evidence.intervals
    yield box_class_section(judged, precision, names, intervals)
    yield confidence_section(judged, threshold)
    if len(detector.items.scores):
        error, bins = item_error(detector.items), item_bins(detector.items)
        yield reliability_section(error, bins, "Detections")
    yield size_section(judged, precision, recall, threshold, intervals)
    yield doubt_section(evidence, judged, names, open_image)
