"""Rows with an image and its objects: their column, the convention of boxes, the classes.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import DataError, listed, nearest
from finetune.task_parts import Resolved, Row
from tasks.annotations.boxes import (
    BOX_NAMES,
    CATEGORY_NAMES,
    CONVENTIONS,
    Convention,
    find_convention,
    is_numbers,
    objects_in,
)
from tasks.classification.labels import check_known, given_names, label_text, sort_labels
from tasks.detection.detection_config import ObjectDetectionConfig
from tasks.detection.object_reader import ObjectReader
from tasks.image.image_reading import find_fault, picture_size
from tasks.image.picture_rows import PictureRows

OBJECT_NAMES = ("objects", "annotations", "boxes", "bboxes", "labels")
_LISTED = 5


class ObjectRows(PictureRows):
    """Rows of object detection.

    Attributes:
        class_names: of a ClassLabel, for objects whose category is a number of it.
    """

    config: ObjectDetectionConfig

    def __init__(
        self, config: ObjectDetectionConfig, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(config)
        column = config.objects or "objects"
        self.objects = ObjectReader(column, config.boxes, class_names)

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        keys, notes = self.resolve_inputs(columns)
        if not with_targets:
            return Resolved(keys, notes)
        objects, note = find_objects(self.config.objects, columns)
        keys |= {"objects": objects}
        notes += [note] if note else []
        if self.config.boxes is None:
            keys["boxes"], note = settle_convention(columns[keys["image"]], columns[objects])
            notes += [note] if note else []
        return Resolved(keys, notes)

    def validate(self, row: Row) -> Iterator[str]:
        faults = list(super().validate(row))
        if not faults and self.objects.column in row:
            faults = list(self.objects.faults(row, picture_size(self.cell(row))))
        yield from faults

    def labels(self, row: Row) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.objects.categories(row)))

    def truth(self, row: Row) -> Any:
        return repr(row.get(self.objects.column))


def find_objects(
    wanted: str | None, columns: Mapping[str, Sequence[Any]]
) -> tuple[str, str | None]:
    """The column of the objects, and why it was chosen. Raises DataError."""
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"task.objects: there is no column {wanted!r}; {nearest(wanted, columns)}"
            )
        return wanted, None
    holding = [name for name, values in columns.items() if any(map(_holds_boxes, values))]
    found = next((name for name in OBJECT_NAMES if name in (holding or columns)), None)
    if found is None and len(holding) == 1:
        found = holding[0]
    if found is None:
        raise DataError(
            f"task.objects: no column holds objects with a bbox (there are: {', '.join(columns)}); "
            "each row has a list of dicts {'bbox': [...], 'category': ...}, [] for none"
        )
    return found, None if found == "objects" else f"objects: column {found!r}"


def _holds_boxes(value: Any) -> bool:
    items = [value] if isinstance(value, Mapping) else value
    return isinstance(items, list) and any(
        isinstance(item, Mapping) and any(name in item for name in BOX_NAMES) for item in items
    )


def settle_convention(images: Sequence[Any], cells: Sequence[Any]) -> tuple[Convention | None, str]:
    """What the numbers of boxes are, from the first rows, and the sentence that says so.

    None: their files say it, or there are none. Raises DataError where the boxes do not tell.
    """
    boxes: list[tuple[Sequence[float], tuple[int, int]]] = []
    for image, cell in zip(images, cells, strict=True):
        seen = objects_in(cell) if cell else []
        if any(each.place for each in seen):
            return None, ""
        if seen and not find_fault(image):
            size = picture_size(image)
            boxes += [(list(each.given), size) for each in seen if is_numbers(each.given)]
    if not boxes:
        return None, ""
    found = find_convention(boxes)
    if found is not None:
        return found, f"boxes: {found}, in which alone the first {len(boxes)} boxes fit"
    raise DataError(
        "task.boxes: the first boxes fit in several conventions, or in none; write "
        f"task.boxes= one of {', '.join(CONVENTIONS)} (COCO: xywh, Pascal VOC: xyxy, YOLO: "
        "cxcywh-shares)"
    )


def learn_categories(
    rows: Any, column: str, given: Sequence[str] | None
) -> tuple[list[str], list[str] | None, str]:
    """The classes in their order, the names of a ClassLabel if there is one, and a sentence.

    The classes are those given, else those that occur, in the order of a ClassLabel, of integers or
    of the alphabet. Raises DataError for a class that is not among those given.
    """
    names = _class_names(rows, column)
    counts: Counter[str] = Counter()
    empty = 0
    for row in rows:
        seen = objects_in(row[column])
        found = [label_text(each.category, names) for each in seen]
        counts.update(name for name in found if name is not None)
        empty += not seen
    if not counts:
        raise DataError(f"task.objects: no row has an object in column {column!r}")
    if given is not None:
        labels = given_names(given)
        check_known(counts, labels, "task.labels: does not name", "objects")
    elif names is not None:
        labels = [name for name in names if counts[name]]
    else:
        labels = sort_labels(counts)
    said = listed((f"{name} {counts[name]}" for name in labels), _LISTED)
    held = f"objects: {counts.total()} of {len(labels)} classes ({said})"
    return labels, names, f"{held}; {empty} pictures have none"


def _class_names(rows: Any, column: str) -> list[str] | None:
    """The names of a ClassLabel among the objects of a `datasets` table."""
    from datasets import ClassLabel

    feature: Any = getattr(rows, "features", {}).get(column)
    while hasattr(feature, "feature"):
        feature = feature.feature
    if not isinstance(feature, Mapping):
        return None
    for name in CATEGORY_NAMES:
        inner = feature.get(name)
        inner = getattr(inner, "feature", inner)
        if isinstance(inner, ClassLabel) and inner.names:
            return list(inner.names)
    return None
