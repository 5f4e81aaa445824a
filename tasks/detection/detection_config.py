"""Config keys of object detection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from finetune.config.formats import DataFormat
from finetune.config.schema import Section
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.cells.label_values import check_label_names
from tasks.image.image_config import JointAugmentationConfig
from tasks.image.image_reading import MAX_PIXELS
from tasks.image_formats.export_formats import EXPORT_BOXES
from tasks.image_formats.kitti import KITTI_BOXES
from tasks.image_formats.refused_sets import REFUSED_SETS
from tasks.metrics.metric_config import OwnMetricsConfig
from tasks.objects.boxes import Convention

BOX_METRICS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
"""COCO's metrics. The largest number of detections names the last but three, such as ar600."""


USUAL_THRESHOLD = 0.3
"""Minimum score of a predicted box, unless another one is given or learned."""


class TileConfig(Section):
    """Keys of tiling, which cuts large images into overlapping tiles."""

    size: Annotated[int, Field(ge=16)]
    """Side of a tile in pixels."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """Minimum overlap of neighboring tiles in pixels; choose the size of a typical object."""

    @model_validator(mode="after")
    def _advances(self) -> TileConfig:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap must be smaller than the tile: at most {self.size - 1} for tiles of "
                f"{self.size} pixels"
            )
        return self


def _as_tile(value: Any) -> Any:
    """Return the keys of tiles of this size; small ones overlap by a quarter."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    default = TileConfig.model_fields["overlap"].default
    return {"size": value} if value > default else {"size": value, "overlap": value // 4}


Tile = Annotated[
    TileConfig, BeforeValidator(_as_tile, json_schema_input_type=PositiveInt | TileConfig)
]


class ObjectDetectionConfig(JointAugmentationConfig, OwnMetricsConfig):
    """Keys of object detection."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset(
        {"image", "pixel_range", "score_threshold", "nms_overlap", "max_detections"}
    )
    measured: ClassVar[tuple[str, ...]] = BOX_METRICS
    metric_names: ClassVar[tuple[str, ...]] = (*BOX_METRICS, "ar<detections>", "ap/<class>")
    formats: ClassVar[tuple[DataFormat, ...]] = (
        *REFUSED_SETS,
        *BOX_FORMATS,
        KITTI_BOXES,
        *EXPORT_BOXES,
    )

    @property
    def learns_thresholds(self) -> bool:
        return self.score_threshold == "auto"

    @property
    def may_have_labels(self) -> bool:
        return False

    def change_faults(self, changed: Self) -> Iterator[str]:
        yield from super().change_faults(changed)
        if changed.learns_thresholds and not self.learns_thresholds:
            yield (
                "task.score_threshold=auto: a threshold is learned in training; give a number, "
                f"such as task.score_threshold={USUAL_THRESHOLD}"
            )

    @field_validator("labels")
    @classmethod
    def _are_distinct(cls, labels: list[str] | None) -> list[str] | None:
        if labels is not None:
            check_label_names(labels)
        return labels

    name: str = "object-detection"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: detected."""
    objects: str | None = None
    """Column of the objects, each with a bbox and a category; null: detected."""
    boxes: Convention | None = None
    """Convention of the four numbers of a box, in pixels or in shares of the image size; null: that
    of the file format, else detected.
    """
    labels: list[str] | None = None
    """Class names in order; null: those of the training split."""
    detector: Literal["fcos", "native"] | None = None
    """fcos: a new FCOS on a timm backbone; native: the detector of a checkpoint; null: chosen by
    the network.
    """
    channels: PositiveInt | None = None
    """Channels of the input, for networks of timm. 1: gray; 3: RGB; others: the bands of .npy and
    TIFF files. null: as the network was trained, mostly 3.
    """
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square input in pixels; null: that of the checkpoint, or for a new FCOS what the
    training images and their small objects need, at most 512.
    """
    tile: Tile | None = None
    """Cut images into tiles of this side in pixels, each resized to the input: for small objects in
    large images; or the keys size and overlap. null: whole images.
    """
    fpn_width: Annotated[int, Field(ge=64, multiple_of=32)] = 128
    """Channels of FCOS's feature pyramid and head; 256 in torchvision."""
    head_convs: PositiveInt = 2
    """Convolutions in FCOS's head; 4 in torchvision."""
    score_threshold: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = USUAL_THRESHOLD
    """Minimum score of a predicted box; metrics use all boxes from 0.01 on. auto: the one of the
    best F1 on the validation split, learned when training ends, where it improves F1 on other
    images; else 0.3.
    """
    nms_overlap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """IoU above which non-maximum suppression drops the lower-scoring box of two of a class."""
    max_detections: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Maximum number of boxes predicted per image; null: 100, or more if training images have more
    objects.
    """
    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum number of pixels of an image; larger ones are rejected, as they may be decompression
    bombs that exhaust the memory.
    """
