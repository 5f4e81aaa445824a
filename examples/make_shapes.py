"""Generate a toy image folder for classification: shapes on photographs, no download.

    python examples/make_shapes.py              # writes data/shapes/{train,test}/<class>/

The photographs ship with scikit-image. An image depends on the seed and its number only. Results on
this data show that a setup works, not how good a network is.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
SIDE = 96  # width and height of an image in pixels
# Number of corners of regular polygons, and of points of stars.
CORNERS = {"triangle": 3, "square": 4, "hexagon": 6, "circle": 48}
STARS = {"cross": 4, "star": 5}
SHAPES = sorted({**CORNERS, **STARS})


def outline(
    shape: str, center: np.ndarray, radius: float, turn: float
) -> list[tuple[float, float]]:
    """Compute the corners of a shape around `center`, in pixels; `turn` in radians."""
    points = CORNERS.get(shape) or 2 * STARS[shape]
    corners = []
    for number in range(points):
        reach = radius * (0.4 if shape in STARS and number % 2 else 1.0)
        angle = turn + 2 * math.pi * number / points
        corners.append((center[0] + reach * math.cos(angle), center[1] + reach * math.sin(angle)))
    return corners


def draw(shape: str, grounds: list[Image.Image], rng: np.random.Generator) -> Image.Image:
    """Draw a shape of random position, size, rotation and color on a crop of a photograph."""
    ground = grounds[rng.integers(len(grounds))]
    left, top = (int(rng.integers(edge - SIDE)) for edge in ground.size)
    image = ground.crop((left, top, left + SIDE, top + SIDE))
    radius = rng.uniform(0.18, 0.38) * SIDE
    center = rng.uniform(radius, SIDE - radius, size=2)
    color = tuple(int(value) for value in rng.integers(0, 256, size=3))
    corners = outline(shape, center, radius, rng.uniform(0, 2 * math.pi))
    ImageDraw.Draw(image).polygon(corners, fill=color, outline=(255, 255, 255))
    return image


def main() -> None:
    """Write both splits as image folders."""
    from skimage import data

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("data/shapes"))
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grounds = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    for order, split in enumerate(("train", "test")):
        for number in range(getattr(options, split)):
            shape = SHAPES[number % len(SHAPES)]
            path = options.folder / split / shape / f"{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(shape, grounds, np.random.default_rng([options.seed, order, number])).save(path)
        print(f"{getattr(options, split)} images in {options.folder / split}")


if __name__ == "__main__":
    main()
