"""The objects of rows: read, checked against the picture and the classes, and as tensors.

Shapes: H, W pixels of a picture, M objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import DataError, nearest
from finetune.task_parts import Fixable, Row
from tasks.annotations.boxes import Convention, Object, box_fault, objects_in
from tasks.classification.labels import label_text
from tasks.image.joint_augmentation import clip_boxes


@dataclass(frozen=True)
class Truth:
    """The true objects of a picture, in its own pixels.

    Attributes:
        boxes: float32 [M, 4], xyxy.
        labels: int64 [M].
        areas: float32 [M], as the metrics by size count them.
        crowds: bool [M]: groups of objects, which are no example and no fault to find.
    """

    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowds: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By the names of the statistics."""
        return {
            "true_boxes": self.boxes,
            "true_labels": self.labels,
            "true_areas": self.areas,
            "crowds": self.crowds,
        }


@dataclass(frozen=True)
class ObjectReader:
    """Reads the objects of rows.

    Attributes:
        column: where they stand.
        convention: what their numbers are; None: what each says itself, else xyxy.
        class_names: of a ClassLabel, for objects whose category is a number of it.
    """

    column: str
    convention: Convention | None
    class_names: Sequence[str] | None

    def read(self, row: Row, size: tuple[int, int] = (1, 1)) -> list[Object]:
        """The objects of a row, whose picture is of `size` (H, W). Raises DataError."""
        return objects_in(row.get(self.column), self.convention, size)

    def category(self, seen: Object) -> str | None:
        return label_text(seen.category, self.class_names)

    def faults(self, row: Row, size: tuple[int, int]) -> Iterator[str]:
        """What is wrong with the objects of a row."""
        try:
            objects = self.read(row, size)
        except DataError as error:
            yield f"{self.column} {error}"
            return
        for number, each in enumerate(objects, start=1):
            place = each.place or f"object {number}"
            fault, is_mended = box_fault(each, size)
            if fault:
                yield (Fixable if is_mended else str)(f"{place}: {fault}")
            if not each.fault and (fault := self._category_fault(each)):
                yield f"{place}: {fault}"

    def _category_fault(self, seen: Object) -> str:
        try:
            name = self.category(seen)
        except DataError as error:
            return str(error)
        return "has no category" if name is None else ""

    def categories(self, row: Row) -> Iterator[str]:
        """The classes of a row's objects, in their order."""
        for each in self.read(row) if row.get(self.column) is not None else []:
            if (name := self.category(each)) is not None:
                yield name

    def unseen(self, row: Row, labels: Sequence[str]) -> Iterator[str]:
        """Yield the objects of a row whose class is not among `labels`."""
        for number, each in enumerate(self.read(row), start=1):
            name = self.category(each)
            if name is not None and name not in labels:
                place = each.place or f"object {number}"
                yield f"{place}: class {name!r} is unknown; {nearest(name, labels)}"

    def truth(self, row: Row, size: tuple[int, int], labels: Sequence[str]) -> Truth:
        """The objects of a row that have an area inside the picture, their classes as places in
        `labels`.
        """
        objects = self.read(row, size)
        boxes = torch.tensor([each.box or (0.0,) * 4 for each in objects]).reshape(-1, 4)
        boxes, kept = clip_boxes(boxes.float(), size)
        left = [objects[place] for place in kept.tolist()]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        given = torch.tensor([each.area or float("nan") for each in left], dtype=torch.float32)
        names = [self.category(each) for each in left]
        return Truth(
            boxes,
            torch.tensor([labels.index(str(name)) for name in names], dtype=torch.int64),
            torch.where(given.isnan(), areas, given),
            torch.tensor([each.is_crowd for each in left], dtype=torch.bool),
        )
