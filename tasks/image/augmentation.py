"""Image augmentation for whole-image labels: random transforms and mixing.

All randomness comes from the given rng, a function of seed, epoch and row, so the result does not
depend on the number of workers or on interruptions of the run.

Shapes: B rows, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune.errors import ConfigError
from finetune.task_parts.samples import Rng
from tasks.image.image_config import AugmentationConfig, FlipConfig
from tasks.image.preprocessing import Preprocessing, channel_keys

# JPEGs are decoded at a reduced size for training if their shorter side still has so many times the
# pixels of the input: resized, they differ by one level of 255 at most.
ENOUGH = 4


class Augmentation:
    """The random transforms of a settled config, from an image of any size to the input.

    The config has `crop_scale` and the keys of `FlipConfig`, and maybe those of AugmentationConfig.

    Attributes:
        enough: pixels of the shorter side of an image that are enough.
    """

    def __init__(self, config: Any, preprocessing: Preprocessing) -> None:
        from torchvision.transforms import v2  # takes a second to import

        check_color_changes(config, preprocessing.channels)
        size, mode = list(preprocessing.size), v2.InterpolationMode(preprocessing.mode)
        # Empty areas get the mean color, which is 0 after normalization.
        fill = [min(max(mean, 0.0), 1.0) * 255 for mean in preprocessing.mean]
        crops = list(config.crop_scale or [1, 1]) != [1, 1]
        steps: list[Any] = [
            v2.RandomResizedCrop(size, tuple(config.crop_scale or ()), interpolation=mode)
            if crops
            else v2.Lambda(preprocessing.fit)
        ]
        if config.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip(config.horizontal_flip))
        if config.vertical_flip:
            steps.append(v2.RandomVerticalFlip(config.vertical_flip))
        if config.color_jitter:
            strength = config.color_jitter
            steps.append(v2.ColorJitter(strength, strength, strength, hue=strength / 6))
        if getattr(config, "rand_augment", None):
            steps.append(v2.RandAugment(2, config.rand_augment, fill=fill))
        if getattr(config, "trivial_augment", None):
            steps.append(v2.TrivialAugmentWide(fill=fill))
        steps.append(v2.Lambda(preprocessing.normalize))
        if getattr(config, "random_erasing", None):
            steps.append(v2.RandomErasing(config.random_erasing))
        self._steps = v2.Compose(steps)
        self.enough = ENOUGH * max(size)

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """Transform an image, uint8 [3, H, W], to float32 input; all randomness is from `rng`."""
        with drawing_from(rng):
            return self._steps(image)  # type: ignore[no-any-return]


def channel_settings(preprocessing: Preprocessing, config: FlipConfig) -> dict[str, Any]:
    """Return the keys that follow from the channels of a network: none for RGB.

    Colors of images that are neither gray nor RGB do not change, unless a key asks for it.
    """
    channels = preprocessing.channels
    keeps = channels not in (1, 3) and config.color_jitter is None
    return channel_keys(preprocessing) | ({"color_jitter": 0.0} if keeps else {})


def check_color_changes(config: FlipConfig, channels: int) -> None:
    """Raise ConfigError for a change of colors in images that are neither gray nor RGB."""
    colors = [
        f"task.{name}={getattr(config, name)}"
        for name in ("color_jitter", "rand_augment", "trivial_augment")
        if getattr(config, name, None)
    ]
    if colors and channels not in (1, 3):
        raise ConfigError(
            f"{', '.join(colors)}: changes colors, and the images have {channels} bands; write"
            " task.augmentation=light, which flips and crops"
        )


@contextmanager
def drawing_from(rng: Rng) -> Iterator[None]:
    """Make torchvision draw from `rng`.

    torchvision uses torch's global generator, as dropout does: its state is restored on exit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(rng.integers(2**63)))
        yield


class Mix(NamedTuple):
    """Partners by which a batch was mixed; every row keeps `share` of its own image and label."""

    partners: list[int]
    share: float


def mix(images: Tensor, config: AugmentationConfig, rng: Rng) -> tuple[Tensor, Mix | None]:
    """Apply MixUp or CutMix to images [B, 3, H, W], one draw per batch; None if both are off."""
    choices = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if not choices or len(images) < 2:
        return images, None
    name = choices[int(rng.integers(len(choices)))]
    alpha = getattr(config, name)
    share = float(rng.beta(alpha, alpha))
    partners = rng.permutation(len(images)).tolist()
    if name == "mixup":
        return images * share + images[partners] * (1 - share), Mix(partners, share)
    top, bottom, left, right = _window(images.shape[-2], images.shape[-1], 1 - share, rng)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partners, :, top:bottom, left:right]
    cut = (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    return mixed, Mix(partners, 1 - cut)


def _window(height: int, width: int, area: float, rng: Rng) -> tuple[int, int, int, int]:
    """Draw a rectangle of this share of the area: top, bottom, left, right; clipped."""
    half_height, half_width = (side * area**0.5 / 2 for side in (height, width))
    middle, center = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = (round(min(max(middle + d, 0), height)) for d in (-half_height, half_height))
    left, right = (round(min(max(center + d, 0), width)) for d in (-half_width, half_width))
    return top, bottom, left, right
