"""Image augmentation for whole-image labels: config keys, presets, random transforms.

All randomness comes from the given rng, a function of seed, epoch and row, so the result does not
depend on the number of workers or on interruptions of the run.

Shapes: B rows, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from finetune.config.schema import NonNegative
from finetune.errors import ConfigError
from finetune.task_parts import Rng
from tasks.image.preprocessing import Preprocessing
from tasks.pixels.pixel_range import PixelConfig

Preset = Literal["none", "light", "medium", "heavy"]
Probability = Annotated[float, Field(ge=0, le=1)]
Range = Annotated[list[float], Field(min_length=2, max_length=2)]
Presets = Mapping[str, Mapping[str, Any]]


class FlipConfig(PixelConfig):
    """Augmentation keys shared by all image tasks, whatever their labels."""

    augmentation: Preset | None = None
    """Preset for the keys below that are null; null: light, or none for a frozen backbone."""
    horizontal_flip: Probability | None = None
    """Probability of a horizontal flip. Set it to 0 for digits, text or left-hand traffic."""
    vertical_flip: Probability | None = None
    """Probability of a vertical flip."""
    color_jitter: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Maximum relative change of brightness, contrast and saturation."""


class AugmentationConfig(FlipConfig):
    """Augmentation keys of a task with one label per whole image."""

    crop_scale: Range | None = None
    """Minimum and maximum area of a random crop, as shares of the image; the crop is resized to the
    input.
    """
    rand_augment: Annotated[int, Field(ge=0, le=30)] | None = None
    """RandAugment: magnitude of two random operations (Cubuk et al. 2020, arXiv:1909.13719);
    0: off.
    """
    trivial_augment: bool | None = None
    """TrivialAugment: one random operation of random magnitude (Mueller & Hutter 2021,
    arXiv:2103.10158).
    """
    random_erasing: Probability | None = None
    """Random erasing: probability that a rectangle is erased (Zhong et al. 2020, arXiv:1708.04896).
    """
    mixup: NonNegative | None = None
    """MixUp: alpha of the beta distribution of the weight with which two images are blended (Zhang
    et al. 2018, arXiv:1710.09412); 0: off.
    """
    cutmix: NonNegative | None = None
    """CutMix: alpha of the beta distribution of the area that is pasted from another image (Yun et
    al. 2019, arXiv:1905.04899); 0: off.
    """


PRESETS: dict[str, dict[str, Any]] = {
    "none": {
        "crop_scale": [1.0, 1.0],
        "horizontal_flip": 0.0,
        "vertical_flip": 0.0,
        "color_jitter": 0.0,
        "rand_augment": 0,
        "trivial_augment": False,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
}
PRESETS["light"] = PRESETS["none"] | {"crop_scale": [0.6, 1.0], "horizontal_flip": 0.5}
PRESETS["medium"] = PRESETS["light"] | {
    "crop_scale": [0.35, 1.0],
    "color_jitter": 0.2,
    "trivial_augment": True,
    "random_erasing": 0.1,
}
PRESETS["heavy"] = PRESETS["light"] | {
    "crop_scale": [0.2, 1.0],
    "color_jitter": 0.3,
    "rand_augment": 9,
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 1.0,
}


def settle_augmentation(
    config: FlipConfig, *, frozen: bool, presets: Presets = PRESETS
) -> tuple[dict[str, Any], str]:
    """Return the value of every augmentation key, and a note about the choice."""
    preset = config.augmentation or ("none" if frozen else "light")
    configured = {name: getattr(config, name) for name in presets["none"]}
    keys = {
        name: presets[preset][name] if value is None else value
        for name, value in configured.items()
    }
    why = "" if config.augmentation else ", for a frozen backbone" if frozen else ", the default"
    active = [f"{name}={value}" for name, value in keys.items() if value != presets["none"][name]]
    listed = f": {', '.join(active)}" if active else ""
    return {"augmentation": preset, **keys}, f"augmentation: {preset}{why}{listed}"


def is_active(config: FlipConfig, presets: Presets = PRESETS) -> bool:
    """True if a settled config changes images at all."""
    return any(
        getattr(config, name) not in (value, None) for name, value in presets["none"].items()
    )


class Augmentation:
    """The random transforms of a settled config, from an image of any size to the input."""

    def __init__(self, config: AugmentationConfig, preprocessing: Preprocessing) -> None:
        from torchvision.transforms import v2  # takes a second to import; configs do not need it

        _check_channels(config, preprocessing.channels)
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
        if config.rand_augment:
            steps.append(v2.RandAugment(2, config.rand_augment, fill=fill))
        if config.trivial_augment:
            steps.append(v2.TrivialAugmentWide(fill=fill))
        steps.append(v2.Lambda(preprocessing.normalize))
        if config.random_erasing:
            steps.append(v2.RandomErasing(config.random_erasing))
        self._steps = v2.Compose(steps)

    def __call__(self, image: Tensor, rng: Rng) -> Tensor:
        """Transform an image, uint8 [3, H, W], to float32 input; all randomness is from `rng`."""
        with drawing_from(rng):
            return self._steps(image)  # type: ignore[no-any-return]


def _check_channels(config: AugmentationConfig, channels: int) -> None:
    """Raise ConfigError for a change of colors in images that are neither gray nor RGB."""
    colors = [
        f"task.{name}={getattr(config, name)}"
        for name in ("color_jitter", "rand_augment", "trivial_augment")
        if getattr(config, name)
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
