"""COCO annotations, read as annotated images by split: boxes, polygons and run-length masks.

    {"images": [{"id", "file_name", "width", "height"}],
     "annotations": [{"image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}],
     "categories": [{"id", "name"}]}

The format is that of cocodataset.org/#format-data. Ids may be numbers or text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.walking import describe_contents
from tasks.coco.coco_categories import ById, CocoCategories
from tasks.coco.coco_files import choose_file, find_coco, json_files
from tasks.coco.coco_images import find_coco_images, list_coco_images
from tasks.coco.coco_notes import note_unlearned, note_unlisted, note_unread_fields
from tasks.coco.coco_objects import coco_object
from tasks.objects.annotated import AnnotatedImage, note_turned_boxes, settle_form
from tasks.objects.image_sizes import fit_sizes

_SHOWN = 5


def read_coco(
    path: Path, config: DataConfig | None = None, *, as_labels: bool = False
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Return the images of every split of a COCO file or folder, and notes.

    They have objects, or labels if no annotation has a box or an outline. Raises DataError if there
    is no file, if it has objects but labels are wanted `as_labels` or the reverse, if it is
    malformed, or if all of its images are missing.
    """
    damaged: list[Path] = []
    files = find_coco(path, damaged)
    if files and damaged:  # another file, such as of keypoints, would take its place
        raise DataError(
            f"{damaged[0]}: is not valid JSON, beside annotations of COCO; copy it here again, or"
            " remove it"
        )
    if not files:
        raise DataError(
            f"{path}: no COCO annotations found; expected a .json file with images, annotations and"
            " categories, or a folder with such files beside or above its images; found "
            f"{describe_contents(path)}"
        )
    splits, notes = {}, []
    for split, candidates in files.items():
        file = choose_file(path, split, candidates)
        splits[split], file_notes = read_coco_file(file, config or DataConfig())
        notes += file_notes
        _check_content(file, splits[split], as_labels)
    used = {str(image.place).partition(",")[0] for images in splits.values() for image in images}
    unread = [file.name for file in json_files(path) if file.name not in used]
    if path.is_dir() and unread:
        read = ", ".join(sorted(used))
        notes.append(f"{path}: read {read}; not read: {listed(unread, _SHOWN)}")
    return splits, notes


def _check_content(file: Path, images: Sequence[AnnotatedImage], as_labels: bool) -> None:
    """Raise DataError for objects where labels are wanted, or labels where objects are."""
    if not as_labels and any(image.labels for image in images):
        raise DataError(
            f"{file}: its annotations have neither a bbox nor a segmentation:"
            " task=image-classification reads their categories as labels of the images"
        )
    if as_labels and not any(image.labels for image in images):
        raise DataError(
            f"{file}: its annotations are objects in images, not labels of images:"
            " task=object-detection learns their boxes, task=segmentation their outlines"
        )


def read_coco_file(file: Path, config: DataConfig) -> tuple[list[AnnotatedImage], list[str]]:
    """Return the images of a COCO file, and notes. Raises DataError if it is malformed."""
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    try:
        categories = CocoCategories(file, content["categories"])
        images, repeated = list_coco_images(file, content["images"])
        by_id = ById({item["id"]: image for item, image in images})
        unlisted = _assign(file, content["annotations"], by_id, categories)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file}: not a valid COCO file: {type(error).__name__}: {error}; images need an id and"
            " a file_name, categories an id and a name, annotations an image_id and a category_id"
        ) from error
    found = [image for _, image in images]
    categories.check_start(each.get("category_id") for each in content["annotations"])
    notes = [repeated] if repeated else []
    notes += [f"{file.name}: {note}" for note in (*settle_form(found), *note_turned_boxes(found))]
    unread = note_unread_fields(content["images"], content["annotations"])
    notes += [f"{file.name}: {note}" for note in unread]
    if unlisted:
        notes.append(note_unlisted(file, unlisted, len(content["annotations"])))
    notes += [f"{file.name}: {note}" for note in find_coco_images(file, found, config.images)]
    notes += [f"{file.name}: {note}" for note in fit_sizes(found, config.rescale)]
    notes += [f"{file.name}: {note}" for note in note_unlearned(found, categories.names)]
    return found, notes


def _assign(
    file: Path, annotations: Sequence[Mapping[str, Any]], images: ById, categories: CocoCategories
) -> list[Any]:
    """Add each annotation to its image, and return the ids of images that are not listed.

    Annotations are labels of their images if none has a box or an outline, else objects.
    """
    if any("segments_info" in item for item in annotations):
        raise DataError(
            f"{file}: a panoptic set of COCO, which is not read: its annotations are colors of"
            " PNG files; choose the file of instances with data.source=FILE"
        )
    unlisted: list[Any] = []
    are_labels = not any(item.get("bbox") or item.get("segmentation") for item in annotations)
    for number, item in enumerate(annotations, start=1):
        image: AnnotatedImage | None = images.find(item["image_id"])
        if image is None:
            unlisted.append(item["image_id"])
            continue
        category = categories.find(item["category_id"])
        if are_labels and category is not None:
            image.labels = [*(image.labels or []), category[0]]
            continue
        place = f"{file.name}, annotation {item.get('id', f'number {number}')}"
        image.objects.append(coco_object(item, number, category or ("", 0), place))
        if category is None:
            image.objects[-1].fault = (
                f"has unknown category_id {item['category_id']!r}; add it to the categories of"
                " the file, or remove the annotation"
            )
    return unlisted
