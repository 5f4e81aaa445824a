"""Config of masked image modeling."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from tasks.image.image_config import PRESETS, FlipConfig, Range
from tasks.image.image_reading import MAX_PIXELS

WHOLE_IMAGE_PRESETS = {
    preset: {
        name: keys[name]
        for name in ("crop_scale", "horizontal_flip", "vertical_flip", "color_jitter")
    }
    for preset, keys in PRESETS.items()
}


class MaskedImageModelingConfig(FlipConfig):
    """Keys of masked image modeling."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset({"image", "pixel_range"})
    adapts_backbone: ClassVar[bool] = True

    name: str = "masked-image-modeling"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: detected."""
    channels: PositiveInt | None = None
    """Channels of the input, for networks of timm; null: as the network was trained, mostly 3."""
    image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square input in pixels; null: as the network was trained."""
    center_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the image's shorter side that the center crop keeps; null: as the network was
    trained.
    """
    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum number of pixels of an image; larger ones are rejected, as they may be decompression
    bombs that exhaust the memory.
    """
    crop_scale: Range | None = None
    """Minimum and maximum area of a random crop, as shares of the image; the crop is resized to the
    input.
    """
    mask_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.6
    """Share of an image's patches to mask and reconstruct (SimMIM, Xie et al. 2022,
    arXiv:2111.09886). 0: no masks, and the whole image is reconstructed, as by an autoencoder.
    """
    mask_patch: PositiveInt | None = None
    """Side of a masked patch in pixels; null: that of the network's coarsest patches, or less for
    small images.
    """
    noise: NonNegativeFloat = 0.0
    """Standard deviation of Gaussian noise added to the input, in units of the normalized pixels:
    a denoising autoencoder (Vincent et al. 2008).
    """
    code_size: PositiveInt | None = None
    """Number of values that an image is reduced to between encoder and decoder, for networks of
    timm; null: the encoder's last feature map.
    """
    pixel_loss: Literal["l1", "l2"] = "l1"
    """Absolute or squared error of the normalized pixels."""

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        if self.mask_ratio == 0 and self.mask_patch is not None:
            yield "task.mask_patch: task.mask_ratio=0 masks nothing; remove one of them"
