"""Small masks for tests of segmentation: a 3 x 3 mask with 3 classes, and objects of COCO."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.mask_sources.mask_files import (
    MaskFacts,
    count_values,
    find_facts,
    paint_objects,
    read_mask,
)
from tasks.masks.mask_coding import MaskCoding, learn_coding

MASK = np.array([[0, 0, 1], [0, 2, 2], [1, 1, 0]])
CATEGORIES = {3: "dog", 9: "cat", 12: "cow"}


def learn(
    *cells: Any, labels: Any = None, ignore: Any = None, encoding: Any = "auto"
) -> MaskCoding:
    """Learn the mapping of values to classes from masks."""
    return learn_coding([find_facts(cell) for cell in cells], labels, ignore, encoding)


def to_classes(coding: MaskCoding, cell: Any) -> list[list[int]]:
    """Return the class of each pixel of a mask."""
    return coding.classes(read_mask(cell)[0]).tolist()


def make_object(category: int, left: float, **keys: Any) -> dict[str, Any]:
    """Make an object whose polygon covers 4 columns of an image of 8 x 8 pixels."""
    corners = [left, 0, left + 4, 0, left + 4, 8, left, 8]
    item = {"category": CATEGORIES[category], "category_id": category, "area": 32, "counts": ""}
    return {**item, "polygons": [corners], "place": "train.json, annotation 5", **keys}


def summarize_objects(*categories: int) -> MaskFacts:
    """Summarize the mask of an object of each category, in an image of 8 x 8 pixels."""
    objects = [make_object(category, 4 * index) for index, category in enumerate(categories)]
    return count_values(paint_objects(objects, (8, 8)), "objects")
