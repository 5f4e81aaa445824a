"""The masks of rows, wherever a row keeps its own: faults, what the values mean, weights.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetune.errors import ConfigError, DataError, nearest
from finetune.task import Row
from tasks.annotations.masks import MaskFacts, count_values, find_facts, paint_objects, read_mask
from tasks.masks.coding import MaskCoding, learn_coding
from tasks.vision.images import digest_image, path_of, read_image

MASK_NAMES = (
    "mask",
    "masks",
    "label",
    "labels",
    "annotation",
    "segmentation",
    "segmentation_mask",
    "semantic_mask",
    "target",
    "gt",
    "objects",
)
_MOST_FAULTS = 5


@dataclass(frozen=True)
class MaskReader:
    """Reads the masks of rows.

    Attributes:
        column: of the mask: a picture, a .npy, or the objects of a COCO row.
        image: column of the image.
    """

    column: str
    image: str

    def faults(self, row: Row, image: Any, coding: MaskCoding | None) -> Iterator[str]:
        """What is wrong with the mask of a good picture; values only once `coding` is known."""
        cell = row[self.column]
        named = f"mask {path_of(cell)!r}" if path_of(cell) else self.column
        if cell is None:
            yield f"{named} is missing"
            return
        if holds_objects(cell):
            bare = [item["category"] for item in cell if not (item["polygons"] or item["counts"])]
            if bare:
                yield f"{named}: {len(bare)} of {len(cell)} objects have no outline ({bare[0]})"
                return
        width, height = image_size(image)
        try:
            facts = self.facts(row, (height, width))
        except DataError as error:
            yield f"{named} {error}"
            return
        if facts.size != (height, width):
            sizes = f"{facts.size[1]} x {facts.size[0]} pixels, the image {width} x {height}"
            yield f"{named} has {sizes}"
        elif coding is not None and (unknown := coding.unknown(facts)):
            listed = ", ".join(unknown[:_MOST_FAULTS])
            yield f"{named} has values that are no class: {listed}"

    def facts(self, row: Row, size: tuple[int, int] | None = None) -> MaskFacts:
        """What the mask of a row holds. Raises DataError."""
        cell = row[self.column]
        if not holds_objects(cell):
            return find_facts(cell)
        if size is None:
            width, height = image_size(row[self.image])
            size = height, width
        return count_values(paint_objects(cell, size), "objects")

    def classes(self, row: Row, size: tuple[int, int], coding: MaskCoding) -> Tensor | None:
        """The class of each pixel, uint8 [H, W]; None for a row without a mask."""
        cell = row.get(self.column)
        if cell is None:
            return None
        values = paint_objects(cell, size) if holds_objects(cell) else read_mask(cell)[0]
        return torch.from_numpy(coding.classes(values))

    def learn(self, rows: Any, config: Any) -> tuple[MaskCoding, list[MaskFacts]]:
        """What the values of the masks of all rows mean, and what the masks hold."""
        facts, categories = [], dict[int, str]()
        for row in rows:
            facts.append(self.facts(row))
            if holds_objects(row[self.column]):
                categories |= {it["category_id"]: it["category"] for it in row[self.column]}
        known = dict(sorted(categories.items())) if facts[0].kind == "objects" else None
        coding = learn_coding(facts, config.labels, config.ignore, config.encoding, known)
        return coding, facts

    def weigh(
        self,
        coding: MaskCoding,
        facts: Sequence[MaskFacts],
        wanted: Literal["balanced"] | Mapping[str, float] | None,
    ) -> tuple[Tensor | None, str]:
        """The weights of the classes [K], and what was chosen; None: all are 1."""
        if wanted is None:
            return None, ""
        if isinstance(wanted, Mapping):
            for name in wanted:
                if name not in coding.names:
                    hint = nearest(name, coding.names)
                    raise ConfigError(f"task.class_weights: there is no class {name!r}; {hint}")
            found = torch.tensor([float(wanted.get(name, 1.0)) for name in coding.names])
        else:
            pixels = np.maximum(coding.count(facts), 1)
            # The root: a class of a thousandth of the pixels would drown all others by its inverse.
            rarity = np.sqrt(pixels.sum() / pixels)
            found = torch.tensor(rarity / rarity.mean(), dtype=torch.float32)
        pairs = zip(coding.names, found.tolist(), strict=True)
        return found, "class weights: " + ", ".join(f"{name} {value:.2f}" for name, value in pairs)

    def lacking(self, split: str, facts: Iterable[MaskFacts], coding: MaskCoding) -> list[str]:
        """A sentence if no mask of a split holds some class."""
        counts = coding.count(facts)
        missing = [name for name, count in zip(coding.names, counts, strict=True) if not count]
        fate = "learned" if split == "train" else "measured"
        said = f"warning: no pixel of {split} is {', '.join(missing)}, so that is not {fate}"
        return [said] if missing else []

    def digest(self, row: Row) -> Any:
        """A value that changes when the mask of a row does."""
        cell = row.get(self.column)
        if cell is None or holds_objects(cell):
            return hashlib.sha256(repr(cell).encode()).hexdigest()
        return digest_image(cell)


def holds_objects(cell: Any) -> bool:
    """Whether a cell holds objects and no picture."""
    return isinstance(cell, list) and all(isinstance(item, dict) for item in cell)


def image_size(image: Any) -> tuple[int, int]:
    """(width, height) of a picture, upright."""
    return read_image(image).size
