"""YOLO annotations, read as annotated images by split: a .txt file of objects per image.

    data.yaml              see `tasks.annotations.yolo_sources`
    images/train/1.jpg
    labels/train/1.txt     see `tasks.annotations.yolo_labels`

The format is that of docs.ultralytics.com/datasets/detect. An image without a .txt file, or with an
empty one, has no objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from finetune.config.formats import TaskTables, Unusable
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.walking import describe_contents, list_visible
from tasks.annotations.yolo_labels import is_label_file, label_file, read_labels
from tasks.annotations.yolo_sources import YoloSource, find_yolo, open_yolo
from tasks.image.image_reading import picture_size
from tasks.image.image_search import configured_places, hidden_images, walk_images
from tasks.objects.annotated import Annotated, AnnotatedImage, box_row, mask_row

_SHOWN = 3
_LEAST_KEY_POINTS = 10  # numbers of a box and three points; four corners are 8
_NEAR = 0.02  # share of the image size by which a point may be outside its box
_TRIED = 200  # images by whose labels boxes and polygons are told apart
_LOUD = 0.5  # share of images without a label file from which it is a warning


def read_yolo_boxes(path: Path, config: DataConfig) -> TaskTables:
    """Read boxes; those of polygons are the boxes around them. Raises DataError."""
    splits, notes, unusable = read_yolo(path, config)
    objects = [each for images in splits.values() for image in images for each in image.objects]
    polygons = sum(bool(each.polygons) for each in objects)
    if polygons:
        notes.append(f"polygons read as the boxes around them: {polygons} of {len(objects)}")
    rows = {split: list(map(box_row, images)) for split, images in splits.items()}
    return TaskTables(rows, notes, unusable=unusable)


def read_yolo_masks(path: Path, config: DataConfig) -> TaskTables:
    """Read polygons as masks. Raises DataError."""
    splits, notes, unusable = read_yolo(path, config)
    for images in splits.values():
        for image in images:
            _to_pixels(image)
    rows = {split: list(map(mask_row, images)) for split, images in splits.items()}
    return TaskTables(rows, notes, unusable=unusable)


def has_outlines(path: Path) -> bool:
    """True if a YOLO dataset has polygons, by the labels of its first images."""
    files, has_keypoints = _first_labels(path)
    objects = (each for file in files for each in read_labels(file, "", None, has_keypoints))
    return any(each.polygons for each in objects)


def has_labels(path: Path) -> bool:
    """True if the first images of a YOLO dataset have labels: it is not a description alone."""
    return bool(_first_labels(path)[0])


def _first_labels(path: Path) -> tuple[list[Path], bool | None]:
    """Return the label files of the first images, and True if they have key points."""
    if find_yolo(path) is None:
        return [], False
    try:
        source = open_yolo(path)
        sources = list(chain(*source.splits.values()))
        folders = (folder for each in sources for folder in source.label_folders(each))
        files = [file for folder in folders for file in list_visible(folder)]
        files = files or [label_file(i) for each in sources for i in source.images(each) or ()]
    except DataError:
        return [], False
    texts = [file for file in files[:_TRIED] if file.suffix == ".txt" and file.is_file()]
    return texts, source.has_keypoints


def read_yolo(
    path: Path, config: DataConfig
) -> tuple[dict[str, list[AnnotatedImage]], list[str], dict[str, Unusable]]:
    """Return the images of every split, notes, and the splits that cannot be used.

    Raises DataError if the description is missing or malformed.
    """
    source = open_yolo(path)
    if config.images is not None:
        source.pictures = configured_places(config.images, source.folder / "data.yaml")[0]
    splits: dict[str, list[AnnotatedImage]] = {}
    unusable: dict[str, Unusable] = {}
    notes: list[str] = []
    used: set[Path] = set()
    folders: set[Path] = set()
    for split, sources in source.splits.items():
        try:
            images = _images(source, split, sources)
        except DataError as error:
            unusable[split] = Unusable(str(error))
            continue
        if isinstance(images, Unusable):
            unusable[split] = images
            continue
        labels = [source.label_file(image) for image in images]
        without = [image for image, file in zip(images, labels, strict=True) if not file.is_file()]
        used.update(labels)
        folders.update(image.parent for image in images)
        if len(without) == len(images):
            unusable[split] = Unusable(_no_labels(source, split, images))
            continue
        splits[split] = list(_read(source, images, labels))
        notes += _missing(source, split, images, without)
    if unusable and not splits:
        raise DataError(next(iter(unusable.values())).reason)
    notes += _unlabeled(source)
    hidden = hidden_images(folders)
    notes += [hidden] if hidden else []
    lone = _lone_labels(used)
    if lone:
        shown = listed((_short(file, source.folder) for file in lone), _SHOWN)
        notes.append(f"warning: label files that fit no image, not read: {len(lone)} ({shown})")
    objects = [each for images in splits.values() for image in images for each in image.objects]
    _check_numbers(source, objects)
    _check_key_points(source, objects)
    return splits, [*source.notes, *notes], unusable


def _check_numbers(source: YoloSource, objects: Sequence[Annotated]) -> None:
    """Raise DataError if the label files count the classes from 1 and the names from 0.

    Not a fault of single rows: in the others, each class would be called like the next one.
    """
    numbers, names = {each.category_id for each in objects}, source.names or {}
    if 0 in names and 0 not in numbers and len(names) in numbers and len(names) not in names:
        shifted = ", ".join(f"{number + 1}: {name}" for number, name in names.items())
        raise DataError(
            f"{source.place}: the label files have the classes {min(numbers)} to {max(numbers)},"
            f" but the names count from 0 to {max(names)}: do the files count from 1? Write names:"
            f" {{{shifted}}} in data.yaml"
        )


def _check_key_points(source: YoloSource, objects: Sequence[Annotated]) -> None:
    """Raise DataError for lines that are most likely a box and key points, and not a polygon."""
    lines = [each.polygons[0] for each in objects if each.polygons]
    count = len(lines[0]) if lines else 0
    alike = all(len(line) == count and _fits_key_points(line) for line in lines)
    if source.has_keypoints is None and alike and len(lines) > 1 and count >= _LEAST_KEY_POINTS:
        raise DataError(
            f"{source.place}: all lines have {count} numbers after the class, which fit a box and"
            " key points in it; write kpt_shape: [POINTS, 2 or 3] in data.yaml to read the boxes,"
            " or kpt_shape: null if they are polygons"
        )


def _fits_key_points(numbers: Sequence[float]) -> bool:
    """True if the numbers after the first four are points in that box, or zeros."""
    x, y, width, height = numbers[:4]
    points = numbers[4:]

    def are_inside(step: int) -> bool:
        pairs = zip(points[::step], points[1::step], strict=True)
        return len(points) % step == 0 and all(
            (a, b) == (0, 0)
            or (abs(a - x) <= width / 2 + _NEAR and abs(b - y) <= height / 2 + _NEAR)
            for a, b in pairs
        )

    has_visibility = len(points) % 3 == 0 and set(points[2::3]) <= {0, 1, 2}
    return are_inside(2) or (has_visibility and are_inside(3))


def _images(source: YoloSource, split: str, sources: Sequence[str]) -> list[Path] | Unusable:
    images: list[Path] = []
    for each in sources:
        some = source.images(each)
        if some is None:
            searched = ", ".join(map(str, source.places(each)))
            contents = describe_contents(source.folder)
            return Unusable(
                f"{source.place}: {split}: {each!r} not found as {searched}; fix path: or the"
                f" folder of the split, or set data.images=FOLDER (found in {source.folder}:"
                f" {contents})",
                is_absent=True,
            )
        images += some
    return images


def _read(
    source: YoloSource, images: Sequence[Path], labels: Sequence[Path]
) -> Iterator[AnnotatedImage]:
    for image, file in zip(images, labels, strict=True):
        place = _short(file, source.folder)
        objects = (
            list(read_labels(file, place, source.names, source.has_keypoints))
            if file.is_file()
            else []
        )
        yield AnnotatedImage(image.as_posix(), _short(image, source.folder), objects)


def _no_labels(source: YoloSource, split: str, images: Sequence[Path]) -> str:
    """Say that no image of a split has labels, what was looked for, and what is there."""
    image = images[0]
    name = image.with_suffix(".txt").name
    others = (file for file in sorted(source.folder.rglob(name)) if "labels" not in file.parts)
    found = next(others, None)
    there = (
        f"there is {_short(found, source.folder)}: rename its folder to labels"
        if found
        else f"found in {source.folder}: {describe_contents(source.folder)}"
    )
    return (
        f"{source.place}: none of the images of split {split} ({len(images)}) has a label file;"
        f" looked for {_short(label_file(image), source.folder)} for"
        f" {_short(image, source.folder)}; {there}"
    )


def _missing(
    source: YoloSource, split: str, images: Sequence[Path], without: Sequence[Path]
) -> list[str]:
    if not without:
        return []
    loud = "warning: " * (len(without) >= _LOUD * len(images))
    shown = listed((_short(image, source.folder) for image in without), _SHOWN)
    return [
        f"{loud}{split}: {len(without)} of {len(images)} images have no label file and are read as"
        f" images without objects ({shown})"
    ]


def _unlabeled(source: YoloSource) -> list[str]:
    """Note the images of data.images that no label file names."""
    if source.pictures is None or not source.labels:
        return []
    rest = [image for image in walk_images(source.pictures) if image not in source.labels]
    shown = listed((image.name for image in rest), _SHOWN)
    note = f"images of {source.pictures} without a label file, not read: {len(rest)} ({shown})"
    return [note] if rest else []


def _lone_labels(used: set[Path]) -> list[Path]:
    """Return the label files that lie among those of images but fit none."""
    folders = sorted({file.parent for file in used if file.is_file()})
    files = (file for folder in folders for file in sorted(folder.glob("*.txt")))
    return [file for file in files if file not in used and is_label_file(file)]


def _to_pixels(image: AnnotatedImage) -> None:
    """Scale polygons from shares to pixels of the image."""
    try:
        height, width = picture_size(image.image)
    except DataError:  # a fault of the row, which validation reports
        return
    for each in image.objects:
        each.polygons = [
            [value * (height if index % 2 else width) for index, value in enumerate(points)]
            for points in each.polygons
        ]
        each.area *= height * width


def _short(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
