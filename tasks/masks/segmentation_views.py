"""Views of segmentation: masks over images, the pipeline's output format, model-card code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.model import Batch, TransferModel
from finetune.task_parts import CardFacts, Picture, Prediction, Row, Sample, Views
from tasks.image.picture_rows import describe_pixels
from tasks.image.preprocessing import INPUT
from tasks.masks.segmentation_code import segmentation_card_code
from tasks.masks.segments import draw_mask, draw_prediction, segments_to_pipeline

if TYPE_CHECKING:
    from tasks.segmentation import Segmentation


class SegmentationViews(Views):
    """Views of segmentation."""

    def __init__(self, task: Segmentation) -> None:
        self.task = task

    def show(self, sample: Sample) -> str:
        return describe_pixels(sample["inputs"][INPUT])

    def pictures(self, batch: Batch) -> list[Picture]:
        pixels = map(self.task.preprocessing_.restore, batch["inputs"][INPUT].cpu())
        pairs = zip(pixels, batch["targets"], strict=True)
        return [draw_mask(image, mask.cpu(), self.task.coding_.names) for image, mask in pairs]

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        masks = self.task.rows.masks
        return masks.remarks(split, (masks.facts(row) for row in rows), self.task.coding_)

    def present(self, prediction: Prediction) -> Any:
        return segments_to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        image = self.task.rows.image(row)
        return draw_prediction(image, prediction, self.task.coding_.names, folder, name)

    def card(self, model: TransferModel) -> CardFacts:
        processor = self.task.processor_
        library = "segmentation-models-pytorch" if processor is None else "transformers"
        # Other libraries cannot merge tiles: no code can be shown for it.
        if self.task.resolved_.tile is not None:
            return CardFacts("image-segmentation", library)
        codes = segmentation_card_code(self.task.coding_.names, self.task.preprocessing_, processor)
        return CardFacts("image-segmentation", library, *codes)
