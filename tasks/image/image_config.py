"""Config keys of augmentation, with its presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from finetune.config.schema import NonNegative
from tasks.pixels.pixel_range import PixelConfig

Preset = Literal["none", "light", "medium", "heavy"]
Probability = Annotated[float, Field(ge=0, le=1)]


def _ascends(limits: list[float]) -> list[float]:
    if not 0 < limits[0] <= limits[1]:
        raise ValueError("give two numbers above 0, the smaller one first")
    return limits


def _are_shares(limits: list[float]) -> list[float]:
    if limits[1] > 1:
        raise ValueError("give shares of the image, at most 1")
    return limits


Range = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_ascends)]
Shares = Annotated[Range, AfterValidator(_are_shares)]
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

    crop_scale: Shares | None = None
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


class JointAugmentationConfig(FlipConfig):
    """Keys of a task that augments images together with masks or boxes."""

    may_round: ClassVar[bool] = False

    scale_jitter: Range | None = None
    """Minimum and maximum scale of an image before the input is cropped from it at random; below 1
    the rest is padded.
    """
    aspect_jitter: Annotated[float, Field(ge=1, le=4)] | None = None
    """Maximum factor by which the aspect ratio changes; 1: no change."""
    min_visible: Annotated[float, Field(gt=0, le=1)] | None = None
    """Minimum share of a box's area that must remain inside the input; other boxes are dropped."""


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
