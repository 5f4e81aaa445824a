"""Generate a toy dataset for detection and segmentation: shapes on photographs, no download.

    python examples/make_scenes.py              # writes data/scenes/{train,test}/

The photographs ship with scikit-image. Each split has images/*.jpg, masks/*.png (class indices, 0
is the background; classes.txt has the names) and annotations.json (COCO: boxes and masks of the
visible pixels). A tenth of the images contain no object. A scene depends on the seed and its number
only. Results on this data show that a setup works, not how good a network is.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# Number of corners of regular polygons, and of points of stars.
CORNERS = {"circle": 48, "square": 4, "triangle": 3}
STARS = {"star": 5}
SHAPES = [*CORNERS, *STARS]
EMPTY_EVERY = 10  # every 10th image contains no object
LEAST_VISIBLE = 0.5  # share of a shape that must stay visible behind later ones
COLORS = [(0, 0, 0), (230, 25, 75), (60, 180, 75), (67, 99, 216), (255, 225, 25)]


Objects = list[tuple[int, np.ndarray]]
"""(class from 1, its visible pixels as bool [H, W]), from back to front."""


def outline(shape: str, center: np.ndarray, radius: float, turn: float) -> list[tuple[float, ...]]:
    """Compute the corners of a shape around `center`, in pixels; `turn` in radians."""
    points = CORNERS.get(shape) or 2 * STARS[shape]
    corners = []
    for number in range(points):
        reach = radius * (0.45 if shape in STARS and number % 2 else 1.0)
        angle = turn + 2 * math.pi * number / points
        corners.append((center[0] + reach * math.cos(angle), center[1] + reach * math.sin(angle)))
    return corners


def draw_scene(
    number: int, size: tuple[int, int], grounds: list[Image.Image], rng: np.random.Generator
) -> tuple[Image.Image, Objects]:
    """Draw up to five shapes of random position, size, rotation and color on a photograph."""
    width, height = size
    ground = grounds[rng.integers(len(grounds))]
    share = rng.uniform(0.5, 1.0)
    piece = (round(ground.width * share), round(ground.height * share))
    left, top = (
        int(rng.integers(edge - side + 1)) for edge, side in zip(ground.size, piece, strict=True)
    )
    image = ground.crop((left, top, left + piece[0], top + piece[1])).resize(size)
    objects: Objects = []
    for _ in range(0 if number % EMPTY_EVERY == 0 else int(rng.integers(1, 6))):
        kind = int(rng.integers(len(SHAPES)))
        radius = rng.uniform(0.08, 0.22) * min(size)
        center = np.array([rng.uniform(0.6 * radius, edge - 0.6 * radius) for edge in size])
        corners = outline(SHAPES[kind], center, radius, rng.uniform(0, 2 * math.pi))
        stencil = Image.new("L", size, 0)
        ImageDraw.Draw(stencil).polygon(corners, fill=255)
        color = tuple(int(value) for value in rng.integers(0, 256, size=3))
        pixels = np.asarray(stencil) > 0
        left_over = [(other, seen & ~pixels) for other, seen in objects]
        hidden = (
            after.sum() < LEAST_VISIBLE * before.sum()
            for (_, after), (_, before) in zip(left_over, objects, strict=True)
        )
        if not any(hidden):
            image.paste(color, (0, 0, width, height), stencil)
            objects = [*left_over, (kind + 1, pixels)]
    return image, objects


def index_mask(objects: Objects, size: tuple[int, int]) -> Image.Image:
    """Draw a mask of class indices with a color palette for display."""
    classes = np.zeros(size[::-1], np.uint8)
    for kind, pixels in objects:
        classes[pixels] = kind
    mask = Image.fromarray(classes, mode="P")
    mask.putpalette([value for color in COLORS for value in color])
    return mask


def annotation(kind: int, pixels: np.ndarray) -> dict[str, Any]:
    """Describe an object as in COCO: box (left, top, width, height), area and run-length mask."""
    rows, columns = (np.flatnonzero(pixels.any(axis=axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    box = [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]
    flat = pixels.flatten(order="F")  # runs go down the columns and start with background
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    runs = {"size": list(pixels.shape), "counts": [0, *counts] if flat[0] else counts}
    facts = {"bbox": box, "area": int(pixels.sum()), "iscrowd": 0, "segmentation": runs}
    return {"category_id": kind, **facts}


def write_split(folder: Path, count: int, size: tuple[int, int], seed: list[int]) -> None:
    """Write `count` scenes in place of earlier ones: images/, masks/ and annotations.json."""
    from skimage import data

    grounds = [Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    for earlier in (*folder.glob("images/*.jpg"), *folder.glob("masks/*.png")):
        earlier.unlink()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        image, objects = draw_scene(number, size, grounds, np.random.default_rng([*seed, number]))
        name = f"{number:05}"
        image.save(folder / "images" / f"{name}.jpg", quality=92)
        index_mask(objects, size).save(folder / "masks" / f"{name}.png")
        file, (width, height) = f"images/{name}.jpg", size
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        for kind, pixels in objects:
            ids = {"id": len(annotations) + 1, "image_id": number}
            annotations.append(ids | annotation(kind, pixels))
    categories = [{"id": place, "name": name} for place, name in enumerate(SHAPES, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(coco))
    print(f"{count} scenes with {len(annotations)} objects in {folder}")


def main() -> None:
    """Write both splits and the class names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("data/scenes"))
    parser.add_argument("--train", type=int, default=100)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    size = (options.width, options.height)
    for order, split in enumerate(("train", "test")):
        seed = [options.seed, order]
        write_split(options.folder / split, getattr(options, split), size, seed)
    names = "\n".join(["background", *SHAPES])
    (options.folder / "classes.txt").write_text(names + "\n")


if __name__ == "__main__":
    main()
