"""Masks of rows, from files or COCO objects: validation, mapping to classes, class weights.

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

from finetune.errors import ConfigError, DataError, listed, nearest
from finetune.task_parts.samples import Row, each_row
from tasks.image.image_reading import digest_image, picture_size
from tasks.mask_sources.mask_crops import crop_mask, crop_objects
from tasks.mask_sources.mask_doubts import check_not_blurred, check_not_instances
from tasks.mask_sources.mask_files import (
    MaskFacts,
    Values,
    count_values,
    find_facts,
    paint_objects,
    read_mask,
)
from tasks.mask_sources.palettes import check_palettes
from tasks.masks.mask_coding import MaskCoding, has_colors, is_selected, learn_coding
from tasks.masks.mask_orientation import note_turned_masks, turn_of_mask
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.objects.annotated import NAMED
from tasks.pixels.areas import Area
from tasks.pixels.image_cells import path_of
from tasks.pixels.orientation import turn_values

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
_MOST_LISTED = 5  # unknown values that a message lists
_NEARLY_ALL = 0.999  # share of the pixels that are not ignored


@dataclass(frozen=True)
class MaskReader:
    """Reader of the masks of rows, for a config whose columns are resolved."""

    config: SegmentationConfig

    @property
    def column(self) -> str:
        """Column of the mask: an image, a .npy file, an array, or the objects of a COCO row."""
        return self.config.mask or "mask"

    @property
    def as_colors(self) -> bool:
        """True if palette masks are read as their colors, not as their indices."""
        by_labels = self.config.encoding == "auto" and has_colors(self.config.labels)
        return by_labels or self.config.encoding == "color"

    @property
    def as_foreground(self) -> bool:
        """True if every value but 0 is an object of the same class."""
        return self.config.encoding == "instance"

    def faults(self, row: Row, image: Any) -> Iterator[str]:
        """Yield the faults of a row's mask, whose image is valid; values are not mapped to classes.

        Faults are a missing, unreadable or wrongly sized mask, and objects without an outline.
        """
        cell, name = row[self.column], self._name(row)
        if cell is None:
            yield f"{name} is missing"
            return
        if is_object_list(cell):
            outlines = ("polygons", "counts", "fault")
            bare = [item["category"] for item in cell if not any(item.get(k) for k in outlines)]
            if bare:
                yield (
                    f"{name}: {len(bare)} of {len(cell)} objects have no segmentation "
                    f"(first: {bare[0]})"
                )
                return
        height, width = picture_size(image)
        try:
            facts = self.facts(row, (height, width))
        except DataError as error:
            yield str(error) if is_object_list(cell) else f"{name} {error}"
            return
        if facts.size != (height, width) and turn_of_mask(facts.size, image) == 1:
            sizes = f"{facts.size[1]} x {facts.size[0]} pixels, but the image {width} x {height}"
            yield f"{name} has {sizes}"

    def unseen(self, row: Row, coding: MaskCoding) -> Iterator[str]:
        """Yield a message if the mask of a row has values or categories unknown to `coding`."""
        cell = row.get(self.column)
        if cell is None:
            return
        if renamed := self._renamed(cell, coding):
            yield renamed
        elif unknown := coding.unknown(self.facts(row)):
            items = cell if is_object_list(cell) else []
            names = {str(item["category_id"]): item["category"] for item in items}
            values = ", ".join(names.get(value, value) for value in unknown[:_MOST_LISTED])
            yield f"{self._name(row)} has values without a class: {values}"

    def _name(self, row: Row) -> str:
        """Return the name of a row's mask for messages."""
        path = path_of(row[self.column])
        return f"mask {path!r}" if path else self.column

    def facts(self, row: Row, size: tuple[int, int] | None = None) -> MaskFacts:
        """Summarize the mask of a row. Raises DataError."""
        cell = row[self.column]
        if not is_object_list(cell):
            return find_facts(cell, self.as_colors, self.as_foreground)
        size = size or picture_size(self._image(row))
        return count_values(self._paint(cell, size), "objects")

    def classes(self, row: Row, size: tuple[int, int], coding: MaskCoding) -> Tensor | None:
        """Return the class of each pixel, uint8 [H, W]; None for a row without a mask."""
        cell = row.get(self.column)
        if cell is None:
            return None
        if is_object_list(cell):
            return torch.from_numpy(coding.classes(self._paint(cell, size)))
        values, _ = read_mask(cell, self.as_colors)
        if values.shape != size:
            values = turn_values(values, turn_of_mask(values.shape, self._image(row)))
        if self.as_foreground:
            values = (values > 0).astype(np.int32)
        return torch.from_numpy(coding.classes(values))

    def crop(self, row: Row, area: Area) -> Any:
        """Return the cell of an area of a row's mask. Raises DataError."""
        cell = row[self.column]
        if is_object_list(cell):
            return crop_objects(cell, area)
        turn = turn_of_mask(self.facts(row).size, self._image(row))
        return crop_mask(cell, area, self.as_colors, turn)

    def _image(self, row: Row) -> Any:
        return row[self.config.image or "image"]

    def note_turned(self, rows: Any, facts: Sequence[MaskFacts]) -> list[str]:
        """Return a note on the masks that are turned with their images. Raises DataError."""
        if facts[0].kind == "objects":
            return []
        pairs = zip(facts, rows, strict=True)
        return note_turned_masks((one.size, self._image(row)) for one, row in pairs)

    def _paint(self, objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Values:
        config = self.config
        selected = [item for item in objects if is_selected(item, config.labels, config.ignore)]
        return paint_objects(selected, size)

    def _renamed(self, cell: Any, coding: MaskCoding) -> str:
        """Return a message if a category has another name than in training, else ""."""
        if not is_object_list(cell) or isinstance(self.config.labels, Mapping):
            return ""
        names = dict(zip(coding.values, coding.names, strict=True))
        for item in cell:
            known = names.get(item["category_id"], item["category"])
            if known != item["category"]:
                return (
                    f"{item.get('place') or self.column}: category_id {item['category_id']} is "
                    f"{item['category']!r}, but {known!r} in train"
                )
        return ""

    def learn(self, rows: Any) -> tuple[MaskCoding, list[MaskFacts]]:
        """Learn the mapping from the masks of all rows; also return their summaries."""
        facts, places, categories = [], [], dict[int, str]()
        for row in each_row(rows):
            cell = row[self.column]
            facts.append(self.facts(row))
            places.append(path_of(cell) or row.get("file") or "")
            if is_object_list(cell):
                categories |= {item["category_id"]: item["category"] for item in cell}
        ordered = sorted(categories.items(), key=lambda item: (min(item[0], NAMED), item[1]))
        known = dict(ordered) if facts[0].kind == "objects" else None
        keys = self.config.labels, self.config.ignore, self.config.encoding
        if self.config.encoding == "auto" and self.config.labels is None and known is None:
            check_not_instances(facts)
            check_not_blurred(facts)
        return learn_coding(facts, *keys, known, places), facts

    def compare_palettes(self, rows: Iterable[Row]) -> None:
        """Raise DataError if palettes differ, unless task.encoding tells what counts."""
        if self.config.encoding == "auto" and not self.as_colors:
            cells = (row.get(self.column) for row in each_row(rows))
            check_palettes(
                (cell, find_facts(cell))
                for cell in cells
                if cell is not None and not is_object_list(cell)
            )

    def weigh(
        self,
        coding: MaskCoding,
        facts: Sequence[MaskFacts],
        wanted: Literal["balanced"] | Mapping[str, float] | None,
    ) -> tuple[Tensor | None, str]:
        """Return the class weights [K] for task.class_weights, and a note; None: all are 1.

        Raises ConfigError for an unknown class.
        """
        if wanted is None:
            return None, ""
        if isinstance(wanted, Mapping):
            for name in wanted:
                if name not in coding.names:
                    hint = nearest(name, coding.names)
                    raise ConfigError(f"task.class_weights: unknown class {name!r}; {hint}")
            weights = torch.tensor([float(wanted.get(name, 1.0)) for name in coding.names])
        else:
            pixels = np.maximum(coding.count(facts), 1)
            # The square root, because the inverse frequency itself would let a class with 0.1% of
            # the pixels dominate all others.
            rarity = np.sqrt(pixels.sum() / pixels)
            weights = torch.tensor(rarity / rarity.mean(), dtype=torch.float32)
        pairs = zip(coding.names, weights.tolist(), strict=True)
        listed = ", ".join(f"{name} {value:.2f}" for name, value in pairs)
        return weights, f"class weights: {listed}"

    def remarks(self, split: str, facts: Iterable[MaskFacts], coding: MaskCoding) -> list[str]:
        """Return warnings about classes that are missing in a split, and about ignored pixels.

        Raises DataError if all pixels are ignored.
        """
        facts = list(facts)
        counts = coding.count(facts)
        pixels, counted = sum(one.size[0] * one.size[1] for one in facts), int(counts.sum())
        use = "learned" if split == "train" else "evaluated"
        ignored = coding.ignored_in(facts)
        if not counted:
            remedy = f", or drop the split with data.{split}=0" * (split in ("validation", "test"))
            raise DataError(
                f"{split}: all pixels of its {len(facts)} masks are ignored ({ignored}), so "
                f"nothing can be {use}; add masks with {', '.join(coding.names)}{remedy}"
            )
        warnings, share = [], f"{1 - counted / pixels:.1%} of the pixels of {split} are ignored"
        if counted < pixels and counts.max() >= _NEARLY_ALL * counted:
            only = coding.names[int(counts.argmax())]
            warnings = [
                f"warning: {share} ({ignored}), and all others are {only}; should {ignored} be a "
                "class?"
            ]
        elif counted < pixels / 2:
            warnings = [f"warning: {share} ({ignored})"]
        missing = [name for name, count in zip(coding.names, counts, strict=True) if not count]
        if missing:
            names = listed(missing, _MOST_LISTED)
            warnings += [f"warning: {split} has no pixels of {names}; these classes are not {use}"]
        return warnings

    def digest(self, row: Row) -> Any:
        """Return a hash of the mask of a row."""
        cell = row.get(self.column)
        if cell is None or is_object_list(cell):
            return hashlib.sha256(repr(cell).encode()).hexdigest()
        return digest_image(cell)


def check_masks(column: str, cells: Sequence[Any]) -> None:
    """Raise DataError for a column of words instead of masks, such as names of folders."""
    words = [cell for cell in cells if isinstance(cell, str) and cell and not Path(cell).suffix]
    if words and len(words) == len(cells):
        raise DataError(
            f"task.mask: column {column!r} has {words[0]!r:.60}, which is not a mask; add a folder"
            " masks/ beside images/, with files of the same names, or set task.mask=COLUMN"
        )


def is_object_list(cell: Any) -> bool:
    """True if a cell is a list of COCO objects, not a mask image."""
    return isinstance(cell, list) and all(isinstance(item, dict) for item in cell)
