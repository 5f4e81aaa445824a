"""Object detection: boxes and classes of what a picture shows.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]};
a picture without objects has []. Boxes are left, top, right, bottom in pixels; `task.boxes` says
otherwise. COCO, YOLO, Pascal VOC and a CSV with a box a line are read as such rows.

Shapes: B rows, T tiles of a row (1 without tiles), K detections and M true boxes of a row, padded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from finetune.checkpoint import write_json
from finetune.config import ModelConfig, Section
from finetune.errors import DataError, nearest
from finetune.task import (
    Batch,
    Length,
    Mendable,
    Prediction,
    Rng,
    Row,
    Sample,
    Stats,
    Task,
    TransferModel,
)
from tasks.annotations import read_boxes
from tasks.annotations.boxes import Convention, Object, box_fault, objects_in
from tasks.augmentation import is_active, settle_augmentation
from tasks.canvas import Canvas, to_picture
from tasks.columns import find_column
from tasks.detection_inputs import Encoder, Truth, pad, stack
from tasks.detection_metrics import LOW, MOST, diagnose, summarize_boxes
from tasks.heads.suppression import Suppression, join_tiles
from tasks.images import MAX_PIXELS, digest_image, find_fault, path_of, picture_size, read_image
from tasks.joint_augmentation import JOINT_PRESETS, JointAugmentationConfig, clip_boxes
from tasks.labels import label_text
from tasks.object_columns import IMAGE_NAMES, find_objects, learn_categories, settle_convention
from tasks.preprocessing import to_tensor
from tasks.tiles import Window, windows

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.detection_sources import DetectorSource, Head

LEAST = 0.01
"""Score from which on a detection counts in the metrics."""


class TileConfig(Section):
    """How a large picture is cut."""

    size: PositiveInt
    """Pixels of the side of a tile."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """Pixels that neighbours share at least: the size of a usual object."""


class ObjectDetectionConfig(JointAugmentationConfig):
    """What is read from a row and what is made of it."""

    name: str = "object-detection"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: found."""
    objects: str | None = None
    """Column of the objects, each with a bbox and a category; null: found."""
    boxes: Convention | None = None
    """What the four numbers of a box are, in pixels or in shares of the picture; null: found."""
    labels: list[str] | None = None
    """All classes, in their order; null: those of the training split."""
    detector: Literal["fcos", "native"] | None = None
    """fcos: new on a network of timm; native: that of a checkpoint; null: by the network."""
    image_size: PositiveInt | None = None
    """Pixels of the side of the square input; null: 512, or that of the checkpoint."""
    tile: TileConfig | None = None
    """Cut pictures into tiles, which each fill the input: small objects of large pictures."""
    fpn_width: Annotated[int, Field(ge=32, multiple_of=32)] = 128
    """Channels of FCOS's pyramid and head; torchvision's own has 256."""
    head_convs: PositiveInt = 2
    """Convolutions of FCOS's head; torchvision's own has 4."""
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Least score of what a prediction says; metrics count all from 0.01."""
    nms_overlap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Intersection over union from which on the weaker of two boxes of a class goes."""
    max_pixels: PositiveInt = MAX_PIXELS
    """A picture with more is refused, for it may be made to fill the memory."""


