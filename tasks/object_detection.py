"""Object detection: boxes and classes of the objects in an image.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]};
an image without objects has []. Boxes are left, top, right, bottom in pixels, or in the convention
of `task.boxes`. COCO, YOLO, Pascal VOC and a CSV with one box per line are read as such rows.

Shapes: B rows, T tiles of a row (1 without tiling), K detections and M true boxes of a row, padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import format_count
from finetune.model import Batch, TransferModel
from finetune.reports.temperature import scale_items, unscale_item
from finetune.task import Parts, Task
from finetune.task_parts.optional_parts import Onnx
from finetune.task_parts.samples import Length, Prediction, Rng, Row, RowTable, Sample, Stats
from tasks.classification.label_views import similar_names
from tasks.detection.detection_config import USUAL_THRESHOLD, ObjectDetectionConfig
from tasks.detection.detection_encoder import Encoder, pad_boxes, stack_samples
from tasks.detection.detection_metrics import MAX_DETECTIONS, room_for_objects, summarize_boxes
from tasks.detection.detection_views import DetectionViews, to_prediction
from tasks.detection.object_rows import ObjectRows, learn_categories
from tasks.detection.suppression import Suppression, join_tiles
from tasks.image.augmentation import channel_settings, check_color_changes
from tasks.image.canvas import Canvas, to_picture
from tasks.image.image_config import JOINT_PRESETS, is_active, settle_augmentation
from tasks.image.image_reading import picture_size
from tasks.image.preprocessing import save_processor, to_channels_first
from tasks.image.tiles import Window, windows
from tasks.objects.boxes import items_of
from tasks.pixels.input_sizes import fit_square

if TYPE_CHECKING:  # timm and transformers take seconds to import; configs do not need them
    from tasks.detection.detector_sources import DetectorSource, Head

MIN_SCORE = 0.01
"""Minimum score of the detections that metrics use."""


class ObjectDetection(Task):
    """Detect objects with FCOS on a timm backbone, or with a detector of transformers."""

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
    """Config of the image processor; None for a timm network."""
    source_: DetectorSource
    head_: Head
    scale_: list[float] | None = None
    """Slope and offset of the logits of the scores; None: scores as the network gives them."""
    learned_threshold_: float | None = None
    """Minimum score with the best F1 on validation, for score_threshold=auto."""

    @property
    def rows(self) -> ObjectRows:
        rows = ObjectRows(self.resolved_, self.class_names_)
        rows.is_trained = hasattr(self, "canvas_")
        return rows

    @property
    def views(self) -> DetectionViews:
        return DetectionViews(self)

    @property
    def onnx(self) -> Onnx:
        """Export of the boxes and scores of all candidates, a fixed number per image.

        Thresholds and non-maximum suppression are left to the user.
        """
        return Onnx(axes=("batch",), outputs=lambda outputs: self.head_.candidates(outputs))

    @property
    def labels(self) -> list[str]:
        """The class names, in order."""
        assert self.labels_ is not None, "labels are set by setup or restore"
        return self.labels_

    def unseen(self, row: Row) -> Iterator[str]:
        yield from self.rows.objects.unseen(row, self.labels)

    # ---- learned state, and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.detection.detector_sources import find_detector, make_detection_head

        self.labels_, self.class_names_, counts = learn_categories(
            train, self.rows.objects.column, self.resolved_.labels
        )
        config = self.resolved_

        def find(side: int | None) -> DetectorSource:
            return find_detector(source, config.detector, side, self.labels, config.channels)

        self.source_, why = find(config.image_size), ""
        if config.image_size is None and self.source_.takes_any_size:
            side, why = self._choose_side(train, usual=self.source_.canvas.size[0])
            self.source_ = find(side)
        self.canvas_, self.head_ = (
            self.source_.canvas,
            make_detection_head(self.source_, self.labels),
        )
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None
        self.masks_ = self.processor_ is not None and self.canvas_.keeps_aspect
        notes = self._settle_maximum(train[self.rows.objects.column])
        self.settle(channel_settings(self.canvas_.preprocessing, self.resolved_))
        pixels = self.rows.settle_pixels(train)
        keys, note = settle_augmentation(self.resolved_, frozen=frozen, presets=JOINT_PRESETS)
        self.settle(pixels.keys | keys)
        check_color_changes(self.resolved_, self.canvas_.preprocessing.channels)
        height, width = self.canvas_.size
        fit = "padded, aspect ratio kept" if self.canvas_.keeps_aspect else "stretched"
        fitted = f"input: {height} x {width} pixels, {fit}" + (f", {why}" if why else "")
        notes += similar_names(self.labels)
        return [counts, self.source_.note, fitted, *pixels.notes, note, *notes]

    def _choose_side(self, train: RowTable, usual: int) -> tuple[int, str]:
        """Return the side of the input and the reason for it, by sizes of images and objects."""
        rows, reader = self.rows, self.rows.objects
        sampled = [(row, picture_size(rows.cell(row))) for row in rows.sampled(train)]
        truths = [reader.truth(row, size, self.labels) for row, size in sampled]
        objects = [side for truth in truths for side in truth.areas.sqrt().tolist()]
        tile = self.resolved_.tile
        sizes = [(tile.size, tile.size)] if tile else [size for _, size in sampled]
        return fit_square(sizes, usual, objects)

    def _settle_maximum(self, cells: Sequence[Any]) -> list[str]:
        """Choose `max_detections` if training images have more objects than COCO's maximum."""
        most = max(len(items_of(cell)) for cell in cells)
        room = room_for_objects(most)
        if self.resolved_.max_detections is not None or room == MAX_DETECTIONS:
            return []
        self.settle({"max_detections": room})
        objects = format_count(most, "object")
        return [
            f"max_detections: {room}, since a training image has {objects}; metrics use as "
            f"many detections, and not COCO's {MAX_DETECTIONS}"
        ]

    @property
    def max_detections(self) -> int:
        """The maximum number of boxes predicted per image."""
        return self.resolved_.max_detections or MAX_DETECTIONS

    @property
    def measured_detections(self) -> int:
        """The maximum number of boxes per image that metrics use."""
        return max(self.max_detections, MAX_DETECTIONS)

    @property
    def score_threshold(self) -> float:
        """The minimum calibrated score of a predicted box."""
        threshold: float | str = self.resolved_.score_threshold
        if not isinstance(threshold, str):
            return threshold
        return USUAL_THRESHOLD if self.learned_threshold_ is None else self.learned_threshold_

    def state(self) -> dict[str, Any]:
        learned = {"scale": self.scale_, "score_threshold": self.learned_threshold_}
        return {
            "labels": self.labels_,
            "class_names": self.class_names_,
            "canvas": self.canvas_.state(),
            "masks": self.masks_,
            "processor": self.processor_,
            **{name: value for name, value in learned.items() if value is not None},
        }

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        from tasks.detection.detector_sources import load_head

        self.labels_, self.class_names_ = state["labels"], state["class_names"]
        self.canvas_, self.masks_ = Canvas.from_state(state["canvas"]), state["masks"]
        self.processor_ = state["processor"]
        self.scale_, self.learned_threshold_ = state.get("scale"), state.get("score_threshold")
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

        return load_detector(source, self.labels, is_native=self.processor_ is not None)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        save_processor(self.processor_, folder)

    # ---- from a row to a prediction

    @property
    def augments(self) -> bool:
        return is_active(self.resolved_, JOINT_PRESETS)

    @property
    def parts(self) -> Parts | None:
        return self._tiles if self.resolved_.tile is not None else None

    def _tiles(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]]:
        """Split images into tiles, given by their windows; tiles without objects are kept."""
        sizes = [picture_size(self.rows.cell(row)) for row in rows]
        return [[{"window": list(window)} for window in self._windows(size)] for size in sizes]

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> list[Length]:
        if self.resolved_.tile is None:
            return [Length(1)] * len(rows)
        return [Length(len(self._windows_of(row))) for row in rows]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        image, objects = to_channels_first(self.rows.pixels(row)), self.rows.objects
        size = (int(image.shape[-2]), int(image.shape[-1]))
        truth = objects.truth(row, size, self.labels) if objects.column in row else None
        encoder = Encoder(self.resolved_, self.canvas_, self.masks_)
        return encoder(image, truth, self._windows_of(row, size), rng)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = stack_samples(samples)
        if "target" not in samples[0]:
            return batch
        targets = [sample["target"] for sample in samples]
        boxes = [each for target in targets for each in target["boxes"]]
        labels = [each for target in targets for each in target["labels"]]
        head_targets, batch["count"] = self.head_.make_targets(
            boxes, labels, batch["frames"][:, :2]
        )
        truth = {
            name: pad_boxes([t["truth"][name] for t in targets]) for name in targets[0]["truth"]
        }
        truth["present"] = torch.tensor([len(t["truth"]["true_labels"]) for t in targets])
        batch["targets"] = {"head": head_targets, "truth": truth}
        return batch

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.head_.losses(outputs, batch["targets"]["head"])
        return losses

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        """Return detections and truth, as described in `summarize_boxes`."""
        detections = self._detect(outputs, batch, MIN_SCORE, self.measured_detections)
        stats = {
            name: pad_boxes([each[name] for each in detections])
            for name in ("boxes", "scores", "labels")
        }
        stats["found"] = torch.tensor([len(each["scores"]) for each in detections])
        truth: Stats = batch["targets"]["truth"]
        return stats | truth

    def summarize(self, stats: Stats) -> dict[str, float]:
        return summarize_boxes(stats, self.labels, self.measured_detections)

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """Return {"detections": [{"score", "label", "box": {"xmin", ...}}]} per row, best first."""
        threshold = unscale_item(self.score_threshold, self.scale_)
        detections = self._detect(model(batch), batch, threshold, self.max_detections)
        return [to_prediction(self.scaled(each), self.labels) for each in detections]

    def scaled(self, detections: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return detections or statistics whose scores are calibrated, in the same order."""
        if self.scale_ is None:
            return dict(detections)
        scores = torch.from_numpy(scale_items(detections["scores"].cpu().numpy(), self.scale_))
        return {**detections, "scores": scores.to(detections["scores"])}

    # ---- tiles

    def _windows_of(self, row: Row, size: tuple[int, int] | None = None) -> list[Window]:
        """Return the windows of a row: its own if it is a tile, else all windows of its image."""
        if row.get("window"):
            left, top, right, bottom = row["window"]
            return [(left, top, right, bottom)]
        return self._windows(size or picture_size(self.rows.cell(row)))

    def _windows(self, size: tuple[int, int]) -> list[Window]:
        tile = self.resolved_.tile
        if tile is None:
            return [(0, 0, size[1], size[0])]
        return windows(size, (tile.size, tile.size), tile.overlap)

    def _detect(
        self, outputs: Any, batch: Batch, min_score: float, most: int
    ) -> list[dict[str, Tensor]]:
        """Return {"boxes" [K, 4], "scores" [K], "labels" [K]} per row, in pixels of its image."""
        suppression = Suppression(min_score, self.resolved_.nms_overlap, most)
        frames = batch["frames"]
        detections = self.head_.detect(outputs, frames[:, :2], suppression)
        for each, frame in zip(detections, frames, strict=True):
            each["boxes"] = to_picture(each["boxes"], frame)
        return join_tiles(detections, batch["tiles"].tolist(), suppression)
