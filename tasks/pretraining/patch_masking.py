"""Masks over patches of an image, and noise: what a network reads instead of the image.

Shapes: C channels, H, W pixels, P, Q patches of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finetune.errors import ConfigError
from finetune.task_parts.samples import Rng

FEWEST_PATCHES = 4  # along a side, by default
_KEPT = 1e-9  # rounding of mask_ratio


@dataclass(frozen=True)
class PatchMasking:
    """Settings of masks and noise.

    Attributes:
        side: of a masked patch, in pixels.
        ratio: share of the patches to mask.
        noise: standard deviation of the noise.
    """

    side: int
    ratio: float
    noise: float

    def draw(self, size: tuple[int, int], rng: Rng) -> Tensor:
        """Draw the masked patches of an image of H, W pixels, bool [P, Q].

        At least one is masked unless `ratio` is 0, and at least one is not.
        """
        shape = size[0] // self.side, size[1] // self.side
        total = shape[0] * shape[1]
        count = min(max(1, round(self.ratio * total + _KEPT)), total - 1) if self.ratio else 0
        mask = np.zeros(total, dtype=bool)
        mask[rng.permutation(total)[:count]] = True
        return torch.from_numpy(mask.reshape(shape))

    def corrupt(self, pixels: Tensor, mask: Tensor, rng: Rng) -> Tensor:
        """Return normalized pixels [C, H, W] with noise, and 0, the mean, where they are masked."""
        read = pixels
        if self.noise:
            read = read + self.noise * torch.from_numpy(
                rng.standard_normal(tuple(pixels.shape), dtype=np.float32)
            )
        return read.masked_fill(enlarge(mask, self.side), 0.0)


def enlarge(mask: Tensor, side: int) -> Tensor:
    """Return a mask of patches [..., P, Q] as one of pixels [..., H, W]."""
    return mask.repeat_interleave(side, -2).repeat_interleave(side, -1)


def choose_side(size: tuple[int, int], patch: int, stride: int, asked: int | None) -> int:
    """Return the side of masked patches for images of `size`: a multiple of the network's `patch`.

    It is `stride`, the side of the coarsest patches, or the largest below it with at least four
    patches along a side. Raises ConfigError if the one that was asked for does not fit.
    """
    fits = [
        side
        for side in range(patch, min(size) // 2 + 1, patch)
        if size[0] % side == 0 and size[1] % side == 0
    ]
    if asked is not None and asked not in fits:
        raise ConfigError(
            f"task.mask_patch={asked}: images of {size[0]} x {size[1]} pixels in patches of "
            f"{patch} can be masked in patches of {', '.join(map(str, fits)) or 'no size'}; choose "
            "one of these, or another task.image_size"
        )
    if asked is not None:
        return asked
    if not fits:
        raise ConfigError(
            f"task.image_size: images of {size[0]} x {size[1]} pixels cannot be divided into "
            f"patches that are multiples of {patch} pixels; set another size, such as {8 * patch}"
        )
    coarse = [side for side in fits if side <= stride and min(size) // side >= FEWEST_PATCHES]
    return max(coarse or fits[:1])
