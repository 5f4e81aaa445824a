"""Joint augmentation of an image and its mask, its boxes, or both.

All randomness comes from the given rng. A random region of the image is resized to the input, then
flipped and color-jittered; the mask and the boxes are transformed with it. Masks are resampled to
the nearest pixel; boxes are clipped at the border, and dropped if too little of them remains.

Shapes: H, W pixels; N boxes in pixels (left, top, right, bottom).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from finetune.task_parts.samples import Rng
from tasks.image.augmentation import drawing_from
from tasks.image.image_config import JointAugmentationConfig

IGNORE = 255
"""Class of pixels that loss and metrics ignore, in masks of uint8."""


Area = tuple[float, float, float, float]
"""Top, left, height and width, in pixels of an image."""


@dataclass(frozen=True)
class Scene:
    """An image with its annotations.

    Attributes:
        image: uint8 [3, H, W].
        mask: class of each pixel, uint8 [H, W]; None: no mask.
        boxes: float32 [N, 4] in pixels of the image; None: no boxes.
        kept: indices of these boxes among the boxes before the transforms, int64 [N].
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
        fill: color of the area outside the image, 0..255 by channel.
        interpolation: interpolation mode for the image: bilinear, bicubic or nearest.
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
        """Resize the scene, or an area of it, to `size` without augmentation."""
        return self.cut(scene, area or (0, 0, *scene.size))

    def __call__(self, scene: Scene, rng: Rng, area: Area | None = None) -> Scene:
        """Augment the scene, or the surroundings of an area of it, to `size`."""
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
        """Draw the region to cut out for an area of the scene; it may extend beyond the scene."""
        least, most = self.config.scale_jitter or (1.0, 1.0)
        stretch = self.config.aspect_jitter or 1.0
        scale = float(least * (most / least) ** rng.random())
        aspect = float(stretch ** rng.uniform(-0.5, 0.5))
        height, width = area[2] / scale * aspect, area[3] / scale / aspect
        # Inside the area if the region is smaller, around it if it is larger.
        top = area[0] + rng.random() * (area[2] - height)
        left = area[1] + rng.random() * (area[3] - width)
        return top, left, height, width

    def cut(self, scene: Scene, region: Area) -> Scene:
        """Crop a region of a scene and resize it to `size`; the area outside is filled."""
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
    """Crop (top, left, height, width) from an image [C, H, W]; the area outside is filled."""
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
    """Resize an image, uint8 [3, H, W], with antialiasing."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    if tuple(image.shape[-2:]) == tuple(size):
        return image
    mode = InterpolationMode(interpolation)
    resized: Tensor = functional.resize(image, list(size), mode, antialias=True)
    return resized


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a mask [H, W] by nearest-exact interpolation.

    It aligns pixel centers as the resizing of images does; "nearest", the default for masks, is off
    by half a pixel.
    """
    from torchvision.transforms.v2 import InterpolationMode, functional

    if tuple(mask.shape) == tuple(size):
        return mask
    resized: Tensor = functional.resize(mask[None], list(size), InterpolationMode.NEAREST_EXACT)
    return resized[0]


def clip_boxes(
    boxes: Tensor, size: tuple[int, int], min_visible: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Clip boxes [N, 4] at the borders of an image (H, W); also return the indices of those kept.

    Boxes are kept if they have an area of which at least the share `min_visible` is inside.
    """
    limit = torch.tensor([size[1], size[0]] * 2, dtype=boxes.dtype)
    inside = torch.minimum(boxes.clamp(min=0), limit)
    before, after = _areas(boxes), _areas(inside)
    kept = torch.nonzero((after > 0) & (after >= min_visible * before)).flatten()
    return inside[kept], kept


def flip(scene: Scene, *, horizontal: bool) -> Scene:
    """Flip the scene horizontally or vertically."""
    axis, order = (-1, [2, 1, 0, 3]) if horizontal else (-2, [0, 3, 2, 1])
    boxes = scene.boxes
    if boxes is not None:
        boxes = boxes[:, order].clone()
        swapped = [0, 2] if horizontal else [1, 3]
        boxes[:, swapped] = scene.image.shape[axis] - boxes[:, swapped]
    mask = None if scene.mask is None else scene.mask.flip(axis)
    return Scene(scene.image.flip(axis), mask, boxes, scene.kept)


def _areas(boxes: Tensor) -> Tensor:
    """Compute the areas [N] of boxes [N, 4]."""
    edges = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    return edges[:, 0] * edges[:, 1]
