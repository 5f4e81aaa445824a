"""Rows with an image and its mask: detection of the columns, validation.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png"}; see `tasks.masks.mask_reader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from finetune.errors import DataError, format_count, listed
from finetune.task_parts.rows import Resolved
from finetune.task_parts.samples import Row
from tasks.classification.label_columns import find_column
from tasks.image.picture_rows import PictureRows, image_name
from tasks.mask_sources.mask_files import NO_OBJECT
from tasks.masks.held_out_classes import list_all_classes
from tasks.masks.mask_coding import format_mask_value
from tasks.masks.mask_reader import MASK_NAMES, MaskReader, check_masks, is_object_list
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.pixels.areas import Area
from tasks.pixels.image_cells import looks_like_image, path_of

_FIRST_VALUES = 5


class MaskRows(PictureRows):
    """Rows of segmentation."""

    config: SegmentationConfig

    @property
    def masks(self) -> MaskReader:
        return MaskReader(self.config)

    @property
    def targets(self) -> list[str]:
        return [self.masks.column]

    def labels(self, row: Row) -> tuple[str, ...]:
        """Return the categories of a list of objects; () for a mask, which is not read here."""
        cell = row[self.masks.column]
        if not is_object_list(cell):
            return ()
        return tuple(dict.fromkeys(str(item["category"]) for item in cell))

    def occurrences(self, row: Row) -> tuple[str, ...]:
        return ()  # the shares of pixels are shown instead

    def describe(self, row: Row) -> str:
        """Render the values or the objects of the mask with their shares of the pixels."""
        cell, masks = row[self.masks.column], self.masks
        try:
            facts = masks.facts(row)
        except DataError:
            return super().describe(row)
        height, width = facts.size
        shares = {value: count / (height * width) for value, count in facts.counts.items()}
        names = {NO_OBJECT: "elsewhere"}
        if is_object_list(cell):
            names |= {item["category_id"]: item["category"] for item in cell}
        shown = listed(
            (
                f"{names.get(value, format_mask_value(value, facts.kind))} {share:.1%}"
                for value, share in sorted(shares.items())
            ),
            _FIRST_VALUES,
        )
        image = image_name(self.cell(row))
        mask = path_of(cell) or "mask"
        if is_object_list(cell):
            mask = format_count(len(cell), "object")
        return f"image {image} of {width} x {height} pixels -> {mask}: {shown}"

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        keys, notes = self.resolve_inputs(columns)
        if not with_targets:
            return Resolved(keys, notes)
        taken = (keys["image"], "file")
        rest = {name: values for name, values in columns.items() if name not in taken}
        images = [name for name, values in rest.items() if any(map(looks_like_image, values))]
        choices = columns if self.config.mask else rest
        mask, note = find_column(self.config.mask, "mask", choices, MASK_NAMES, images)
        check_masks(mask, columns[mask])
        return Resolved(keys | {"mask": mask}, [*notes, *([note] if note else [])])

    def complete(self, splits: Mapping[str, Iterable[Row]]) -> Resolved:
        self.masks.compare_palettes(chain.from_iterable(splits.values()))
        return list_all_classes(self.masks, splits)

    def validate(self, row: Row) -> Iterator[str]:
        faults = list(super().validate(row))
        yield from faults
        if not faults and self.masks.column in row:
            yield from self.masks.faults(row, self.cell(row))

    def crop(self, row: Row, area: Area) -> Row:
        """Crop the mask, or move the outlines of the objects."""
        return {**super().crop(row, area), self.masks.column: self.masks.crop(row, area)}

    def truth(self, row: Row) -> Any:
        return self.masks.digest(row)
