"""Rows with an image and its objects: detection of the column, the box convention and the classes.

A row: {"image": "street/1.jpg", "objects": [{"bbox": [12.0, 30.5, 80.0, 99.0], "category": "a"}]}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import DataError, format_count, listed, nearest
from finetune.task_parts.rows import Finding, Resolved, Revised, Revision
from finetune.task_parts.samples import Row, RowTable, each_row, take_rows
from tasks.cells.label_values import configured_labels
from tasks.classification.labels import check_known, label_text, sort_labels
from tasks.detection.detection_config import ObjectDetectionConfig
from tasks.detection.object_reader import ObjectReader
from tasks.image.image_reading import find_fault, picture_size
from tasks.image.picture_rows import PictureRows, image_name
from tasks.objects.box_sizes import BoxedPicture, box_findings
from tasks.objects.boxes import (
    BOX_NAMES,
    CATEGORY_NAMES,
    CONVENTIONS,
    Convention,
    ImageObject,
    find_convention,
    from_corners,
    is_numbers,
    items_of,
    make_annotation,
    objects_in,
)
from tasks.objects.revised_objects import ObjectReviser
from tasks.pixels.areas import Area

OBJECT_NAMES = ("objects", "annotations", "boxes", "bboxes", "labels")
_LISTED = 5
_FIRST_OBJECTS = 3


class ObjectRows(PictureRows):
    """Rows of object detection.

    Attributes:
        objects: reader of the objects.
    """

    config: ObjectDetectionConfig
    label_unit = "objects"

    def __init__(
        self, config: ObjectDetectionConfig, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(config)
        column = config.objects or "objects"
        self.objects = ObjectReader(column, config.boxes, class_names)

    @property
    def targets(self) -> list[str]:
        return [self.objects.column]

    def describe(self, row: Row) -> str:
        """Render the boxes in pixels, as they are read."""
        cell = self.cell(row)
        try:
            size = picture_size(cell)
            objects = self.objects.read(row, size)
        except DataError:
            return super().describe(row)
        shown = listed(map(self._describe_object, objects), _FIRST_OBJECTS)
        name = image_name(cell)
        count = format_count(len(objects), "object")
        what = f"{count}: {shown}" if objects else "no objects"
        return f"image {name} of {size[1]} x {size[0]} pixels -> {what}"

    def _describe_object(self, item: ImageObject) -> str:
        box = "no box" if item.box is None else ", ".join(map(_two_decimals, item.box))
        return f"{self.objects.category(item)} ({box})"

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

    def crop(self, row: Row, area: Area) -> Row:
        """Keep the objects whose center is in the area, clipped to it."""
        size, column = picture_size(self.cell(row)), self.objects.column
        inside = [each for each in self.objects.read(row, size) if area.holds(*_center(each))]
        return {**super().crop(row, area), column: [self._cropped(each, area) for each in inside]}

    def _cropped(self, item: ImageObject, area: Area) -> dict[str, Any]:
        left, top, right, bottom = item.box or (0.0,) * 4
        height, width = area.size
        corners = (
            max(left - area.left, 0.0),
            max(top - area.top, 0.0),
            min(right - area.left, float(width)),
            min(bottom - area.top, float(height)),
        )
        values = from_corners(corners, item.form, area.size)
        category = str(self.objects.category(item))
        return make_annotation(values, item.form, category, item.place, iscrowd=item.is_crowd)

    def occurrences(self, row: Row) -> tuple[str, ...]:
        return tuple(self.objects.categories(row))

    def labels(self, row: Row) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.objects.categories(row)))

    def truth(self, row: Row) -> Any:
        return repr(row.get(self.objects.column))

    def examine(self, split: str, rows: Iterable[Row], numbers: Sequence[int]) -> Iterator[Finding]:
        def read() -> Iterator[BoxedPicture]:
            for number, row in zip(numbers, rows, strict=True):
                size = picture_size(self.cell(row))
                boxes = [each.box for each in self.objects.read(row, size) if each.box is not None]
                yield BoxedPicture(int(number), size, boxes)

        return box_findings(split, list(read()))

    def revise_objects(
        self, rows: RowTable | Sequence[Row], revisions: Mapping[int, Sequence[Revision]]
    ) -> Revised:
        column = self.objects.column
        cells = [row.get(column) for row in each_row(rows)]
        items = [item for cell in cells if cell for item in items_of(cell)]
        parsed = (each for cell in cells if cell for each in objects_in(cell))
        names = _class_names(rows, column)
        raw = {str(label_text(each.category, names)): each.category for each in parsed}
        reviser = ObjectReviser(
            self.objects.convention,
            lambda value: label_text(value, names),
            raw,
            items[0] if items else {},
        )
        for position, lines in revisions.items():
            (row,) = take_rows(rows, [position])
            size = picture_size(self.cell(row))
            cells[position] = reviser.revise(cells[position] or [], lines, size)
        return Revised({column: cells}, dict(reviser.counts))


def _center(item: ImageObject) -> tuple[float, float]:
    left, top, right, bottom = item.box or (0.0,) * 4
    return (left + right) / 2, (top + bottom) / 2


def _two_decimals(value: float) -> str:
    rounded = round(value, 2) or 0.0  # without the sign of -0.0
    return f"{rounded:.2f}".rstrip("0").rstrip(".")


def find_objects(
    wanted: str | None, columns: Mapping[str, Sequence[Any]]
) -> tuple[str, str | None]:
    """Return the column of the objects, and a note if it was not found by its usual name.

    It is the `wanted` column, else one with objects or a known name. Raises DataError otherwise.
    """
    if wanted is not None:
        if wanted not in columns:
            raise DataError(
                f"task.objects: there is no column {wanted!r}; {nearest(wanted, columns)}"
            )
        return wanted, None
    candidates = [name for name, values in columns.items() if any(map(_has_boxes, values))]
    column = next((name for name in OBJECT_NAMES if name in (candidates or columns)), None)
    if column is None and len(candidates) == 1:
        column = candidates[0]
    if column is None:
        raise DataError(
            f"task.objects: no column has objects with a bbox (columns: {', '.join(columns)}); "
            "each row needs a list of dicts {'bbox': [...], 'category': ...}, [] without objects"
        )
    return column, None if column == "objects" else f"objects: column {column!r}"


def _has_boxes(value: Any) -> bool:
    items = [value] if isinstance(value, Mapping) else value
    return isinstance(items, list) and any(
        isinstance(item, Mapping) and any(name in item for name in BOX_NAMES) for item in items
    )


def settle_convention(images: Sequence[Any], cells: Sequence[Any]) -> tuple[Convention | None, str]:
    """Detect the box convention from the first rows; also return a note.

    None if the file format defines it or there are no boxes. Raises DataError if it is ambiguous.
    """
    boxes: list[tuple[Sequence[float], tuple[int, int]]] = []
    for image, cell in zip(images, cells, strict=True):
        try:
            objects = objects_in(cell) if cell else []
        except DataError:  # which is reported with its row
            continue
        if objects and not any(each.is_open for each in objects):
            return None, ""
        if objects and not find_fault(image):
            size = picture_size(image)
            boxes += [(list(each.values), size) for each in objects if is_numbers(each.values)]
    if not boxes:
        return None, ""
    convention = find_convention(boxes)
    if convention is not None:
        first = format_count(len(boxes), "box", "es")
        return convention, f"boxes: {convention}, the only fit for the first {first}"
    raise DataError(
        "task.boxes: cannot detect the convention, as the first boxes fit several or none; set "
        f"task.boxes to one of {', '.join(CONVENTIONS)} (COCO: xywh, Pascal VOC: xyxy, YOLO: "
        "cxcywh-shares)"
    )


def learn_categories(
    rows: Any, column: str, given: Sequence[str] | None
) -> tuple[list[str], list[str] | None, str]:
    """Return the classes in order, the ClassLabel names if there are any, and a note.

    The classes are those `given` by task.labels, else those that occur, in the order of a
    ClassLabel, else sorted numerically or alphabetically. Raises DataError for a class that is not
    in task.labels, or if there are no objects.
    """
    names = _class_names(rows, column)
    counts: Counter[str] = Counter()
    empty = crowds = repeated = 0
    for row in each_row(rows):
        objects = objects_in(row[column])
        categories = [label_text(each.category, names) for each in objects]
        counts.update(name for name in categories if name is not None)
        crowds += sum(each.is_crowd for each in objects)
        empty += not objects
        boxed = [(each.category, each.box) for each in objects if each.box is not None]
        repeated += len(boxed) - len(set(boxed))
    if not counts:
        raise DataError(f"task.objects: no row has an object in column {column!r}")
    if crowds == counts.total():
        raise DataError(
            f"task.objects: all {crowds} objects of column {column!r} are crowds (iscrowd or"
            " difficult is 1), which nothing is learned from; set it to 0 for single objects"
        )
    if given is not None:
        labels = configured_labels(given)
        check_known(counts, labels, "task.objects: not in task.labels", "object")
    elif names is not None:
        labels = [name for name in names if counts[name]]
    else:
        labels = sort_labels(counts)
    per_class = listed((f"{name} {counts[name]}" for name in labels), _LISTED)
    note = f"objects: {counts.total()} in {format_count(len(labels), 'class', 'es')} ({per_class})"
    note += f", {crowds} of them crowds, which are not learned" * bool(crowds)
    note += f"; images without objects: {empty}"
    if repeated:
        note += (
            f"; objects that repeat another of their image and class: {repeated}, read as they are"
        )
    return labels, names, note


def _class_names(rows: Any, column: str) -> list[str] | None:
    """Return the names of the ClassLabel in the objects of a `datasets` table, or None."""
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
