"""Object detection: boxes and classes of what a picture shows.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]};
a picture without objects has []. Boxes are left, top, right, bottom in pixels; `task.boxes` says
otherwise. COCO, YOLO, Pascal VOC and a CSV with a box a line are read as such rows.

Shapes: B rows, T tiles of a row (1 without tiles), K detections and M true boxes of a row, padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.model import Batch, TransferModel
from finetune.task import About, Length, Prediction, Rng, Row, Sample, Stats
from tasks.annotations.box_formats import read_boxes
from tasks.detection.detection_config import ObjectDetectionConfig
from tasks.detection.detection_encoder import Encoder, pad, stack
from tasks.detection.detection_metrics import LOW, MOST, diagnose, summarize_boxes
from tasks.detection.detections import code_of, say, to_pipeline
from tasks.detection.drawing import draw_pair, draw_sheet, predicted_marks, true_marks
from tasks.detection.object_columns import find_objects, learn_categories, settle_convention
from tasks.detection.object_reader import ObjectReader
from tasks.detection.suppression import Suppression, join_tiles
from tasks.image.augmentation import is_active, settle_augmentation
from tasks.image.canvas import Canvas, to_picture
from tasks.image.image_reading import picture_size
from tasks.image.joint_augmentation import JOINT_PRESETS
from tasks.image.picture_task import PictureTask
from tasks.image.preprocessing import to_tensor
from tasks.image.tiles import Window, windows

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.detection.detector_sources import DetectorSource, Head

LEAST = 0.01
"""Score from which on a detection counts in the metrics."""


class ObjectDetection(PictureTask):
    """Find objects with FCOS on any pyramid of timm, or with a detector of transformers."""

    name = "object-detection"
    export_axes = ("batch",)
    Config = ObjectDetectionConfig
    config: ObjectDetectionConfig

    prediction_keys = frozenset({"score_threshold", "nms_overlap"})

    labels_: list[str] | None = None
    class_names_: list[str] | None = None
    canvas_: Canvas
    masks_: bool = False
    source_: DetectorSource
    head_: Head

    # ---- what is known before a network is loaded

    def read(self, path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
        return read_boxes(path, format)

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        notes = self.choose_inputs(columns)
        objects, note = find_objects(self.config.objects, columns)
        keys: dict[str, Any] = {"objects": objects}
        notes += [note] if note else []
        if self.config.boxes is None:
            image = self.input_columns()[0]
            keys["boxes"], note = settle_convention(columns[image], columns[objects])
            notes += [note] if note else []
        self.config = self.config.model_copy(update=keys)
        return notes

    def validate(self, row: Row) -> Iterator[str]:
        faults = list(self.image_faults(row))
        if not faults and self._objects.column in row:
            faults = list(self._objects.faults(row, picture_size(self.image_of(row))))
        yield from faults

    def truth(self, row: Row) -> Any:
        return repr(row.get(self._objects.column))

    def stratum(self, row: Row) -> Any:
        seen = self._objects.read(row) if self._objects.column in row else []
        return str(self._objects.category(seen[0])) if seen else "no object"

    # ---- learning labels, loading what encodes

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "ap", "max"

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.detection.detector_sources import find_detector

        self.labels_, self.class_names_, counted = learn_categories(
            train, self._objects.column, self.config.labels
        )
        self.source_ = find_detector(
            source, self.config.detector, self.config.image_size, self.labels_
        )
        self.canvas_ = self.source_.canvas
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None
        self.masks_ = self.processor_ is not None and self.canvas_.keeps_aspect
        keys, note = settle_augmentation(self.config, frozen=frozen, presets=JOINT_PRESETS)
        self.config = self.config.model_copy(update=keys)
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

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.labels_, self.class_names_ = state["labels"], state["class_names"]
        self.canvas_, self.masks_ = Canvas.from_state(state["canvas"]), state["masks"]
        self.processor_ = state["processor"]

    def build_model(self, source: ModelConfig) -> TransferModel:
        from tasks.detection.detector_sources import build_detector, head_of

        assert self.labels_ is not None
        shape = {"width": self.config.fpn_width, "convolutions": self.config.head_convs}
        model = build_detector(self.source_, self.labels_, **shape)
        self.head_ = head_of(model)
        return model

    def load_model(self, folder: Path | str) -> TransferModel:
        from tasks.detection.detector_sources import head_of, load_detector

        model = load_detector(Path(folder))
        self.head_ = head_of(model)
        return model

    # ---- one row through the house

    @property
    def augments(self) -> bool:
        return is_active(self.config, JOINT_PRESETS)

    def parts(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]] | None:
        """The tiles of each picture, by their windows; of those without objects too."""
        if self.config.tile is None:
            return None
        sizes = [picture_size(self.image_of(row)) for row in rows]
        return [[{"window": list(window)} for window in self._windows(size)] for size in sizes]

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        if self.config.tile is None:
            return [Length(1)] * len(rows)
        return [Length(len(self._windows_of(row))) for row in rows]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        image = to_tensor(self.picture_of(row))
        size = (int(image.shape[-2]), int(image.shape[-1]))
        truth = self._objects.truth(row, size) if self._objects.column in row else None
        encoder = Encoder(self.config, self.canvas_, self.masks_)
        return encoder(image, truth, self._windows_of(row, size), rng)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = stack(samples)
        if "target" not in samples[0]:
            return batch
        targets = [sample["target"] for sample in samples]
        boxes = [each for target in targets for each in target["boxes"]]
        labels = [each for target in targets for each in target["labels"]]
        wanted, batch["count"] = self.head_.make_targets(boxes, labels, batch["frames"][:, :2])
        truth = {name: pad([t["truth"][name] for t in targets]) for name in targets[0]["truth"]}
        truth["present"] = torch.tensor([len(t["truth"]["true_labels"]) for t in targets])
        batch["targets"] = {"head": wanted, "truth": truth}
        return batch

    def exported(self, outputs: Any) -> dict[str, Tensor]:
        """Boxes and scores of all candidates: how many remain is known from the values alone."""
        return self.head_.candidates(outputs)

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head_.losses(outputs, batch["targets"]["head"])
        return found

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        """Detections "boxes" [B, K, 4], "scores", "labels" [B, K], "found" [B], and the truth."""
        found = self._detect(outputs, batch, LEAST)
        stats = {
            name: pad([each[name] for each in found]) for name in ("boxes", "scores", "labels")
        }
        stats["found"] = torch.tensor([len(each["scores"]) for each in found])
        truth: Stats = batch["targets"]["truth"]
        return stats | truth

    def summarize(self, stats: Stats) -> dict[str, float]:
        assert self.labels_ is not None
        return summarize_boxes(stats, self.labels_)

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        if not metrics["ap50"] < LOW:
            return ""
        return diagnose(stats, metrics["loss"], first.get("loss")) or ""

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """{"detections": [{"score", "label", "box": {"xmin", ...}}]} a row, best first."""
        assert self.labels_ is not None
        found = self._detect(model(batch), batch, self.config.score_threshold)
        return [say(each, self.labels_) for each in found]

    def present(self, prediction: Prediction) -> Any:
        return to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        assert self.labels_ is not None
        image = self.picture_of(row)
        truth = None
        if row.get(self._objects.column) is not None:
            truth = true_marks(self._objects.truth(row, (image.height, image.width)), self.labels_)
        path = folder / f"{name}.png"
        draw_pair(image, predicted_marks(prediction), truth, self.labels_).save(path)
        return [path]

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """A contact sheet: what is found and what is true, on pictures spread over the split."""
        assert self.labels_ is not None
        path = folder / "contact-sheet.jpg"
        least = self.config.score_threshold
        draw_sheet(lambda n: self.picture_of(rows[n]), stats, self.labels_, least).save(path)
        return [path]

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        missing = sorted(set(self.labels_ or []) - self._objects.present(rows))
        return [f"{split}: shows no {', '.join(missing)}: nothing is measured of that"] * bool(
            missing
        )

    def show(self, sample: Sample) -> str:
        target = sample.get("target")
        boxes = "" if target is None else f", {sum(map(len, target['boxes']))} boxes"
        return super().show(sample) + boxes

    def about(self, model: TransferModel) -> About:
        if self.processor_ is None or self.config.tile is not None:  # what joins tiles is here
            return About(self.name)
        return About(self.name, "transformers", code_of(self.config.score_threshold))

    # ---- parts

    @property
    def _objects(self) -> ObjectReader:
        column = self.config.objects or "objects"
        return ObjectReader(column, self.config.boxes, self.labels_, self.class_names_)

    def _windows_of(self, row: Row, size: tuple[int, int] | None = None) -> list[Window]:
        """What is seen of a row: the tile that it is a part of, or all of its picture."""
        if row.get("window"):
            left, top, right, bottom = row["window"]
            return [(left, top, right, bottom)]
        return self._windows(size or picture_size(self.image_of(row)))

    def _windows(self, size: tuple[int, int]) -> list[Window]:
        tile = self.config.tile
        if tile is None:
            return [(0, 0, size[1], size[0])]
        return windows(size, (tile.size, tile.size), tile.overlap)

    def _detect(self, outputs: Any, batch: Batch, least: float) -> list[dict[str, Tensor]]:
        """Of each row, in pixels of its picture: {"boxes" [K, 4], "scores" [K], "labels" [K]}."""
        keeps = Suppression(least, self.config.nms_overlap, MOST)
        frames = batch["frames"]
        found = self.head_.detect(outputs, frames[:, :2], keeps)
        for each, frame in zip(found, frames, strict=True):
            each["boxes"] = to_picture(each["boxes"], frame)
        return join_tiles(found, batch["tiles"].tolist(), keeps)
