"""The sections that only detectors have in a report; the page puts the worst errors last."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image

from finetune.audit.sections import CLASSES, Note, ReportSection
from finetune.task_parts.samples import Row
from tasks.box_audits.doubt_sections import doubt_section
from tasks.box_audits.error_sections import error_section
from tasks.box_audits.judged_boxes import Array, judge_boxes
from tasks.box_audits.precision_sections import box_class_section, confidence_section, size_section
from tasks.box_audits.worst_pictures import worst_section

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence


def detector_sections(
    evidence: Evidence,
    curves: tuple[Array, Array],
    names: Sequence[str],
    threshold: float,
    open_image: Callable[[Row], Image.Image],
) -> Iterator[ReportSection]:
    """Yield the sections of a detector.

    `curves` are the precision [I, R, C, A] and the recall [I, C, A] of the COCO protocol,
    `threshold` is the score from which boxes are predicted, `open_image` decodes a row's image.
    """
    judged, (precision, recall) = judge_boxes(evidence.stats), curves
    yield error_section(judged, names, threshold, evidence.metrics.get("ap50"))
    yield worst_section(evidence, names, threshold, open_image)
    if not len(judged.true_labels):
        note = Note("No image has an object, so precision and recall are not defined.")
        yield ReportSection(CLASSES, "Precision by class", [note])
        return
    intervals = evidence.intervals
    yield box_class_section(judged, precision, names, intervals)
    yield confidence_section(judged, threshold)
    yield size_section(judged, precision, recall, threshold, intervals)
    yield doubt_section(evidence, judged, names, open_image)
