"""Label files of YOLO: one object per line, in shares of the image size.

0 0.5 0.5 0.2 0.4              class, center x, center y, width, height
0 0.4 0.3 0.6 0.3 0.5 0.7      class, x, y, x, y, ... of a polygon
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from finetune.listing.split_names import split_of
from finetune.listing.walking import list_readable
from tasks.image.image_search import ImageSearch, clean_path
from tasks.objects.annotated import Annotated
from tasks.objects.boxes import SHARE_SLACK
from tasks.objects.polygons import bounds, outline_area

_BOX, _POLYGON = 4, 6  # numbers after the class


def label_file(image: Path) -> Path:
    """Return the path of an image's labels: the last `images` in its path becomes `labels`.

    A file beside the image, or in a folder labels/ beside its folder, is found as well.
    """
    parts = list(image.parts)
    lower = [part.lower() for part in parts[:-1]]
    expected = image.with_suffix(".txt")
    if "images" in lower:
        index = len(lower) - 1 - lower[::-1].index("images")
        rest = Path(*parts[index + 1 :]).with_suffix(".txt")
        expected = Path(*parts[:index], parts[index].replace("images", "labels"), rest)
        if "images" not in parts[index]:  # Images, IMAGES
            expected = Path(*parts[:index], "Labels", rest)
    beside = image.with_suffix(".txt")
    choices = [expected, beside, image.parent / "labels" / beside.name]
    if split_of(image.parent.name) is None:  # else the splits may share names
        choices.append(image.parent.parent / "labels" / beside.name)
    return next(filter(os.path.isfile, choices), expected)  # False also for impossible names


def label_folders(places: Iterable[Path]) -> list[Path]:
    """Return the folders of label files for folders of images, which need not exist."""
    folders = [each for place in places for each in (label_file(place / "_.jpg").parent, place)]
    folders += [each / "labels" for each in folders]
    found = (each for each in dict.fromkeys(folders) if any(map(is_label_file, _texts(each))))
    return list(found)[:1]


def _texts(folder: Path) -> Iterator[Path]:
    return (file for file in list_readable(folder) if file.suffix == ".txt")


def match_pictures(folder: Path, pictures: Path, source: str) -> dict[Path, Path]:
    """Return {image: label file} for the files in a folder of labels, by their names.

    Images are looked for in `pictures`, first in the folder there that is called like `source`.
    """
    files = list(_texts(folder))
    parts = [part for part in clean_path(source).split("/") if part not in ("", ".", "..")]
    inner = (pictures.joinpath(*parts[start:]) for start in range(len(parts) + 1))
    search = ImageSearch(pictures, [place for place in inner if place.is_dir()])
    found = search.find([file.stem for file in files])
    return {image: file for image, file in zip(found, files, strict=True) if image is not None}


def is_label_file(file: Path) -> bool:
    """True if the first line of a file is an object."""
    try:
        with file.open(encoding="utf-8-sig") as opened:
            words = next((line.split() for line in opened if line.strip()), [])
        return len(words) > _BOX and words[0].isdecimal() and bool([float(w) for w in words])
    except (OSError, ValueError):
        return False


def read_labels(
    file: Path, place: str, names: Mapping[int, str] | None, has_keypoints: bool | None
) -> Iterator[Annotated]:
    """Yield the objects of a label file, with polygons in shares of the image size."""
    text = file.read_text(encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            item = _parse(line.split(), names, has_keypoints)
            item.place, item.number = f"{place}:{number}", number
            yield item


def _parse(
    words: list[str], names: Mapping[int, str] | None, has_keypoints: bool | None
) -> Annotated:
    item = Annotated("", form="cxcywh-shares")
    try:
        number, values = float(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        item.fault = f"{' '.join(words)!r:.60} is not a class and numbers"
        return item
    if not math.isfinite(number) or number != int(number):
        item.fault = f"class {words[0]} is not a whole number"
        return item
    item.category_id = int(number)
    item.fault = _class_fault(item.category_id, names)
    if item.fault:
        return item
    item.category = str(item.category_id) if names is None else names[item.category_id]
    if has_keypoints:
        values = values[:_BOX]
    if len(values) >= _POLYGON and len(values) % 2 == 0:
        item.polygons, item.area = [values], outline_area(values)
        left, top, right, bottom = bounds([values])
        width, height = right - left, bottom - top
        values = [left + width / 2, top + height / 2, width, height]
    item.box = values
    if len(values) != _BOX:
        item.fault = f"has {len(values)} numbers after its class; a box has 4"
    elif max(values) > 1 + SHARE_SLACK:
        numbers = ", ".join(f"{value:g}" for value in values)
        item.fault = (
            f"box [{numbers}] has values over 1, like pixels; YOLO has shares of the image size"
        )
    return item


def _class_fault(number: int, names: Mapping[int, str] | None) -> str:
    if names is None or number in names:
        return f"class {number} is negative" if number < 0 else ""
    known = f"{min(names)} to {max(names)}" if names else "none"
    hint = "; do the files count from 1?" if number == len(names) and 0 in names else ""
    return f"class {number} has no name in data.yaml (named: {known}){hint}"
