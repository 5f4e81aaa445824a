"""COCO annotations, read as annotated images by split: boxes, polygons and run-length masks.

    {"images": [{"id", "file_name", "width", "height"}],
     "annotations": [{"image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}],
     "categories": [{"id", "name"}]}

The format is that of cocodataset.org/#format-data. Ids may be numbers or text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.split_names import split_name
from finetune.listing.walking import describe_contents, list_visible
from tasks.annotations.annotated import Annotated, AnnotatedImage, note_turned_boxes, settle_form
from tasks.annotations.boxes import is_numbers, turn_box
from tasks.annotations.image_sizes import fit_sizes
from tasks.image.image_search import ImageSearch, configured_places

_FIELDS = {"id", "image_id", "category_id", "bbox", "segmentation", "area", "iscrowd"}
_OF_IMAGES = {"id", "file_name", "width", "height", "license", "flickr_url", "coco_url"}
_OF_IMAGES |= {"date_captured", "rights_holder", "data_captured", "path", "url"}
_KEYS = {"images", "annotations", "categories"}
_HEAD = 4096  # characters to read before parsing: enough to reject a file that is not an object
_POINTS = 6  # numbers of the smallest polygon
_SHOWN = 5


def find_coco(path: Path) -> dict[str, list[Path]]:
    """Return the COCO files of a path by split: the file itself, or those in a folder.

    {} if there are none. A folder is searched directly, in annotations/ and in folders named after
    splits. The split of a file is taken from its name or its folder's, else it is "train".
    """
    if path.is_file():
        return {"train": [path]} if _is_coco(path) else {}
    if not path.is_dir():
        return {}
    files: dict[str, list[Path]] = {}
    for file in _json_files(path):
        if _is_coco(file):
            above = split_of(file.parent.name) if file.parent != path else None
            split = split_of(file.stem) or above or "train"
            files.setdefault(split, []).append(file)
    return files


def read_coco(
    path: Path, config: DataConfig | None = None, *, as_labels: bool = False
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Return the images of every split of a COCO file or folder, and notes.

    They have objects, or labels if no annotation has a box or an outline. Raises DataError if there
    is no file, if it has objects but labels are wanted `as_labels` or the reverse, if it is
    malformed, or if all of its images are missing.
    """
    files = find_coco(path)
    if not files:
        raise DataError(
            f"{path}: no COCO annotations found; expected a .json file with images, annotations and"
            " categories, or a folder with such files beside or above its images; found "
            f"{describe_contents(path)}"
        )
    splits, notes = {}, []
    for split, candidates in files.items():
        file = _choose(path, split, candidates)
        splits[split], file_notes = read_coco_file(file, config or DataConfig())
        notes += file_notes
        _check_content(file, splits[split], as_labels)
    used = {str(image.place).partition(",")[0] for images in splits.values() for image in images}
    unread = [file.name for file in _json_files(path) if file.name not in used]
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


def split_of(name: str) -> str | None:
    """Return the split in a name, or None: train for instances_train2017, validation for val."""
    words = name.lower().replace("-", "_").replace(".", "_").split("_")
    return next((found for word in words if (found := split_name(word.rstrip("0123456789")))), None)


def _json_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    places = [path, path / "annotations", *(p for p in sorted(path.iterdir()) if split_of(p.name))]
    return [file for place in places for file in sorted(place.glob("*.json"))]


def _choose(path: Path, split: str, candidates: Sequence[Path]) -> Path:
    """Return the file of objects among several of a split, such as those of COCO itself."""
    if len(candidates) > 1:
        instances = [file for file in candidates if "instances" in file.stem.lower()]
        if len(instances) != 1:
            names = ", ".join(file.name for file in candidates)
            raise DataError(
                f"{path}: split {split} has several files: {names}; set data.{split} to one of them"
            )
        return instances[0]
    return candidates[0]


def _is_coco(file: Path) -> bool:
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open(encoding="utf-8-sig") as opened:
            if not opened.read(_HEAD).lstrip().startswith("{"):
                return False
            opened.seek(0)
            content = json.load(opened)
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= _KEYS