class ObjectDetection(Task):
    """Find objects with FCOS on any pyramid of timm, or with a detector of transformers."""

    name = "object-detection"
    Config = ObjectDetectionConfig
    config: ObjectDetectionConfig

    labels_: list[str] | None = None
    class_names_: list[str] | None = None
    canvas_: Canvas
    masks_: bool = False
    processor_: dict[str, Any] | None
    source_: DetectorSource
    head_: Head

    # ---- what is known before a network is loaded

    def read(self, path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
        return read_boxes(path, format)

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        image, note = find_column(self.config.image, "image", columns, IMAGE_NAMES, [])
        objects, other = find_objects(self.config.objects, columns)
        keys: dict[str, Any] = {"image": image, "objects": objects}
        notes = [text for text in (note, other) if text]
        if self.config.boxes is None:
            keys["boxes"], said = settle_convention(columns[image], columns[objects])
            notes.append(said)
        self.config = self.config.model_copy(update=keys)
        return notes

    def validate(self, row: Row) -> Iterator[str]:
        column = self.input_columns()[0]
        if fault := find_fault(row.get(column), self.config.max_pixels):
            path = path_of(row.get(column))
            yield f"{column}{f' {path!r}' if path and not row.get('file') else ''} {fault}"
        elif self._objects_column in row:
            size = picture_size(row[column])
            try:
                seen = self._objects(row, size)
            except DataError as error:
                yield f"{self._objects_column} {error}"
                return
            for number, each in enumerate(seen, start=1):
                place = each.place or f"object {number}"
                for fault, is_mended in self._faults(each, size):
                    yield (Mendable if is_mended else str)(f"{place}: {fault}")

    def validate_rows(self, rows: Sequence[Row]) -> list[list[str]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda row: list(self.validate(row)), rows))

    def input_columns(self) -> list[str]:
        return [self.config.image or "image"]

    def identity(self, row: Row) -> Any:
        return digest_image(row.get(self.input_columns()[0]))

    def row_of(self, value: Any) -> Row:
        return {self.input_columns()[0]: value}

    def truth(self, row: Row) -> Any:
        return repr(row.get(self._objects_column))

    def stratum(self, row: Row) -> Any:
        seen = objects_in(row.get(self._objects_column) or [], "xyxy", (1, 1))
        return str(seen[0].category) if seen else "no object"

    # ---- learning labels, loading what encodes

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "ap", "max"

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.detection_sources import find_detector

        column = self._objects_column
        self.labels_, self.class_names_, counted = learn_categories(
            train, column, self.config.labels
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
        from tasks.detection_sources import build_detector, head_of

        assert self.labels_ is not None
        shape = {"width": self.config.fpn_width, "convolutions": self.config.head_convs}
        model = build_detector(self.source_, self.labels_, **shape)
        self.head_ = head_of(model)
        return model

    def load_model(self, folder: Path | str) -> TransferModel:
        from tasks.detection_sources import head_of, load_detector

        model = load_detector(Path(folder))
        self.head_ = head_of(model)
        return model

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        if self.processor_ is not None:
            write_json(folder / "preprocessor_config.json", self.processor_)

    # ---- one row through the house

    @property
    def augments(self) -> bool:
        return is_active(self.config, JOINT_PRESETS)

    def parts(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]] | None:
        """The tiles of each picture, by their windows; of those without objects too."""
        if self.config.tile is None:
            return None
        column = self.input_columns()[0]
        return [
            [{"window": list(w)} for w in self._windows(picture_size(row[column]))] for row in rows
        ]

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        if self.config.tile is None:
            return [Length(1)] * len(rows)
        column = self.input_columns()[0]
        return [
            Length(1 if row.get("window") else len(self._windows(picture_size(row[column]))))
            for row in rows
        ]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        cell = row.get(self.input_columns()[0])
        try:
            image = to_tensor(read_image(cell, self.config.max_pixels))
        except DataError as error:
            raise DataError(f"{path_of(cell) or self.input_columns()[0]} {error}") from error
        size = (int(image.shape[-2]), int(image.shape[-1]))
        encoder = Encoder(self.canvas_, self.config if self.augments else None, self.masks_)
        given = row.get("window")
        return encoder(
            image,
            self._truth(row, size) if self._objects_column in row else None,
            [tuple(given)] if given else self._windows(size),
            rng,
        )

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
        """{"objects": [{"score", "label", "box": {"xmin", ...}}]} a row, best first."""
        assert self.labels_ is not None
        sides = ("xmin", "ymin", "xmax", "ymax")
        said: list[Prediction] = []
        for each in self._detect(model(batch), batch, self.config.score_threshold):
            rows = zip(
                *(each[name].tolist() for name in ("scores", "labels", "boxes")), strict=True
            )
            objects = [
                {
                    "score": score,
                    "label": self.labels_[label],
                    "box": dict(zip(sides, (round(value, 2) for value in box), strict=True)),
                }
                for score, label, box in rows
            ]
            said.append({"objects": objects})
        return said

    def present(self, prediction: Prediction) -> Any:
        """The list alone, with whole pixels."""
        return [
            {**each, "box": {side: round(value) for side, value in each["box"].items()}}
            for each in prediction["objects"]
        ]

    # ---- parts

    @property
    def _objects_column(self) -> str:
        return self.config.objects or "objects"

    def _objects(self, row: Row, size: tuple[int, int]) -> list[Object]:
        return objects_in(row[self._objects_column], self.config.boxes or "xyxy", size)

    def _faults(self, seen: Object, size: tuple[int, int]) -> Iterator[tuple[str, bool]]:
        """What is wrong with an object, and whether encoding mends it."""
        fault, is_mended = box_fault(seen, self.config.boxes or "xyxy", size)
        if fault:
            yield fault, is_mended
        if seen.fault:
            return
        name = label_text(seen.category, self.class_names_)
        if name is None:
            yield "has no category", False
        elif self.labels_ is not None and name not in self.labels_:
            yield f"class {name!r} is unknown; {nearest(name, self.labels_)}", False

    def _truth(self, row: Row, size: tuple[int, int]) -> Truth:
        """The objects of a row that have an area inside the picture."""
        assert self.labels_ is not None
        seen = self._objects(row, size)
        boxes = torch.tensor([each.box or (0.0,) * 4 for each in seen]).reshape(-1, 4)
        boxes, kept = clip_boxes(boxes.float(), size)
        left = [seen[place] for place in kept.tolist()]
        names = [label_text(each.category, self.class_names_) for each in left]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        given = torch.tensor([each.area or float("nan") for each in left], dtype=torch.float32)
        return Truth(
            boxes,
            torch.tensor([self.labels_.index(str(name)) for name in names], dtype=torch.int64),
            torch.where(given.isnan(), areas, given),
            torch.tensor([each.is_crowd for each in left], dtype=torch.bool),
        )

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
