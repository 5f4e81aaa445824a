"""Objects of rows: parsing, validation against the image and the classes, conversion to tensors.

Shapes: H, W pixels of an image, M objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.errors import DataError, nearest
from finetune.task_parts.rows import Fixable
from finetune.task_parts.samples import Row
from tasks.classification.labels import label_text
from tasks.image.joint_augmentation import clip_boxes
from tasks.objects.boxes import Convention, ImageObject, box_fault, categories_in, objects_in


@dataclass(frozen=True)
class Truth:
    """True objects of an image, in its pixels.

    Attributes:
        boxes: float32 [M, 4], xyxy.
        labels: int64 [M].
        areas: float32 [M], as used by the metrics by size.
        crowds: bool [M]; groups of objects, which neither training nor metrics use as objects.
    """

    boxes: Tensor
    labels: Tensor
    areas: Tensor
    crowds: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors under the names of the statistics."""
        return {
            "true_boxes": self.boxes,
            "true_labels": self.labels,
            "true_areas": self.areas,
            "crowds": self.crowds,
        }


@dataclass(frozen=True)
class ObjectReader:
    """Reader of the objects of rows.

    Attributes:
        column: the column of the objects.
        convention: convention of all boxes; None: that of each object, else xyxy.
        class_names: names of the ClassLabel by which integer categories are looked up, if any.
    """

    column: str
    convention: Convention | None
    class_names: Sequence[str] | None

    def read(self, row: Row, size: tuple[int, int] = (1, 1)) -> list[ImageObject]:
        """Parse the objects of a row whose image is of `size` (H, W). Raises DataError."""
        return objects_in(row.get(self.column), self.convention, size)

    def category(self, item: ImageObject) -> str | None:
        """Return the class name of an object, or None if it has none. Raises DataError."""
        return label_text(item.category, self.class_names)

    def faults(self, row: Row, size: tuple[int, int]) -> Iterator[str]:
        """Yield the faults of a row's objects; `Fixable` if clipping the box fixes one."""
        try:
            objects = self.read(row, size)
        except DataError as error:
            yield f"{self.column} {error}"
            return
        for number, each in enumerate(objects, start=1):
            place = each.place or f"object {number}"
            fault, is_fixable = box_fault(each, size)
            if fault:
                yield (Fixable if is_fixable else str)(f"{place}: {fault}")
            if not each.fault and (fault := self._category_fault(each)):
                yield f"{place}: {fault}"

    def _category_fault(self, item: ImageObject) -> str:
        try:
            name = self.category(item)
        except DataError as error:
            return str(error)
        return "has no category" if name is None else ""

    def categories(self, row: Row) -> Iterator[str]:
        """Yield the class of each object of a row, in order."""
        cell = row.get(self.column)
        for category in categories_in(cell) if cell is not None else []:
            if (name := label_text(category, self.class_names)) is not None:
                yield name

    def unknown(self, row: Row, labels: Sequence[str]) -> list[str]:
        """Return the classes of a row's objects that are not among `labels`."""
        names = (str(self.category(each)) for each in self.read(row))
        return [name for name in dict.fromkeys(names) if name not in labels]

    def unseen(self, row: Row, labels: Sequence[str]) -> Iterator[str]:
        """Yield a message for each object of a row whose class is not among `labels`."""
        for number, each in enumerate(self.read(row), start=1):
            name = self.category(each)
            if name is not None and name not in labels:
                place = each.place or f"object {number}"
                yield f"{place}: unknown class {name!r}; {nearest(name, labels)}"

    def numbers(self, row: Row, size: tuple[int, int]) -> list[int]:
        """Return the numbers, from 1, of the objects of `truth` that are not crowds, in order."""
        objects = self.read(row, size)
        boxes = torch.tensor([each.box or (0.0,) * 4 for each in objects]).reshape(-1, 4)
        kept = clip_boxes(boxes.float(), size)[1].tolist()
        return [index + 1 for index in kept if not objects[index].is_crowd]

    def truth(self, row: Row, size: tuple[int, int], labels: Sequence[str]) -> Truth:
        """Return the objects of a row, with boxes clipped to the image and without empty ones.

        Classes are given as indices in `labels`.
        """
        objects = self.read(row, size)
        boxes = torch.tensor([each.box or (0.0,) * 4 for each in objects]).reshape(-1, 4)
        boxes, kept = clip_boxes(boxes.float(), size)
        visible = [objects[index] for index in kept.tolist()]
        box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        areas = torch.tensor([each.area or float("nan") for each in visible], dtype=torch.float32)
        names = [self.category(each) for each in visible]
        return Truth(
            boxes,
            torch.tensor([labels.index(str(name)) for name in names], dtype=torch.int64),
            torch.where(areas.isnan(), box_areas, areas),
            torch.tensor([each.is_crowd for each in visible], dtype=torch.bool),
        )
