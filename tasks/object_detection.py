"""Object detection: boxes and classes of what a picture shows.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]};
a picture without objects has []. Boxes are left, top, right, bottom in pixels; `task.boxes` says
otherwise. COCO, YOLO, Pascal VOC and a CSV with a box a line are read as such rows.

Shapes: B rows, T tiles of a row (1 without tiles), K detections and M true boxes of a row, padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.model import Batch, TransferModel
from finetune.task import Parts, Task
from finetune.task_parts import Length, Onnx, Prediction, Rng, Row, Sample, Stats
from tasks.detection.detection_config import ObjectDetectionConfig
from tasks.detection.detection_encoder import Encoder, pad_boxes, stack
from tasks.detection.detection_metrics import MOST, summarize_boxes
from tasks.detection.detection_views import DetectionViews, say
from tasks.detection.object_rows import ObjectRows, learn_categories
from tasks.detection.suppression import Suppression, join_tiles
from tasks.image.augmentation import is_active, settle_augmentation
from tasks.image.canvas import Canvas, to_picture
from tasks.image.image_reading import picture_size
from tasks.image.joint_augmentation import JOINT_PRESETS
from tasks.image.preprocessing import save_processor, to_tensor
from tasks.image.tiles import Window, windows

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.detection.detector_sources import DetectorSource, Head

LEAST = 0.01
"""Score from which on a detection counts in the metrics."""


class ObjectDetection(Task):
    """Find objects with FCOS on any pyramid of timm, or with a detector of transformers."""

    name = "object-detection"
    Config = ObjectDetectionConfig
    metric = ("ap", "max")
    config: ObjectDetectionConfig
    resolved_: ObjectDetectionConfig

    labels_: list[str] | None = None
    class_names_: list[str] | None = None
    canvas_: Canvas
    masks_: bool = False
    processor_: dict[str, Any] | None
    """Config of the image processor, of a network of transformers."""
    source_: DetectorSource
    head_: Head

    @property
    def rows(self) -> ObjectRows:
        return ObjectRows(self.resolved_, self.class_names_)

    @property
    def views(self) -> DetectionViews:
        return DetectionViews(self)

    @property
    def onnx(self) -> Onnx:
        """Boxes and scores of all candidates: how many remain is known from the values alone."""
        return Onnx(axes=("batch",), outputs=lambda outputs: self.head_.candidates(outputs))

    @property
    def labels(self) -> list[str]:
        """The classes, in their order."""
        assert self.labels_ is not None, "classes are learned by setup, or taken back by restore"
        return self.labels_

    def unseen(self, row: Row) -> Iterator[str]:
        yield from self.rows.objects.unseen(row, self.labels)

    # ---- learning labels, loading what encodes

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.detection.detector_sources import find_detector, make_detection_head

        self.labels_, self.class_names_, counted = learn_categories(
            train, self.rows.objects.column, self.resolved_.labels
        )
        self.source_ = find_detector(
            source, self.resolved_.detector, self.resolved_.image_size, self.labels
        )
        self.canvas_, self.head_ = (
            self.source_.canvas,
            make_detection_head(self.source_, self.labels),
        )
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None
        self.masks_ = self.processor_ is not None and self.canvas_.keeps_aspect
        keys, note = settle_augmentation(self.resolved_, frozen=frozen, presets=JOINT_PRESETS)
        self.settle(keys)
        height, width = self.canvas_.size
        how = "the picture fits in" if self.canvas_.keeps_aspect else "squeezed"
        return [counted, self.source_.note, f"input: {height} x {width} pixels, {how}", note]

    def state(self) -> dict[str, Any]:
        return {
            "labels": self.labels_,
            "class_names": self.class_names_,
            "canvas": self.canvas_.state(),
            "masks": self.masks_,
            "processor": self.processor_,
        }

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        from tasks.detection.detector_sources import load_head

        self.labels_, self.class_names_ = state["labels"], state["class_names"]
        self.canvas_, self.masks_ = Canvas.from_state(state["canvas"]), state["masks"]
        self.processor_ = state["processor"]
        is_native = self.processor_ is not None
        self.head_ = load_head(source, self.canvas_, is_native=is_native)

    def build_model(self, source: ModelConfig) -> TransferModel:
        from tasks.detection.detector_sources import build_detector

        config = self.resolved_
        return build_detector(
            self.source_, self.labels, width=config.fpn_width, convolutions=config.head_convs
        )

    def load_model(self, source: ModelConfig) -> TransferModel:
        from tasks.detection.detector_sources import load_detector

        return load_detector(source, is_native=self.processor_ is not None)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        save_processor(self.processor_, folder)

    # ---- one row through the house

    @property
    def augments(self) -> bool:
        return is_active(self.resolved_, JOINT_PRESETS)

    @property
    def parts(self) -> Parts | None:
        return self._tiles if self.resolved_.tile is not None else None

    def _tiles(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]]:
        """The tiles of each image, by their windows; of those without objects too."""
        sizes = [picture_size(self.rows.cell(row)) for row in rows]
        return [[{"window": list(window)} for window in self._windows(size)] for size in sizes]

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> list[Length]:
        if self.resolved_.tile is None:
            return [Length(1)] * len(rows)
        return [Length(len(self._windows_of(row))) for row in rows]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        image, objects = to_tensor(self.rows.image(row)), self.rows.objects
        size = (int(image.shape[-2]), int(image.shape[-1]))
        truth = objects.truth(row, size, self.labels) if objects.column in row else None
        encoder = Encoder(self.resolved_, self.canvas_, self.masks_)
        return encoder(image, truth, self._windows_of(row, size), rng)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = stack(samples)
        if "target" not in samples[0]:
            return batch
        targets = [sample["target"] for sample in samples]
        boxes = [each for target in targets for each in target["boxes"]]
        labels = [each for target in targets for each in target["labels"]]
        wanted, batch["count"] = self.head_.make_targets(boxes, labels, batch["frames"][:, :2])
        truth = {
            name: pad_boxes([t["truth"][name] for t in targets]) for name in targets[0]["truth"]
        }
        truth["present"] = torch.tensor([len(t["truth"]["true_labels"]) for t in targets])
        batch["targets"] = {"head": wanted, "truth": truth}
        return batch

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head_.losses(outputs, batch["targets"]["head"])
        return found

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        """Detections "boxes" [B, K, 4], "scores", "labels" [B, K], "found" [B], and the truth."""
        found = self._detect(outputs, batch, LEAST)
        stats = {
            name: pad_boxes([each[name] for each in found])
            for name in ("boxes", "scores", "labels")
        }
        stats["found"] = torch.tensor([len(each["scores"]) for each in found])
        truth: Stats = batch["targets"]["truth"]
        return stats | truth

    def summarize(self, stats: Stats) -> dict[str, float]:
        return summarize_boxes(stats, self.labels)

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """{"detections": [{"score", "label", "box": {"xmin", ...}}]} a row, best first."""
        found = self._detect(model(batch), batch, self.resolved_.score_threshold)
        return [say(each, self.labels) for each in found]

    # ---- tiles

    def _windows_of(self, row: Row, size: tuple[int, int] | None = None) -> list[Window]:
        """What is seen of a row: the tile that it is a part of, or all of its picture."""
        if row.get("window"):
            left, top, right, bottom = row["window"]
            return [(left, top, right, bottom)]
        return self._windows(size or picture_size(self.rows.cell(row)))

    def _windows(self, size: tuple[int, int]) -> list[Window]:
        tile = self.resolved_.tile
        if tile is None:
            return [(0, 0, size[1], size[0])]
        return windows(size, (tile.size, tile.size), tile.overlap)

    def _detect(self, outputs: Any, batch: Batch, least: float) -> list[dict[str, Tensor]]:
        """Of each row, in pixels of its picture: {"boxes" [K, 4], "scores" [K], "labels" [K]}."""
        keeps = Suppression(least, self.resolved_.nms_overlap, MOST)
        frames = batch["frames"]
        found = self.head_.detect(outputs, frames[:, :2], keeps)
        for each, frame in zip(found, frames, strict=True):
            each["boxes"] = to_picture(each["boxes"], frame)
        return join_tiles(found, batch["tiles"].tolist(), keeps)