def _unread_fields(annotations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields with a value that are not read, such as keypoints, with their counts."""
    nothing: tuple[Any, ...] = (None, "", [], {})
    fields = Counter(
        name for item in annotations for name, value in item.items() if value not in nothing
    )
    return [f"{name} ({count})" for name, count in fields.items() if name not in _FIELDS]


def _unread_of_images(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields of images with a value that are neither read nor bookkeeping."""
    nothing: tuple[Any, ...] = (None, "", [], {})
    fields = Counter(
        name for item in images for name, value in item.items() if value not in nothing
    )
    return [f"{name} ({count})" for name, count in fields.items() if name not in _OF_IMAGES]


def read_coco_file(file: Path, config: DataConfig) -> tuple[list[AnnotatedImage], list[str]]:
    """Return the images of a COCO file, and notes. Raises DataError if it is malformed."""
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    try:
        categories = _Categories(file, content["categories"])
        images, repeated = _images(file, content["images"])
        by_id = _ById({item["id"]: image for item, image in images})
        if any("segments_info" in item for item in content["annotations"]):
            raise DataError(
                f"{file}: a panoptic set of COCO, which is not read: its annotations are colors of"
                " PNG files; choose the file of instances with data.source=FILE"
            )
        strays: list[Any] = []
        are_labels = not any(
            item.get("bbox") or item.get("segmentation") for item in content["annotations"]
        )
        for number, item in enumerate(content["annotations"], start=1):
            name = f"annotation {item.get('id', f'number {number}')}"
            image = by_id.find(item["image_id"])
            if image is None:
                strays.append(item["image_id"])
                continue
            category = categories.find(item["category_id"])
            if are_labels and category is not None:
                image.labels = [*(image.labels or []), category[0]]
                continue
            place = f"{file.name}, {name}"
            image.objects.append(_object(item, number, category or ("", 0), place))
            if category is None:
                image.objects[-1].fault = (
                    f"has unknown category_id {item['category_id']!r}; add it to the categories of"
                    " the file, or remove the annotation"
                )
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file}: not a valid COCO file: {type(error).__name__}: {error}; images need an id and"
            " a file_name, categories an id and a name, annotations an image_id and a category_id"
        ) from error
    found = [image for _, image in images]
    categories.check_start(each.get("category_id") for each in content["annotations"])
    notes = [repeated] if repeated else []
    notes += [f"{file.name}: {note}" for note in (*settle_form(found), *note_turned_boxes(found))]
    if unread := _unread_of_images(content["images"]):
        notes.append(f"{file.name}: fields of images, not read: {listed(unread, _SHOWN)}")
    if unread := _unread_fields(content["annotations"]):
        notes.append(f"{file.name}: fields of annotations, not read: {listed(unread, _SHOWN)}")
    if strays:
        notes.append(_strays_note(file, strays, len(content["annotations"])))
    notes += [f"{file.name}: {note}" for note in _find_images(file, found, config.images)]
    notes += [f"{file.name}: {note}" for note in fit_sizes(found, config.rescale)]
    notes += [f"{file.name}: {note}" for note in _losses(found, categories.names)]
    return found, notes


def _strays_note(file: Path, ids: Sequence[Any], annotations: int) -> str:
    """Note the annotations whose images are not listed. Raises DataError if these are all."""
    named = listed(map(repr, dict.fromkeys(ids)), _SHOWN)
    if len(ids) == annotations:
        raise DataError(
            f"{file}: none of the {annotations} annotations is of a listed image (image_id "
            f"{named}); correct the ids of the images or of the annotations"
        )
    return (
        f"warning: {file.name}: {len(ids)} of {annotations} annotations are of images that the file"
        f" does not list, and are not read (image_id {named})"
    )


