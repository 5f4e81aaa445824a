"""Augmentation by position of a picture with what is drawn on it: its mask, its boxes, or both.

Everything is drawn from the rng that is given. A region of the picture is chosen, all of it is
taken to the input's size, then it is mirrored and coloured; pixels, masks and boxes stay in step.
Masks are read at the pixel that is nearest; boxes are cut at the border, and dropped where too
little of them is left.

Shapes: H, W pixels; N boxes in pixels (left, top, right, bottom).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from finetune.task_parts import Rng
from tasks.image.augmentation import FlipConfig, Range, drawing_from

IGNORE = 255
"""The class of a pixel that counts for nothing, in masks of uint8."""


class JointAugmentationConfig(FlipConfig):
    """The keys of a task that augments pictures together with masks or boxes."""

    scale_jitter: Range | None = None
    """Least and most by which a picture is enlarged before the input is cut out of it at random;
    below 1 the rest is filled.
    """
    aspect_jitter: Annotated[float, Field(ge=1, le=4)] | None = None
    """Most by which a picture is stretched along one edge; 1: never."""
    min_visible: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a box's area that must be left inside the input, or the box is dropped."""


JOINT_PRESETS: dict[str, dict[str, Any]] = {
    "none": {
        "scale_jitter": [1.0, 1.0],
        "aspect_jitter": 1.0,
        "horizontal_flip": 0.0,
        "vertical_flip": 0.0,
        "color_jitter": 0.0,
        "min_visible": 0.3,
    }
}
JOINT_PRESETS["light"] = JOINT_PRESETS["none"] | {
    "scale_jitter": [0.8, 1.25],
    "horizontal_flip": 0.5,
    "color_jitter": 0.1,
}
JOINT_PRESETS["medium"] = JOINT_PRESETS["light"] | {
    "scale_jitter": [0.5, 1.5],
    "aspect_jitter": 1.15,
    "color_jitter": 0.2,
}
JOINT_PRESETS["heavy"] = JOINT_PRESETS["medium"] | {
    "scale_jitter": [0.3, 2.0],
    "aspect_jitter": 1.33,
    "color_jitter": 0.4,
}


Area = tuple[float, float, float, float]
"""Top, left, height and width, in pixels of a picture."""


@dataclass(frozen=True)
class Scene:
    """A picture with what is drawn on it.

    Attributes:
        image: uint8 [3, H, W].
        mask: class by pixel, uint8 [H, W]; None: there is none.
        boxes: float32 [N, 4] in pixels of the image; None: there are none.
        kept: which of the boxes that a transform was given these are, int64 [N].
    """

    image: Tensor
    mask: Tensor | None = None
    boxes: Tensor | None = None
    kept: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.image.shape[-2:]
        return int(height), int(width)


