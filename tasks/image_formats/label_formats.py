"""Formats of labels of whole images, for image classification.

labelme       flags of .json files
cvat          tags in annotations.xml
label-studio  choices in JSON or JSON-MIN
supervisely   tags of images
fiftyone      labels.json beside data/
via           file attributes of VIA 2
coco          annotations without boxes and outlines
automl        .csv of gs:// images and labels, without a header
image-lists   .txt with an image and its label in each line

Images with one label each have one class; if any image has several, all have lists of labels.
"""

from __future__ import annotations

from pathlib import Path

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError, format_count
from tasks.annotations.box_formats import BOX_FORMATS
from tasks.annotations.yolo import has_labels
from tasks.coco.coco import read_coco
from tasks.coco.coco_files import find_coco
from tasks.exports.cvat import find_cvat_tags, read_cvat
from tasks.exports.export_images import Splits
from tasks.exports.fiftyone import find_fiftyone_labels, read_fiftyone
from tasks.exports.labelme import find_labelme_flags, read_labelme
from tasks.exports.supervisely import find_supervisely_tags, read_supervisely
from tasks.exports.via_labels import find_via_labels, read_via_labels
from tasks.image_formats.automl_labels import find_automl, read_automl
from tasks.image_formats.export_formats import EXPORT_BOXES, AnnotationFormat, data_format
from tasks.image_formats.kitti import KITTI_BOXES
from tasks.image_formats.labeled_lists import find_image_lists, read_image_lists
from tasks.image_formats.run_length_table import RUN_LENGTH_MASKS
from tasks.label_studio.studio_choices import find_studio_choices, read_studio_choices
from tasks.mask_sources.mask_folders import MASK_FORMATS
from tasks.objects.annotated import AnnotatedImage, label_row


def _read_coco(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    return read_coco(path, config, as_labels=True)


_FORMATS = (
    AnnotationFormat("coco", "annotations of COCO without boxes", find_coco, _read_coco),
    AnnotationFormat("cvat", "tags of CVAT", find_cvat_tags, read_cvat),
    AnnotationFormat(
        "label-studio", "choices of Label Studio", find_studio_choices, read_studio_choices
    ),
    AnnotationFormat("labelme", "flags of labelme", find_labelme_flags, read_labelme),
    AnnotationFormat("supervisely", "tags of Supervisely", find_supervisely_tags, read_supervisely),
    AnnotationFormat("fiftyone", "labels of FiftyOne", find_fiftyone_labels, read_fiftyone),
    AnnotationFormat("via", "file attributes of VIA", find_via_labels, read_via_labels),
    AnnotationFormat("automl", "labels of AutoML", find_automl, read_automl),
    AnnotationFormat(
        "image-lists", "lists of images and labels", find_image_lists, read_image_lists
    ),
)


def _read(each: AnnotationFormat, path: Path, config: DataConfig) -> TaskTables:
    splits, notes = each.read(path, config)
    images = [image for some in splits.values() for image in some]
    several = any(len(image.labels or ()) > 1 for image in images)
    how = "lists of labels, since some images have several" if several else "one label an image"
    notes = [f"{path}: read as {each.title}: {how}", *notes]
    objects = sum(len(image.objects) for image in images)
    if objects:
        notes.append(f"objects in images, not read: {objects}")
    kept = {name: [i for i in some if _is_labeled(i, several)] for name, some in splits.items()}
    left_out = len(images) - sum(map(len, kept.values()))
    if left_out:
        notes.append(f"warning: images without a label, not read: {left_out} of {len(images)}")
    if not kept.get("train", [True]):
        raise DataError(
            f"{path}: none of its images has a label; found {format_count(len(images), 'image')}"
        )
    rows = {
        split: [label_row(image, several=several) for image in some]
        for split, some in kept.items()
        if some
    }
    return TaskTables(rows, notes)


def _is_labeled(image: AnnotatedImage, several: bool) -> bool:
    """True if an image has a label; of several labels, an annotated image may have none."""
    return image.labels is not None if several else bool(image.labels)


_MASKS = (MASK_FORMATS[0], RUN_LENGTH_MASKS)
_OBJECTS = (*BOX_FORMATS[1:], KITTI_BOXES, *EXPORT_BOXES, *_MASKS)


def _find_objects(path: Path) -> DataFormat | None:
    """Return the format of objects in images that a path has, if it has one."""
    found = next((each for each in _OBJECTS if each.fits(path)), None)
    # A data.yaml may also describe folders of classes.
    return None if found and found.name == "yolo" and not has_labels(path) else found


def _refuse_objects(path: Path, _: DataConfig) -> TaskTables:
    found = _find_objects(path)
    task = "segmentation" if found in _MASKS else "object-detection"
    what = "masks of images" if found in _MASKS else "objects in images"
    raise DataError(
        f"{path}: its annotations ({found.name if found else 'none'}) are {what}, not"
        f" labels of images: task={task} learns them; for task=image-classification, set"
        " data.format=image-folder for folders of classes, or give a table of images and labels"
    )


LABEL_FORMATS = (
    *(data_format(each, _read) for each in _FORMATS),
    DataFormat("auto", lambda path: _find_objects(path) is not None, _refuse_objects),
)