class _ById(dict[Any, Any]):
    """Values by their ids, which another list of the file may give as text instead of a number."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self._by_text = {str(key): value for key, value in values.items()}

    def find(self, key: Any) -> Any:
        return self.get(key, self._by_text.get(str(key)))


class _Categories:
    """The categories of a file: (name, number) by their ids, numbered if an id is not a number."""

    def __init__(self, file: Path, items: Iterable[Mapping[str, Any]]) -> None:
        names: dict[Any, str] = {}
        for item in items:
            name = _name(item, "name")
            if names.setdefault(item["id"], name) != name:
                raise DataError(
                    f"{file}: category id {item['id']!r} has two names, {names[item['id']]!r} and"
                    f" {name!r}; give each category an id of its own"
                )
        self._file = file
        self.names = list(names.values())
        are_numbers = all(type(key) is int or str(key).isdecimal() for key in names)
        numbers = [int(key) if are_numbers else n for n, key in enumerate(names, start=1)]
        self._by_id = _ById(dict(zip(names, zip(self.names, numbers, strict=True), strict=True)))

    def check_start(self, used: Iterable[Any]) -> None:
        """Raise DataError if the annotations count the categories from 1, and the list from 0.

        Not a fault of single annotations: the others would have the class of their neighbor.
        """
        known = {int(key) for key in self._by_id if str(key).isdecimal()}
        numbers = {int(key) for key in used if str(key).isdecimal()}
        unknown = numbers - known
        if known and unknown == {max(known) + 1} and min(known) not in numbers:
            raise DataError(
                f"{self._file}: the annotations have category ids {min(numbers)} to {max(numbers)},"
                f" but the categories {min(known)} to {max(known)}: do the annotations count from"
                f" {min(numbers)}? Correct the ids of one of them"
            )

    def find(self, key: Any) -> Any:
        """Return (name, number) of a category, None if there is none with this id."""
        return self._by_id.find(key)


def _images(
    file: Path, items: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Mapping[str, Any], AnnotatedImage]], str]:
    """Return the images with the items that list them, and a note on those listed repeatedly."""
    if not items:
        raise DataError(f"{file}: lists no images")
    by_id: dict[Any, tuple[Mapping[str, Any], AnnotatedImage]] = {}
    repeated = 0
    for item in items:
        name = _file_name(item)
        other = by_id.get(item["id"])
        if other is not None and other[1].file != name:
            raise DataError(
                f"{file}: image id {item['id']!r} is used by {other[1].file} and {name}, so its"
                " annotations may belong to either; give each image an id of its own"
            )
        repeated += other is not None
        size = (_whole(item.get("height")), _whole(item.get("width")))
        image = AnnotatedImage("", name, size=size if all(size) else None)
        image.place = f"{file.name}, image {item['id']}"
        by_id.setdefault(item["id"], (item, image))
    note = f"{file.name}: {repeated} images are listed again with the same id and file_name"
    return list(by_id.values()), note if repeated else ""


def _file_name(item: Mapping[str, Any]) -> str:
    """Return the name of an image: its file_name, or the end of its coco_url, as LVIS has it."""
    if not item.get("file_name") and item.get("coco_url"):
        return "/".join(str(item["coco_url"]).split("/")[-2:])
    return _name(item, "file_name")


def _name(item: Mapping[str, Any], key: str) -> str:
    """Return the name of a category or an image. Raises ValueError if it has none."""
    value = item[key]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{key} of id {item['id']!r} is {value!r:.40}, not a name")
    return str(value)


def _whole(value: Any) -> int:
    return int(float(value)) if value else 0


def _object(
    item: Mapping[str, Any], number: int, category: tuple[str, int], place: str
) -> Annotated:
    object_id = item.get("id") or 0
    outline: dict[str, Any] = {}
    try:
        outline = _outline(item.get("segmentation") or [])
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        fault = f"segmentation is neither polygons [[x, y, ...]] nor RLE: {error}"
        outline = {"outline_fault": fault}
    box, fault = item.get("bbox") or [], ""
    try:
        box = [float(value) for value in box]
    except (TypeError, ValueError, OverflowError):
        box, fault = [], f"bbox {item['bbox']!r:.80} is not four numbers"
    degrees = _rotation(item)
    if degrees and is_numbers(box):
        left, top, width, height = box
        left, top, right, bottom = turn_box([left, top, left + width, top + height], degrees)
        box = [left, top, right - left, bottom - top]
    if not box and outline.get("counts"):
        box = _box_around(outline)
    return Annotated(
        category[0],
        box,
        "xywh",
        category_id=category[1],
        number=object_id if type(object_id) is int else number,
        area=float(item.get("area") or 0),
        iscrowd=int(item.get("iscrowd") or 0),
        place=place,
        fault=fault,
        is_turned=bool(degrees),
        **outline,
    )


def _rotation(item: Mapping[str, Any]) -> float:
    """Return the degrees by which a box of CVAT is turned; 0 if it is not."""
    try:
        return float(item["attributes"]["rotation"]) % 360
    except (KeyError, TypeError, ValueError):
        return 0.0


def _outline(segmentation: Any) -> dict[str, Any]:
    """Return the attributes of an object that describe its outline."""
    if isinstance(segmentation, Mapping):
        size = [int(side) for side in segmentation["size"]]
        return {"counts": _compress(segmentation), "size": size}
    if segmentation and all(isinstance(x, int | float) for x in segmentation):
        segmentation = [segmentation]  # the points of one polygon, as VIA writes them
    polygons = [[float(x) for x in points] for points in segmentation]
    for points in polygons:
        if len(points) % 2:
            raise ValueError(f"a polygon has {len(points)} numbers, not pairs of x and y")
    return {"polygons": polygons}


def _box_around(outline: Mapping[str, Any]) -> list[float]:
    """Return the box around a run-length mask, left, top, width, height; [] if it has none."""
    from faster_coco_eval.core import mask

    try:
        packed = {"size": outline["size"], "counts": outline["counts"].encode()}
        return [float(value) for value in mask.toBbox(packed)]
    except (ValueError, RuntimeError):  # which validation of the outline reports
        return []


def _compress(rle: Mapping[str, Any]) -> str:
    """Return the compressed RLE string; `rle` may be uncompressed, with a list of numbers."""
    counts = rle["counts"]
    if isinstance(counts, str):
        return counts
    from faster_coco_eval.core import mask

    height, width = rle["size"]
    packed: bytes = mask.frPyObjects(dict(rle), height, width)["counts"]
    return packed.decode()


def _find_images(file: Path, images: Sequence[AnnotatedImage], folder: str | None) -> Iterator[str]:
    """Fill in the paths of images, and yield notes. Raises DataError if no image is found."""
    above, stem = file.parent.parent, file.stem.rpartition("_")[2]
    places = [
        file.parent,
        file.parent / "images",
        *(root / part for root in (above, above / "images") for part in ("", stem)),
        *(root / part for root in (file.parent, above) for part in ("data", f"images/{stem}")),
    ]
    split = split_of(file.stem)
    places += [file.parent / stem, file.parent / file.stem]
    is_apart = file.parent.name.lower() in ("annotations", "labels", "annotation")
    beside = _folders_in(file.parent, *([above] if is_apart else []))
    places += [each for each in beside if split and split == split_of(each.name)]
    if folder is not None:
        places = configured_places(folder, file)
    search = ImageSearch(above if is_apart else file.parent, places)
    paths = search.find([image.file for image in images])
    if not any(paths):
        first = images[0].file
        searched = ", ".join(map(str, places[:6]))
        raise DataError(
            f"{file}: image {first!r} not found in {searched}; move the images to one of them"
            f" (found in {file.parent}: {describe_contents(file.parent)})"
        )
    for image, path in zip(images, paths, strict=True):
        image.image = (path or search.expected(image.file)).as_posix()
    if search.way:
        yield f"images are not where file_name says, and were found {search.way}"


def _folders_in(*places: Path) -> list[Path]:
    return [child for place in places for child in list_visible(place) if child.is_dir()]


def _losses(images: Sequence[AnnotatedImage], names: Sequence[str]) -> Iterator[str]:
    """Yield a note on each thing of the file that nothing is learned from."""
    objects = [each for image in images for each in image.objects]
    counts = Counter(each.category for each in objects)
    counts.update(label for image in images for label in image.labels or ())
    if unused := [name for name in dict.fromkeys(names) if not counts[name]]:
        yield f"categories without annotations: {listed(unused, _SHOWN)}"
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        yield f"warning: several categories are called {listed(twice, _SHOWN)}; read as one class"
    short = [each for each in objects for line in each.polygons if len(line) < _POINTS]
    if short:
        where = short[0].place.partition(", ")[2]
        yield f"polygons with fewer than 3 points, left out: {len(short)} (first: {where})"
