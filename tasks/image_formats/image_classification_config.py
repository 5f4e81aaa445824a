"""Config keys of image classification."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from finetune.config.formats import DataFormat
from tasks.classification.label_config import TargetConfig
from tasks.image.image_config import AugmentationConfig
from tasks.image.image_reading import MAX_PIXELS
from tasks.image_formats.label_formats import LABEL_FORMATS
from tasks.image_formats.refused_sets import REFUSED_CLASSES


class ImageClassificationConfig(TargetConfig, AugmentationConfig):
    """Keys of image classification."""

    prediction_keys: ClassVar[frozenset[str]] = TargetConfig.prediction_keys | frozenset(
        {"image", "pixel_range"}
    )

    formats: ClassVar[tuple[DataFormat, ...]] = (*REFUSED_CLASSES, *LABEL_FORMATS)

    column_keys: ClassVar[frozenset[str]] = frozenset({"image", "label"})

    name: str = "image-classification"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: detected."""
    channels: PositiveInt | None = None
    """Channels of the input, for networks of timm. 1: gray; 3: RGB; others: the bands of .npy and
    TIFF files. null: as the network was trained, mostly 3.
    """
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square input in pixels; null: as the network was trained."""
    center_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the image's shorter side that the center crop keeps; 1: all of it, for images whose
    content reaches the borders; null: as the network was trained.
    """
    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum number of pixels of an image; larger ones are rejected, as they may be decompression
    bombs that exhaust the memory.
    """
