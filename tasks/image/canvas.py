"""The one size on which a detector sees its pictures, and the way back to pixels of the picture.

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
    """Where a picture, or a tile of one, lies on the canvas.

    Attributes:
        content: (height, width) that the picture fills of the canvas, from its upper left corner.
        scale: (x, y) canvas pixels a picture's pixel.
        origin: (x, y) of the tile in the picture.
    """

    content: tuple[int, int]
    scale: tuple[float, float]
    origin: tuple[int, int] = (0, 0)

    def tensor(self) -> Tensor:
        """float32 [6]: content, scale, origin; see `to_picture`."""
        return torch.tensor([*self.content, *self.scale, *self.origin], dtype=torch.float32)


def to_picture(boxes: Tensor, frame: Tensor) -> Tensor:
    """Boxes [M, 4] on the canvas, in the picture that `Frame.tensor` tells of; cut at the borders
    of what was seen of it.
    """
    height, width = frame[0], frame[1]
    cut = torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height]))
    return cut / frame[2:4].repeat(2) + frame[4:6].repeat(2)


@dataclass(frozen=True)
class Canvas:
    """How a detector wants its pictures.

    Attributes:
        size: (H, W) of the input.
        keeps_aspect: the picture fits in and the rest stays empty; else it is squeezed into `size`.
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
        """As JSON."""
        return asdict(self)

    @property
    def preprocessing(self) -> Preprocessing:
        """What scales and normalizes pixels."""
        return Preprocessing(self.size, None, self.interpolation, self.mean, self.std, self.scale)

    def frame(self, height: int, width: int, origin: tuple[int, int] = (0, 0)) -> Frame:
        """Where a picture of this size will lie."""
        if not self.keeps_aspect:
            factors = (self.size[1] / width, self.size[0] / height)
            return Frame(self.size, factors, origin)
        factor = min(self.size[0] / height, self.size[1] / width)
        content = (max(1, round(height * factor)), max(1, round(width * factor)))
        return Frame(content, (content[1] / width, content[0] / height), origin)


def from_detection_processor(processor: Mapping[str, Any], side: int | None) -> Canvas:
    """From the config of a detector's image processor; `side` pixels of a square one, if asked."""
    size = processor.get("size") or {}
    squeezes = bool(size.get("height") and size.get("width")) and "longest_edge" not in size
    if side:
        height, width = side, side
    elif squeezes:
        height, width = int(size["height"]), int(size["width"])
    else:
        height = width = int(size.get("shortest_edge") or 800)
    return Canvas((height, width), not squeezes, **pixel_keys(processor))


def to_detection_processor(processor: Mapping[str, Any], canvas: Canvas) -> dict[str, Any]:
    """The config of the image processor, so that it does what the canvas does."""
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
