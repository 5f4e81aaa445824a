"""One range of pixel values for a dataset of 16-bit and float images, learned from a sample.

It maps to 0..255, the same for every image: scaling each image by itself would hide how bright it
is. 8-bit images are never scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from finetune.config.schema import TaskConfig
from finetune.errors import DataError, listed
from tasks.pixels.image_headers import ImageHeader

PERCENTILES = (0.1, 99.9)
_SAMPLED = 64  # images of a dataset
_PIXELS = 20_000  # of a sampled image
_NAMED = 3

Limits = Annotated[list[float], Field(min_length=2, max_length=2)]
"""Lower and upper end of a range."""


class PixelConfig(TaskConfig):
    """The key of every image task about pixel values."""

    pixel_range: Limits | list[Limits] | None = None
    """[low, high] of the pixel values of 16-bit and float images, or one such pair per channel,
    mapped to 0..255; 8-bit images are not scaled. null: percentiles of the training images.
    """

    @field_validator("pixel_range")
    @classmethod
    def _ascends(cls, limits: Any) -> Any:
        pairs = limits if limits and isinstance(limits[0], list) else [limits] if limits else []
        if any(low >= high for low, high in pairs):
            raise ValueError(
                f"{limits}: the first value of a range must be smaller than the second"
            )
        return limits


def settle_pixel_range(
    config: PixelConfig,
    cells: Iterable[Any],
    read_header: Callable[[Any], ImageHeader],
    load: Callable[[Any], NDArray[Any]],
) -> tuple[dict[str, Any], list[str]]:
    """Return the key pixel_range for the images in `cells`, and notes on their pixels.

    `load` returns the unscaled pixels of a cell, [H, W] or [H, W, C].
    """
    deep, animated, count = [], list[str](), 0
    for cell in cells:
        header = read_header(cell)
        count += 1
        if header.is_deep:
            deep.append(cell)
        if header.has_frames:
            animated.append(header.name)
    notes = []
    if animated:
        names = listed(filter(None, animated), _NAMED)
        notes.append(
            f"pixels: {len(animated)} of {count} images have several frames; the first one is read"
            + (f": {names}" if names else "")
        )
    if not deep:
        return {}, notes
    if config.pixel_range is not None:
        limits, source = config.pixel_range, "as configured"
    else:
        limits, used = learn_pixel_range(deep, load)
        low, high = PERCENTILES
        source = f"percentiles {low} and {high} of {used} images"
    notes.append(
        f"pixels: {len(deep)} of {count} images are 16-bit or float; {_shown(limits)} becomes 0 to"
        f" 255 in all of them ({source}; task.pixel_range)"
    )
    return {"pixel_range": limits}, notes


def learn_pixel_range(
    cells: list[Any], load: Callable[[Any], NDArray[Any]]
) -> tuple[list[Any], int]:
    """Return the percentiles of a sample, by band unless it is RGB, and the sample's size.

    Raises DataError if the images differ in their number of channels, or a channel has no value.
    """
    places = np.unique(
        np.linspace(0, len(cells) - 1, min(len(cells), _SAMPLED)).round().astype(int)
    )
    parts = [_thin(load(cells[place])) for place in places]  # [pixels, C] each
    channels = sorted({part.shape[1] for part in parts})
    if len(channels) > 1:
        raise DataError(
            f"task.pixel_range: images of {listed(channels, _NAMED)} channels have no common range;"
            " set task.pixel_range=[low, high]"
        )
    pixels = np.concatenate(parts)
    if channels == [3]:  # one range for all colors, so that gray stays gray
        pixels = pixels.reshape(-1, 1)
    pixels[~np.isfinite(pixels)] = np.nan
    if np.isnan(pixels).all(axis=0).any():
        raise DataError(
            f"task.pixel_range: {len(parts)} images were sampled, and a channel has no finite value"
            " in any of them; correct the images, or set task.pixel_range=[low, high]"
        )
    ends = np.nanpercentile(pixels, PERCENTILES, axis=0)  # [2, C]
    limits = [[_rounded(low), _rounded(max(high, low + 1e-6))] for low, high in ends.T]
    limits = [pair if pair[0] < pair[1] else [pair[0], pair[0] + 1.0] for pair in limits]
    return (limits if len(limits) > 1 else limits[0]), len(parts)


def to_8_bits(pixels: NDArray[Any], limits: Any) -> NDArray[np.uint8]:
    """Map pixels [H, W] or [H, W, C] from a range, or one per channel, to 0..255."""
    ends = np.asarray(limits, dtype=np.float64)  # [2] or [C, 2]
    if ends.ndim == 2 and len(ends) != (pixels.shape[2] if pixels.ndim == 3 else 1):
        raise DataError(
            f"has shape {list(pixels.shape)}, but task.pixel_range has {len(ends)} ranges"
        )
    low, high = ends[..., 0], ends[..., 1]
    scaled = (pixels.astype(np.float64) - low) * (255 / (high - low))
    return np.clip(np.round(np.nan_to_num(scaled, nan=0.0)), 0, 255).astype(np.uint8)


def _thin(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return at most about _PIXELS evenly spaced pixels, [pixels, C]."""
    flat = pixels.reshape(-1, pixels.shape[2] if pixels.ndim == 3 else 1)
    return flat[:: max(1, len(flat) // _PIXELS)].astype(np.float64)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _shown(limits: Any) -> str:
    pairs = limits if isinstance(limits[0], list) else [limits]
    return listed((f"{low:g} to {high:g}" for low, high in pairs), _NAMED)
