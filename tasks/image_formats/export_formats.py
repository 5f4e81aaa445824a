"""The formats of annotation tools, for object detection and for segmentation.

labelme       .json files beside the images
cvat          annotations.xml of CVAT for images and for video
label-studio  JSON or JSON-MIN of Label Studio
createml      .json of CreateML
via           .json or .csv of VGG Image Annotator
supervisely   a project with datasets of img/ and ann/
vott          .json that VoTT exports, or the -asset.json files of a project
fiftyone      labels.json of FiftyOne with boxes, beside data/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError
from tasks.exports.createml import find_createml, read_createml
from tasks.exports.cvat import find_cvat, read_cvat
from tasks.exports.export_files import show_count
from tasks.exports.export_images import Splits
from tasks.exports.fiftyone import find_fiftyone_boxes, read_fiftyone
from tasks.exports.labelme import (
    find_labelme,
    find_mask_folders,
    read_labelme,
    read_mask_folders,
)
from tasks.exports.outlines import box_outline
from tasks.exports.supervisely import find_supervisely, read_supervisely
from tasks.exports.via import find_via, read_via
from tasks.exports.vott import find_vott, read_vott
from tasks.label_studio.studio_images import find_studio_images, read_studio_images
from tasks.objects.annotated import IGNORED, Annotated, box_row, mask_row
from tasks.objects.boxes import is_numbers, to_corners


class AnnotationFormat(NamedTuple):
    """A format: its name in data.format and in messages, a search, and a reader.

    The search finds nothing in folders of other formats.
    """

    name: str
    title: str
    find: Callable[[Path], Any]
    read: Callable[[Path, DataConfig], tuple[Splits, list[str]]]


_EXPORTS = (
    AnnotationFormat("cvat", "CVAT", find_cvat, read_cvat),
    AnnotationFormat("label-studio", "Label Studio", find_studio_images, read_studio_images),
    AnnotationFormat("createml", "CreateML", find_createml, read_createml),
    AnnotationFormat("via", "VGG Image Annotator", find_via, read_via),
    AnnotationFormat("supervisely", "Supervisely", find_supervisely, read_supervisely),
    AnnotationFormat("vott", "VoTT", find_vott, read_vott),
    AnnotationFormat("fiftyone", "FiftyOne", find_fiftyone_boxes, read_fiftyone),
    AnnotationFormat("labelme", "labelme", find_labelme, read_labelme),
)
_FOLDERS = AnnotationFormat("labelme-folders", "labelme", find_mask_folders, read_mask_folders)


def _read(export: AnnotationFormat, path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    splits, notes = export.read(path, config)
    labels = Counter(
        label for images in splits.values() for image in images for label in image.labels or ()
    )
    if labels:
        notes.append(f"labels of whole images, not read: {show_count(labels)}")
    return splits, [f"{path}: read as an export of {export.title}", *notes]


def _read_boxes(export: AnnotationFormat, path: Path, config: DataConfig) -> TaskTables:
    splits, notes = _read(export, path, config)
    ignored = 0
    for images in splits.values():
        for image in images:
            kept = [each for each in image.objects if each.category != IGNORED]
            ignored += len(image.objects) - len(kept)
            image.objects = kept
    if ignored:
        notes.append(f"areas to ignore ({IGNORED}), not read: {ignored}")
    objects = _objects(splits)
    outlined = sum(bool(each.polygons or each.counts) for each in objects)
    if outlined:
        notes.append(f"outlines read as the boxes around them: {outlined} of {len(objects)}")
    return TaskTables(
        {split: list(map(box_row, images)) for split, images in splits.items()}, notes
    )


def _read_outlines(export: AnnotationFormat, path: Path, config: DataConfig) -> TaskTables:
    """Read outlines as masks, and boxes as their area where other objects have outlines."""
    splits, notes = _read(export, path, config)
    objects = _objects(splits)
    boxes = [each for each in objects if not (each.polygons or each.counts or each.fault)]
    if boxes and not any(each.polygons or each.counts for each in objects):
        raise DataError(
            f"{path}: its objects ({len(boxes)}) are boxes without outlines: task=object-detection"
            " learns them; for segmentation, annotate polygons or masks"
        )
    for each in boxes:
        _fill_box(each)
    if boxes:
        notes.append(f"boxes read as masks of their whole area: {len(boxes)} of {len(objects)}")
    return TaskTables(
        {split: list(map(mask_row, images)) for split, images in splits.items()}, notes
    )


def _fill_box(item: Annotated) -> None:
    if not is_numbers(item.box):
        item.fault = item.fault or "has neither a box nor an outline"
        return
    left, top, right, bottom = to_corners(item.box, item.form, (1, 1))  # type: ignore[arg-type]
    item.polygons = [box_outline(left, top, right, bottom)]
    item.area = abs(right - left) * abs(bottom - top)


def _objects(splits: Splits) -> list[Annotated]:
    return [each for images in splits.values() for image in images for each in image.objects]


def data_format(
    source: AnnotationFormat,
    read: Callable[[AnnotationFormat, Path, DataConfig], TaskTables],
    looks_for: str = "",
) -> DataFormat:
    """Return a format whose images `read` makes rows of."""
    return DataFormat(
        source.name,
        lambda path: bool(source.find(path)),
        lambda path, config: read(source, path, config),
        looks_for,
    )


_TOOLS = f"exports of {', '.join(each.title for each in _EXPORTS)}"
_LOOKED_FOR = (_TOOLS, *("" for _ in _EXPORTS[1:]))
EXPORT_BOXES = tuple(
    data_format(each, _read_boxes, words) for each, words in zip(_EXPORTS, _LOOKED_FOR, strict=True)
)
EXPORT_MASKS = (
    *(
        data_format(each, _read_outlines, words)
        for each, words in zip(_EXPORTS, _LOOKED_FOR, strict=True)
    ),
    data_format(_FOLDERS, _read_outlines),
)