class JointAugmentation:
    """The random transforms of a settled config, from a scene of any size to one of `size`.

    Attributes:
        size: (H, W) of the result.
        fill: the colour of what lies outside of the picture, 0..255 by channel.
        interpolation: of the picture: bilinear, bicubic or nearest.
    """

    def __init__(
        self,
        config: JointAugmentationConfig,
        size: tuple[int, int],
        fill: tuple[int, ...] = (124, 116, 104),
        interpolation: str = "bilinear",
    ) -> None:
        self.config, self.size, self.fill = config, size, fill
        self.interpolation = interpolation

    def plain(self, scene: Scene, area: Area | None = None) -> Scene:
        """The scene, or an area of it, as it is, of `size`."""
        return self.cut(scene, area or (0, 0, *scene.size))

    def __call__(self, scene: Scene, rng: Rng, area: Area | None = None) -> Scene:
        """The scene as one draw of `rng` shows it, of `size`; of an area, what lies about there."""
        config = self.config
        scene = self.cut(scene, self._region(area or (0, 0, *scene.size), rng))
        if rng.random() < (config.horizontal_flip or 0):
            scene = flip(scene, horizontal=True)
        if rng.random() < (config.vertical_flip or 0):
            scene = flip(scene, horizontal=False)
        if config.color_jitter:
            from torchvision.transforms import v2

            strength = config.color_jitter
            jitter = v2.ColorJitter(strength, strength, strength, hue=strength / 6)
            with drawing_from(rng):
                scene = replace(scene, image=jitter(scene.image))
        return scene

    def _region(self, area: Area, rng: Rng) -> Area:
        """What is cut out of a scene for an area of it; it may reach beyond."""
        least, most = self.config.scale_jitter or (1.0, 1.0)
        stretch = self.config.aspect_jitter or 1.0
        scale = float(least * (most / least) ** rng.random())
        aspect = float(stretch ** rng.uniform(-0.5, 0.5))
        height, width = area[2] / scale * aspect, area[3] / scale / aspect
        # Inside the area where the region is smaller, around it where it is larger.
        top = area[0] + rng.random() * (area[2] - height)
        left = area[1] + rng.random() * (area[3] - width)
        return top, left, height, width

    def cut(self, scene: Scene, region: Area) -> Scene:
        """A region of a scene, resized to `size`; what lies outside of the scene is filled."""
        top, left = round(region[0]), round(region[1])
        height, width = max(round(region[2]), 1), max(round(region[3]), 1)
        image = crop(scene.image, (top, left, height, width), self.fill)
        mask = None
        if scene.mask is not None:
            mask = crop(scene.mask[None], (top, left, height, width), (IGNORE,))[0]
        boxes, kept = scene.boxes, scene.kept
        if boxes is not None:
            scale = torch.tensor([self.size[1] / width, self.size[0] / height]).repeat(2)
            moved = (boxes - torch.tensor([left, top, left, top])) * scale
            boxes, visible = clip_boxes(moved, self.size, self.config.min_visible or 0.0)
            kept = visible if kept is None else kept[visible]
        return Scene(
            resize_image(image, self.size, self.interpolation),
            None if mask is None else resize_mask(mask, self.size),
            boxes,
            kept,
        )


def crop(image: Tensor, region: tuple[int, int, int, int], fill: tuple[int, ...]) -> Tensor:
    """A region (top, left, height, width) of an image [C, H, W]; what lies outside is filled."""
    from torchvision.transforms.v2 import functional

    top, left, height, width = region
    bottom, right = top + height, left + width
    inner = image[..., max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    beyond = [-left, -top, right - image.shape[-1], bottom - image.shape[-2]]
    pads = [
        min(max(edge, 0), limit) for edge, limit in zip(beyond, [width, height] * 2, strict=True)
    ]
    padded: Tensor = (
        functional.pad(inner, pads, fill=list(map(float, fill))) if any(pads) else inner
    )
    return padded


def resize_image(image: Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """A picture uint8 [3, H, W] in another size, smoothed where it is made smaller."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    if tuple(image.shape[-2:]) == tuple(size):
        return image
    mode = InterpolationMode(interpolation)
    resized: Tensor = functional.resize(image, list(size), mode, antialias=True)
    return resized


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask [H, W] in another size: of each pixel, the class at the nearest place.

    That is nearest-exact, which counts from the middle of pixels as resizing of pictures does;
    "nearest", the default for masks, is off by half a pixel.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    if tuple(mask.shape) == tuple(size):
        return mask
    resized: Tensor = functional.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)
    return resized[0]


def clip_boxes(
    boxes: Tensor, size: tuple[int, int], min_visible: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] cut at the borders of an image (H, W), and the places of those that are left.

    Left is what has an area, of which at least the share `min_visible` lies inside.
    """
    limit = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)
    inside = torch.minimum(boxes.clamp(min=0), limit)
    before, after = _areas(boxes), _areas(inside)
    kept = torch.nonzero((after > 0) & (after >= min_visible * before)).flatten()
    return inside[kept], kept


def flip(scene: Scene, *, horizontal: bool) -> Scene:
    """The scene mirrored: left and right, or top and bottom, swapped."""
    axis, places = (-1, [2, 1, 0, 3]) if horizontal else (-2, [0, 3, 2, 1])
    boxes = scene.boxes
    if boxes is not None:
        boxes = boxes[:, places].clone()
        swapped = [0, 2] if horizontal else [1, 3]
        boxes[:, swapped] = scene.image.shape[axis] - boxes[:, swapped]
    mask = None if scene.mask is None else scene.mask.flip(axis)
    return Scene(scene.image.flip(axis), mask, boxes, scene.kept)


def _areas(boxes: Tensor) -> Tensor:
    """Of boxes [N, 4]: [N]."""
    edges = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return edges[:, 0] * edges[:, 1]
