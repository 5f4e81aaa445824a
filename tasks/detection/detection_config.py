"""The keys of object detection."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from finetune.config.formats import DataFormat
from finetune.config.schema import Section
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.annotations.boxes import Convention
from tasks.image.image_reading import MAX_PIXELS
from tasks.image.joint_augmentation import JointAugmentationConfig


class TileConfig(Section):
    """How a large picture is cut."""

    size: PositiveInt
    """Pixels of the side of a tile."""
    overlap: Annotated[int, Field(ge=0)] = 64
    """Pixels that neighbours share at least: the size of a usual object."""

    @model_validator(mode="after")
    def _advances(self) -> TileConfig:
        if self.overlap >= self.size:
            raise ValueError(f"tiles of {self.size} pixels overlap by at most {self.size - 1}")
        return self


class ObjectDetectionConfig(JointAugmentationConfig):
    """What is read from a row and what is made of it."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset({"score_threshold", "nms_overlap"})
    formats: ClassVar[tuple[DataFormat, ...]] = BOX_FORMATS

    name: str = "object-detection"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: found."""
    objects: str | None = None
    """Column of the objects, each with a bbox and a category; null: found."""
    boxes: Convention | None = None
    """What the four numbers of a box are, in pixels or in shares of the picture; null: what the
    format of the file says, or found.
    """
    labels: list[str] | None = None
    """All classes, in their order; null: those of the training split."""
    detector: Literal["fcos", "native"] | None = None
    """fcos: new on a network of timm; native: that of a checkpoint; null: by the network."""
    image_size: PositiveInt | None = None
    """Pixels of the side of the square input; null: 512, or that of the checkpoint."""
    tile: TileConfig | None = None
    """Cut pictures into tiles, which each fill the input: small objects of large pictures."""
    fpn_width: Annotated[int, Field(ge=64, multiple_of=32)] = 128
    """Channels of FCOS's pyramid and head; torchvision's own has 256."""
    head_convs: PositiveInt = 2
    """Convolutions of FCOS's head; torchvision's own has 4."""
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Least score of what a prediction says; metrics count all from 0.01."""
    nms_overlap: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Intersection over union from which on the weaker of two boxes of a class goes."""
    max_pixels: PositiveInt = MAX_PIXELS
    """A picture with more is refused, for it may be made to fill the memory."""
