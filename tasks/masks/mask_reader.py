"""The masks of rows, wherever a row keeps its own: faults, what the values mean, weights.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetune.errors import ConfigError, DataError, nearest
from finetune.task_parts import Row
from tasks.annotations.mask_files import (
    MaskFacts,
    Values,
    count_values,
    find_facts,
    paint_objects,
    read_mask,
)
from tasks.image.image_reading import digest_image, path_of, picture_size
from tasks.masks.mask_coding import MaskCoding, has_colors, is_meant, learn_coding
from tasks.masks.segmentation_config import SegmentationConfig

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
_NEARLY = 0.999  # share of the pixels that count


@dataclass(frozen=True)
class MaskReader:
    """Reads the masks of rows as the config says, once its columns are known."""

    config: SegmentationConfig

    @property
    def column(self) -> str:
        """Of the mask: a picture, a .npy, an array, or the objects of a COCO row."""
        return self.config.mask or "mask"

    @property
    def as_colors(self) -> bool:
        """Whether a palette stands for its colours, and not for its indices."""
        named = self.config.encoding == "auto" and has_colors(self.config.labels)
        return named or self.config.encoding == "color"

    def faults(self, row: Row, image: Any) -> Iterator[str]:
        """Yield what is wrong with the mask of a good image; what its values mean is not asked."""
        cell, named = row[self.column], self._named(row)
        if cell is None:
            yield f"{named} is missing"
            return
        if holds_objects(cell):
            outlines = ("polygons", "counts", "fault")
            bare = [it["category"] for it in cell if not any(it.get(name) for name in outlines)]
            if bare:
                yield f"{named}: {len(bare)} of {len(cell)} objects have no outline ({bare[0]})"
                return
        height, width = picture_size(image)
        try:
            facts = self.facts(row, (height, width))
        except DataError as error:
            yield str(error) if holds_objects(cell) else f"{named} {error}"
            return
        if facts.size != (height, width):
            sizes = f"{facts.size[1]} x {facts.size[0]} pixels, the image {width} x {height}"
            yield f"{named} has {sizes}"

    def unseen(self, row: Row, coding: MaskCoding) -> Iterator[str]:
        """Yield what the mask of a row holds that is not a class of `coding`."""
        cell = row.get(self.column)
        if cell is None:
            return
        if renamed := self._renamed(cell, coding):
            yield renamed
        elif unknown := coding.unknown(self.facts(row)):
            listed = ", ".join(unknown[:_MOST_FAULTS])
            yield f"{self._named(row)} has values that are no class: {listed}"

    def _named(self, row: Row) -> str:
        """What a row's mask is called in messages."""
        path = path_of(row[self.column])
        return f"mask {path!r}" if path else self.column

    def facts(self, row: Row, size: tuple[int, int] | None = None) -> MaskFacts:
        """What the mask of a row holds. Raises DataError."""
        cell = row[self.column]
        if not holds_objects(cell):
            return find_facts(cell, self.as_colors)
        size = size or picture_size(row[self.config.image or "image"])
        return count_values(self._paint(cell, size), "objects")

    def classes(self, row: Row, size: tuple[int, int], coding: MaskCoding) -> Tensor | None:
        """The class of each pixel, uint8 [H, W]; None for a row without a mask."""
        cell = row.get(self.column)
        if cell is None:
            return None
        if holds_objects(cell):
            return torch.from_numpy(coding.classes(self._paint(cell, size)))
        return torch.from_numpy(coding.classes(read_mask(cell, self.as_colors)[0]))

    def _paint(self, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Values:
        config = self.config
        meant = [item for item in objects if is_meant(item, config.labels, config.ignore)]
        return paint_objects(meant, size)

    def _renamed(self, cell: Any, coding: MaskCoding) -> str:
        """What is wrong if an object's category has another name than in train, else ""."""
        if not holds_objects(cell) or isinstance(self.config.labels, Mapping):
            return ""
        names = dict(zip(coding.values, coding.names, strict=True))
        for item in cell:
            known = names.get(item["category_id"], item["category"])
            if known != item["category"]:
                whose = f"category_id {item['category_id']} is {item['category']!r}"
                return f"{item.get('place') or self.column}: {whose}, in train {known!r}"
        return ""

    def learn(self, rows: Any) -> tuple[MaskCoding, list[MaskFacts]]:
        """What the values of the masks of all rows mean, and what the masks hold."""
        facts, places, categories = [], [], dict[int, str]()
        for row in rows:
            cell = row[self.column]
            facts.append(self.facts(row))
            places.append(path_of(cell) or row.get("file") or "")
            if holds_objects(cell):
                categories |= {item["category_id"]: item["category"] for item in cell}
        known = dict(sorted(categories.items())) if facts[0].kind == "objects" else None
        keys = self.config.labels, self.config.ignore, self.config.encoding
        return learn_coding(facts, *keys, known, places), facts

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

    def remarks(self, split: str, facts: Iterable[MaskFacts], coding: MaskCoding) -> list[str]:
        """Sentences on the classes that no mask of a split holds, and on what is ignored in it.

        Raises DataError if all of it is.
        """
        facts = list(facts)
        counts = coding.count(facts)
        pixels, counted = sum(one.size[0] * one.size[1] for one in facts), int(counts.sum())
        fate = "learned" if split == "train" else "measured"
        ignored = coding.ignored_in(facts)
        if not counted:
            remedy = f", or leave it out with data.{split}=0" * (split in ("validation", "test"))
            raise DataError(
                f"{split}: all pixels of its {len(facts)} masks are ignored ({ignored}), so "
                f"nothing can be {fate}; give it masks of {', '.join(coding.names)}{remedy}"
            )
        said, share = [], f"{1 - counted / pixels:.1%} of the pixels of {split} are ignored"
        if counted < pixels and counts.max() >= _NEARLY * counted:
            only = coding.names[int(counts.argmax())]
            said = [f"warning: {share} ({ignored}), all others are {only}: is {ignored} a class?"]
        elif counted < pixels / 2:
            said = [f"warning: {share} ({ignored})"]
        missing = [name for name, count in zip(coding.names, counts, strict=True) if not count]
        if missing:
            said += [f"warning: no pixel of {split} is {', '.join(missing)}, so that is not {fate}"]
        return said

    def digest(self, row: Row) -> Any:
        """A value that changes when the mask of a row does."""
        cell = row.get(self.column)
        if cell is None or holds_objects(cell):
            return hashlib.sha256(repr(cell).encode()).hexdigest()
        return digest_image(cell)


def check_masks(column: str, cells: Sequence[Any]) -> None:
    """Refuse a column of words, such as the names of folders. Raises DataError."""
    words = [cell for cell in cells if isinstance(cell, str) and cell and not Path(cell).suffix]
    if words and len(words) == len(cells):
        raise DataError(
            f"task.mask: column {column!r} holds {words[0]!r:.60}, which is no mask; put a folder"
            " masks/ beside images/, with files of the same names, or set task.mask=COLUMN"
        )


def holds_objects(cell: Any) -> bool:
    """Whether a cell holds objects and no picture."""
    return isinstance(cell, list) and all(isinstance(item, dict) for item in cell)
