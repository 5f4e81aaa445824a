"""Near duplicates of pictures: a perceptual hash, then the correlation of small gray versions.

The hash is the direction of the lowest frequencies of a cosine transform, as in pHash (Zauner 2010)
but not rounded to signs, which flip in flat pictures. Copies that were scaled, compressed or
brightened are found; cropped and mirrored ones are not.

Shapes: N pictures, S sides in pixels, F frequencies.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from finetune.analysis.near_texts import NearPair

SIDE = 32
"""Side in pixels of the gray versions that are compared."""
NEAR_HASH, NEAR_PIXELS = 0.995, 0.95
"""Cosine of two hashes, and correlation of two gray versions, from which they are duplicates."""
_LOWEST = 8  # frequencies in each direction
_AT_ONCE = 2**22  # pairs
_TINY = 1e-6


def near_pictures(pictures: NDArray[np.uint8]) -> list[NearPair]:
    """Return the pairs of nearly equal pictures, gray [N, S, S]: a pure function.

    The similarity of a pair is the correlation of its pixels.
    """
    hashes, pixels = perceptual_hashes(pictures), _unit_rows(pictures)
    found = list[NearPair]()
    step = max(1, _AT_ONCE // max(len(hashes), 1))
    for start in range(0, len(hashes), step):
        firsts, seconds = np.nonzero(hashes[start : start + step] @ hashes[start:].T >= NEAR_HASH)
        below = firsts < seconds
        firsts, seconds = firsts[below] + start, seconds[below] + start
        alike = np.einsum("ij,ij->i", pixels[firsts], pixels[seconds])
        found += [
            NearPair(int(first), int(second), min(float(similarity), 1.0))
            for first, second, similarity in zip(firsts, seconds, alike, strict=True)
            if similarity >= NEAR_PIXELS
        ]
    return found


def perceptual_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the hash of each picture, [N, F], of length 1; that of a single color is 0."""
    from scipy.fft import dctn

    low = dctn(pictures.astype(np.float32), axes=(1, 2), norm="ortho")[:, :_LOWEST, :_LOWEST]
    low = low.reshape(len(pictures), -1)[:, 1:]  # without the brightness
    return _scaled(low)


def _unit_rows(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the pixels [N, S * S] with a mean of 0 and a length of 1."""
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    return _scaled(flat - flat.mean(1, keepdims=True))


def _scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(lengths > _TINY, vectors / np.maximum(lengths, _TINY), 0).astype(np.float32)
