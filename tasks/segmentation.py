"""Semantic segmentation: a class for every pixel of an image.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png"}; either may also be bytes,
{"bytes", "path"} or a PIL image. A mask may also be given as the objects of a COCO row.

Shapes: B rows, H, W pixels, K classes, P pairs of classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from finetune.config.schema import ModelConfig
from finetune.errors import DataError
from finetune.model import Batch, TransferModel
from finetune.task import Parts, Task
from finetune.task_parts.optional_parts import Onnx
from finetune.task_parts.samples import Prediction, Rng, Row, RowTable, Sample, Stats
from tasks.classification.label_views import similar_names
from tasks.image import tiles
from tasks.image.augmentation import channel_settings, check_color_changes
from tasks.image.image_config import JOINT_PRESETS, is_active, settle_augmentation
from tasks.image.image_reading import picture_size
from tasks.image.joint_augmentation import JointAugmentation, Scene
from tasks.image.preprocessing import (
    INPUT,
    Preprocessing,
    save_processor,
    to_channels_first,
    to_processor,
)
from tasks.masks import mask_losses as losses
from tasks.masks.mask_coding import MaskCoding
from tasks.masks.mask_rows import MaskRows
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.masks.segmentation_views import SegmentationViews
from tasks.masks.segments import most_likely_classes, to_segments
from tasks.pixels.image_cells import path_of
from tasks.pixels.input_sizes import Size, fit_input

if TYPE_CHECKING:  # timm and transformers take seconds to import; configs do not need them
    from tasks.backbones.vision_sources import VisionSource
    from tasks.masks.segmentation_models import SegmentationModel


class Segmentation(Task):
    """Classify pixels with any timm encoder, or a segmentation network of transformers."""

    name = "segmentation"
    Config = SegmentationConfig
    metric = ("mean_iou", "max")
    config: SegmentationConfig
    resolved_: SegmentationConfig

    coding_: MaskCoding
    weights_: Tensor | None
    preprocessing_: Preprocessing
    processor_: dict[str, Any] | None
    """Config of the image processor; None for a timm encoder."""
    source_: VisionSource
    augmentation_: JointAugmentation

    @property
    def rows(self) -> MaskRows:
        rows = MaskRows(self.resolved_)
        rows.is_trained = hasattr(self, "preprocessing_")
        return rows

    @property
    def views(self) -> SegmentationViews:
        return SegmentationViews(self)

    @property
    def onnx(self) -> Onnx:
        return Onnx(axes=("batch",))

    def unseen(self, row: Row) -> Iterator[str]:
        yield from self.rows.masks.unseen(row, self.coding_)

    # ---- learned state, and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.masks.segmentation_sources import find_segmenter

        masks = self.rows.masks
        self.coding_, facts = masks.learn(train)
        self.weights_, weights = masks.weigh(self.coding_, facts, self.resolved_.class_weights)
        self.source_ = find_segmenter(source, self.resolved_.channels)
        size, why = self._choose_size(train)
        self.preprocessing_ = self.source_.preprocessing.squeezed(size)
        self.settle(channel_settings(self.preprocessing_, self.resolved_))
        self.processor_ = None
        if self.source_.processor:
            processor = to_processor(self.source_.processor, self.preprocessing_)
            self.processor_ = {**processor, "do_reduce_labels": False}
        pixels = self.rows.settle_pixels(train)
        keys, note = settle_augmentation(self.resolved_, frozen=frozen, presets=JOINT_PRESETS)
        self.settle(pixels.keys | keys)
        check_color_changes(self.resolved_, self.preprocessing_.channels)
        self._set_augmentation()
        notes = [self.source_.note, self.coding_.describe(), weights, self._describe_input(why)]
        notes += [*pixels.notes, note]
        notes += similar_names(self.coding_.names)
        notes += [*masks.note_turned(train, facts), *masks.remarks("train", facts, self.coding_)]
        return [text for text in (*notes, f"loss: {' + '.join(self.resolved_.loss_terms)}") if text]

    def state(self) -> dict[str, Any]:
        return {
            "coding": self.coding_.state(),
            "weights": None if self.weights_ is None else self.weights_.tolist(),
            "preprocessing": self.preprocessing_.state(),
            "processor": self.processor_,
        }

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.coding_ = MaskCoding.from_state(state["coding"])
        self.weights_ = None if state["weights"] is None else torch.tensor(state["weights"])
        self.preprocessing_ = Preprocessing.from_state(state["preprocessing"])
        self.processor_ = state["processor"]
        self._set_augmentation()

    def build_model(self, source: ModelConfig) -> SegmentationModel:
        from tasks.masks.segmentation_sources import build_segmenter

        size = self.preprocessing_.size
        return self._tiled(
            build_segmenter(self.source_, self.resolved_.decoder, self.coding_.names, size)
        )

    def load_model(self, source: ModelConfig) -> SegmentationModel:
        from tasks.masks.segmentation_sources import load_segmenter

        return self._tiled(load_segmenter(source, self.coding_.names, self.preprocessing_.size))

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        save_processor(self.processor_, folder)

    # ---- from a row to a prediction

    @property
    def parts(self) -> Parts | None:
        return self._tiles if self.resolved_.tile is not None else None

    def _tiles(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]]:
        """Split images into tiles, given by their windows."""
        tile = self.preprocessing_.size
        sizes = (picture_size(self.rows.cell(row)) for row in rows)
        return [
            [
                {"window": window}
                for window in tiles.windows(size, tile, self.resolved_.tile_overlap)
            ]
            for size in sizes
        ]

    @property
    def augments(self) -> bool:
        return is_active(self.resolved_, JOINT_PRESETS)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        scene, window = self._scene(row), row.get("window")
        size, whole = scene.size, scene.mask
        area = (window[1], window[0], *self.preprocessing_.size) if window else None
        is_whole = self.resolved_.tile is not None and area is None
        if not is_whole and rng is not None:
            scene = self.augmentation_(scene, rng, area)
        elif not is_whole:
            scene = self.augmentation_.plain(scene, area)
        if area is not None or rng is not None:
            whole = None  # tiles and augmented images are evaluated at the size of the input
        sample: Sample = {"inputs": {INPUT: self.preprocessing_.normalize(scene.image)}}
        sample |= {"size": size, "is_whole": is_whole}
        if scene.mask is not None:
            sample["target"] = {"mask": scene.mask, "whole": whole}
        return sample

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        # Whole images, which the model processes in windows, differ in size.
        join = list if samples[0]["is_whole"] else torch.stack
        batch: Batch = {"sizes": torch.tensor([sample["size"] for sample in samples])}
        if all("target" in sample for sample in samples):
            masks = [sample["target"]["mask"] for sample in samples]
            batch["targets"] = join(masks)
            batch["whole"] = [sample["target"]["whole"] for sample in samples]
            terms = self.resolved_.loss_terms
            batch["count"] = losses.count_terms(terms, masks, self.weights_)
        if "inputs" in samples[0]:
            images = [sample["inputs"][INPUT] for sample in samples]
            batch["inputs"] = {INPUT: join(images)}
        return batch

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        terms = self.resolved_.loss_terms
        return losses.sum_terms(terms, outputs, batch["targets"], self.weights_)

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        areas, confusions, classes = [], [], len(self.coding_.names)
        for logits, mask, whole in zip(outputs, batch["targets"], batch["whole"], strict=True):
            true = mask if whole is None else whole
            predicted, _ = most_likely_classes(logits, true.shape)
            areas.append(losses.count_areas(predicted, true, classes))
            confusions.append(losses.count_confusions(predicted, true, classes))
        # [B, K, 3] and [B, P, 3]
        return {"areas": torch.stack(areas), "confusions": pad_sequence(confusions, True)}

    def summarize(self, stats: Stats) -> dict[str, float]:
        return losses.area_metrics(stats["areas"], self.coding_.names)

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        predictions = []
        for logits, size in zip(model(batch), batch["sizes"].tolist(), strict=True):
            classes, probabilities = most_likely_classes(logits.float(), size)
            found = to_segments(classes, probabilities, self.coding_.names)
            predictions.append({"segments": found})
        return predictions

    # ---- helpers

    def _scene(self, row: Row) -> Scene:
        image = to_channels_first(self.rows.pixels(row))
        height, width = image.shape[-2:]
        try:
            return Scene(image, self.rows.masks.classes(row, (height, width), self.coding_))
        except DataError as error:
            raise DataError(f"{path_of(self.rows.cell(row)) or 'image'} {error}") from error

    def _set_augmentation(self) -> None:
        size, mode = self.preprocessing_.size, self.preprocessing_.mode
        # Empty areas get the mean color, which is 0 after normalization.
        fill = tuple(round(min(max(mean, 0.0), 1.0) * 255) for mean in self.preprocessing_.mean)
        self.augmentation_ = JointAugmentation(self.resolved_, size, fill, mode)

    def _tiled(self, model: SegmentationModel) -> SegmentationModel:
        model.tile, model.overlap = self.preprocessing_.size, self.resolved_.tile_overlap
        return model

    def _choose_size(self, train: RowTable) -> tuple[Size | None, str]:
        """Return the size of the input, None for that of the network, and the reason for it."""
        if self.resolved_.input_size is not None or not self.source_.takes_any_size:
            return self.resolved_.input_size, ""
        cells = map(self.rows.cell, self.rows.sampled(train))
        return fit_input(list(map(picture_size, cells)), self.source_.preprocessing.size)

    def _describe_input(self, why: str) -> str:
        height, width = self.preprocessing_.size
        if self.resolved_.tile is not None:
            overlap = self.resolved_.tile_overlap
            return f"input: tiles of {height} x {width} pixels, overlap {overlap}"
        reason = f", {why}" if why else ""
        return f"input: {height} x {width} pixels, stretched, {self.preprocessing_.mode}{reason}"
