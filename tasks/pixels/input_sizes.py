"""The default size of the input where every pixel counts: no larger than the images need.

Enlarging images to the size that a network was pretrained with costs computation and adds nothing
to be seen, except for small objects. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Size = tuple[int, int]

STRIDE = 32
"""Inputs are multiples of this number of pixels, the coarsest stride of common backbones."""
SAMPLED = 200
"""Number of images whose sizes are read."""
_SHARE = 90  # percentile of the images' sizes that fits into the input
_SMALLEST = 2 * STRIDE
_SMALL_SHARE = 10  # percentile of the objects' sizes that should be seen
_SMALL_OBJECT = 16  # side in pixels of the input from which an object is well seen at stride 8


def fit_input(sizes: Sequence[Size], usual: Size) -> tuple[Size, str]:
    """Return the size of an input to which images are stretched, and why it is not `usual`."""
    common = _common(sizes)
    size = tuple(min(most, _whole(edge)) for edge, most in zip(common, usual, strict=True))
    return (size[0], size[1]), _reason((size[0], size[1]), usual, common)


def fit_square(sizes: Sequence[Size], usual: int, object_sides: Sequence[float]) -> tuple[int, str]:
    """Return the side of a square input that keeps the aspect ratio, and why it is not `usual`.

    `object_sides` are square roots of areas in pixels of the images: where many are small, images
    are enlarged, up to `usual`.
    """
    common = _common(sizes)
    small = float(np.percentile(object_sides, _SMALL_SHARE)) if len(object_sides) else np.inf
    factor = max(1.0, _SMALL_OBJECT / max(small, 1.0))
    side = min(usual, _whole(max(common) * factor))
    reason = _reason((side, side), (usual, usual), common)
    if reason and side > max(common) * 1.25:
        reason += f"; enlarged, as a tenth of the objects measure at most {small:.0f} pixels"
    return side, reason


def _common(sizes: Sequence[Size]) -> Size:
    """Return the height and width that most images do not exceed."""
    height, width = np.percentile(np.array(sizes), _SHARE, axis=0, method="higher")
    return int(height), int(width)


def _whole(edge: float) -> int:
    """Round an edge up to a multiple of the stride."""
    return max(_SMALLEST, -int(-edge // STRIDE) * STRIDE)


def _reason(size: Size, usual: Size, common: Size) -> str:
    if size == usual:
        return ""
    factor = usual[0] * usual[1] / (size[0] * size[1])
    return (
        f"as most training images have at most {common[0]} x {common[1]}; the usual"
        f" {usual[0]} x {usual[1]} would take {factor:.1f} times the computation (task.image_size)"
    )
