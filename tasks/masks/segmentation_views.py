"""Views of segmentation: masks over images, the pipeline's output format, model-card code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finetune.audit.sections import WORST, Block, Card, Cards, ColorKey, Note, ReportSection
from finetune.model import Batch, TransferModel
from finetune.task_parts.samples import Prediction, Row, Sample, Stats
from finetune.task_parts.views import CardFacts, NamedRow, Outcome, Picture, Views
from tasks.audits.mask_sections import class_section, pixel_confusion_section
from tasks.image.picture_rows import RGB, describe_pixels
from tasks.image.preprocessing import INPUT
from tasks.image.sheets import IMAGES_ON_SHEET, make_sheet
from tasks.masks.segmentation_code import segmentation_card_code
from tasks.masks.segments import (
    draw_legend,
    draw_mask,
    draw_mistakes,
    draw_prediction,
    draw_triple,
    hex_colors,
    segments_to_pipeline,
)

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence
    from tasks.segmentation import Segmentation

WORST_SHOWN = 12  # images in a report


def _outcome(areas: Tensor, names: Sequence[str]) -> Outcome:
    """Return the outcome of an image from its areas [K, 3] of `count_areas`."""
    hits, predicted, true = areas.double().unbind(1)  # [K] each
    union = predicted + true - hits
    iou = float((hits / union)[union > 0].mean()) if union.any() else 1.0
    found = {"true": true, "predicted": predicted}
    classes = {
        key: [name for name, count in zip(names, counts.tolist(), strict=True) if count]
        for key, counts in found.items()
    }
    return Outcome({**classes, "iou": iou}, 1 - iou)


class SegmentationViews(Views):
    """Views of segmentation."""

    def __init__(self, task: Segmentation) -> None:
        self.task = task

    def metric_names(self) -> list[str]:
        names = self.task.coding_.names
        by_class = [f"{kind}/{name}" for kind in ("iou", "dice") for name in names]
        return [*self.task.config.measured, *by_class]

    def show(self, sample: Sample) -> str:
        return describe_pixels(sample["inputs"][INPUT])

    def pictures(self, batch: Batch) -> list[Picture]:
        pixels = map(self.task.preprocessing_.restore, batch["inputs"][INPUT].cpu())
        pairs = zip(pixels, batch["targets"], strict=True)
        return [draw_mask(image, mask.cpu(), self.task.coding_.names) for image, mask in pairs]

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        masks = self.task.rows.masks
        return masks.remarks(split, (masks.facts(row) for row in rows), self.task.coding_)

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        """Return the classes in the true and in the predicted mask, and the mean IoU of these."""
        return [_outcome(areas, self.task.coding_.names) for areas in stats["areas"]]

    illustrated = IMAGES_ON_SHEET

    def illustrate(
        self,
        rows: Sequence[NamedRow],
        stats: Stats,
        predict: Callable[[], Sequence[Prediction]],
        folder: Path,
    ) -> list[Path]:
        """Draw a contact sheet of images with their true and predicted masks."""
        reader, names, triples = self.task.rows, self.task.coding_.names, []
        for (name, row, _), prediction in zip(rows, predict(), strict=True):
            image = reader.image(row)
            mask = reader.masks.classes(row, (image.height, image.width), self.task.coding_)
            if mask is not None:
                triples.append(draw_triple(image, mask.numpy(), prediction, names, name))
        path = folder / "contact-sheet.jpg"
        draw_legend(make_sheet(triples), names).save(path)
        return [path]

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        names, areas = self.task.coding_.names, evidence.stats["areas"].numpy()
        confusions = evidence.stats["confusions"].numpy()
        return [
            class_section(areas, names, evidence.intervals, evidence.numbers),
            pixel_confusion_section(areas, confusions, names),
            self._worst_pictures(evidence),
        ]

    def _worst_pictures(self, evidence: Evidence) -> ReportSection:
        """Show the images with the lowest IoU beside their masks and their wrong pixels."""
        reader, coding = self.task.rows, self.task.coding_
        worst = [n for n in evidence.worst_first[:WORST_SHOWN] if evidence.outcomes[n].mistake > 0]
        rows, predictions, cards = evidence.rows(worst), evidence.predict(worst), list[Card]()
        for position, row, prediction in zip(worst, rows, predictions, strict=True):
            image = reader.image(row)
            mask = reader.masks.classes(row, (image.height, image.width), coding)
            assert mask is not None, "rows of an evaluation have masks"
            pictures, wrong = draw_mistakes(image, mask.numpy(), prediction, coding.names)
            iou = evidence.outcomes[position].columns["iou"]
            facts = {"IoU": f"{iou:.4f}", "wrong pixels": f"{wrong:.1%}"}
            title = f"row {evidence.numbers[position]}: {evidence.content(row)}"
            cards.append(Card(title, facts, pictures=pictures))
        blocks: list[Block] = [Note("No pixel is wrong.")]
        if cards:
            first, *others = hex_colors(coding.names).items()
            key = {f"{first[0]} (not painted)": "transparent", **dict(others)}
            blocks = [ColorKey(key), Cards(WORST, cards)]
        return ReportSection(WORST, "Worst pictures", blocks)

    def present(self, prediction: Prediction) -> Any:
        return segments_to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        image = self.task.rows.image(row)
        return draw_prediction(image, prediction, self.task.coding_.names, folder, name)

    def card(self, model: TransferModel) -> CardFacts:
        processor = self.task.processor_
        library = "segmentation-models-pytorch" if processor is None else "transformers"
        config = self.task.resolved_
        is_plain = config.pixel_range is None and self.task.preprocessing_.channels == RGB
        # Other libraries cannot merge tiles, and read 8-bit RGB: no code can be shown for it.
        if config.tile is not None or not is_plain:
            return CardFacts("image-segmentation", library)
        codes = segmentation_card_code(self.task.coding_.names, self.task.preprocessing_, processor)
        return CardFacts("image-segmentation", library, *codes)
