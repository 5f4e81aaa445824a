"""The fixed-size canvas that a detector reads, and the mapping of boxes back to the image.

Shapes: H, W pixels, M boxes. Boxes are xyxy in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from tasks.image.preprocessing import Preprocessing, pixel_keys


@dataclass(frozen=True)
class Frame:
    """Position of an image, or of a tile of one, on the canvas.

    Attributes:
        content: (height, width) of the canvas that the image covers, from the upper left corner.
        scale: (x, y) canvas pixels per image pixel.
        origin: (x, y) of the tile in the image.
    """

    content: tuple[int, int]
    scale: tuple[float, float]
    origin: tuple[int, int] = (0, 0)

    def tensor(self) -> Tensor:
        """Return float32 [6]: content, scale, origin; see `to_picture`."""
        return torch.tensor([*self.content, *self.scale, *self.origin], dtype=torch.float32)


def to_picture(boxes: Tensor, frame: Tensor) -> Tensor:
    """Map boxes [M, 4] on the canvas back to pixels of the image described by `Frame.tensor`.

    Boxes are clipped at the borders of the image or tile.
    """
    height, width = frame[0], frame[1]
    clipped = torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))
    return clipped / frame[2:4].repeat(2) + frame[4:6].repeat(2)


@dataclass(frozen=True)
class Canvas:
    """Preprocessing of a detector.

    Attributes:
        size: (H, W) of the input.
        keeps_aspect: True if images keep their aspect ratio and are padded to `size`; else they are
            stretched to it.
        mean, std, scale, interpolation: as in `Preprocessing`.
    """

    size: tuple[int, int]
    keeps_aspect: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    interpolation: str = "bilinear"

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Canvas:
        tuples = {name: tuple(state[name]) for name in ("size", "mean", "std")}
        return cls(**{**state, **tuples})

    def state(self) -> dict[str, Any]:
        """Return the attributes as JSON-able values."""
        return asdict(self)

    @property
    def preprocessing(self) -> Preprocessing:
        """The `Preprocessing` that scales and normalizes pixels."""
        return Preprocessing(self.size, None, self.interpolation, self.mean, self.std, self.scale)

    def frame(self, height: int, width: int, origin: tuple[int, int] = (0, 0)) -> Frame:
        """Return the position of an image of this size."""
        if not self.keeps_aspect:
            factors = (self.size[1] / width, self.size[0] / height)
            return Frame(self.size, factors, origin)
        factor = min(self.size[0] / height, self.size[1] / width)
        content = (max(1, round(height * factor)), max(1, round(width * factor)))
        return Frame(content, (content[1] / width, content[0] / height), origin)


def from_detection_processor(processor: Mapping[str, Any], side: int | None) -> Canvas:
    """Build a canvas from the config of a detector's image processor.

    `side` overrides the size by a square of this many pixels.
    """
    size = processor.get("size") or {}
    stretches = bool(size.get("height") and size.get("width")) and "longest_edge" not in size
    if side:
        height, width = side, side
    elif stretches:
        height, width = int(size["height"]), int(size["width"])
    else:
        height = width = int(size.get("shortest_edge") or 800)
    return Canvas((height, width), not stretches, **pixel_keys(processor))


def to_detection_processor(processor: Mapping[str, Any], canvas: Canvas) -> dict[str, Any]:
    """Return the image processor's config, changed so that it does what the canvas does."""
    height, width = canvas.size
    if not canvas.keeps_aspect:
        return {**processor, "size": {"height": height, "width": width}}
    edges = {"shortest_edge": min(canvas.size), "longest_edge": max(canvas.size)}
    return {
        **processor,
        "size": edges,
        "do_pad": True,
        "pad_size": {"height": height, "width": width},
    }
