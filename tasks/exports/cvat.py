"""CVAT for images 1.1 and for video 1.1: annotations.xml, with the shapes of each image.

    <annotations><version>1.1</version>
      <image name="1.jpg" width="96" height="72" subset="Train">
        <box label="cat" xtl="12" ytl="30" xbr="80" ybr="72"/>
        <polygon label="cat" points="12,30;80,30;80,72"/>
        <mask label="cat" rle="3, 5, 4" left="12" top="30" width="4" height="3"/>
        <tag label="indoors"/></image>
      <track label="cat"><box frame="7" outside="0" xtl="12" .../></track>

The format is that of docs.cvat.ai/docs/other/xml_format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from xml.parsers import expat

from finetune.config.schema import DataConfig
from finetune.errors import DataError, format_count
from finetune.listing.split_names import split_of
from tasks.exports.export_files import find_exports
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.exports.outlines import (
    box_outline,
    ellipse_outline,
    finite_numbers,
    point_numbers,
    rotate_points,
    runs_to_mask,
    set_mask,
    set_outline,
)
from tasks.objects.annotated import Annotated, AnnotatedImage

_HEAD = 1 << 16
_UNREAD = {
    "polyline": "polylines",
    "points": "points",
    "cuboid": "cuboids",
    "skeleton": "skeletons",
    "attribute": "attributes",
}
Attributes = Mapping[str, str]


def is_cvat(file: Path) -> bool:
    """True if a file begins like an export of CVAT."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError:
        return False
    return b"<annotations" in head and any(
        word in head for word in (b"<version>", b"<image ", b"<track ")
    )


def find_cvat(path: Path) -> dict[str, list[Path]]:
    """Return the exports at a path by split; {} if there are none."""
    return find_exports(path, ".xml", is_cvat)


def find_cvat_tags(path: Path) -> dict[str, list[Path]]:
    """Return the exports in which images have tags; {} if there are none."""
    files = find_cvat(path)
    has_tags = any(b"<tag " in file.read_bytes() for some in files.values() for file in some)
    return files if has_tags else {}


def read_cvat(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split, and notes. Raises DataError."""
    looked_for = "annotations.xml, with <annotations> and <image>"
    return read_exports(path, find_cvat(path), _read_file, config, "CVAT", looked_for)


def _read_file(file: Path, split: str, config: DataConfig) -> Reading:
    parser = CvatFile(file, split)
    reading = parser.parse()
    if not reading.splits:
        raise DataError(
            f"{file}: has no <image> and no shape of a <track>; export the annotated frames again"
        )
    reading.notes += [*find_images(file, reading.splits, config), *parser.describe_frames()]
    return reading


class CvatFile:
    """Parser of one file that records the line at which each shape begins."""

    def __init__(self, file: Path, split: str) -> None:
        self._file, self._split = file, split
        self._reading = Reading()
        self._image: AnnotatedImage | None = None
        self._track = ""  # label of the track that is being read
        self._frames: dict[int, AnnotatedImage] = {}
        self._path: list[str] = []
        self._text = ""
        self._expat = expat.ParserCreate()
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._add_text
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype

    def parse(self) -> Reading:
        """Return what the file holds. Raises DataError if it is not valid."""
        try:
            self._expat.Parse(self._file.read_bytes(), True)
        except (OSError, expat.ExpatError, ValueError, LookupError) as error:
            raise DataError(f"{self._file}: not a valid XML file: {error}") from error
        return self._reading

    def describe_frames(self) -> list[str]:
        """Return a note on the frames of a video, which are read as images."""
        if not self._frames:
            return []
        images = format_count(len(self._frames), "image")
        return [
            f"warning: {self._file.name}: tracks of a video, read as {images},"
            " the frames with a shape; neighboring frames are alike, so metrics on a share of them"
            " are optimistically biased: set data.validation to another video"
        ]

    def _refuse_doctype(self, name: str, *_: object) -> None:
        # Nested entities expand a small file to gigabytes.
        raise DataError(
            f"{self._file}: declares <!DOCTYPE {name}>, which CVAT does not write; remove it"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._text = ""
        if tag == "image" and len(self._path) == 2:
            self._image = self._start_image(attributes)
        elif tag == "track" and len(self._path) == 2:
            self._track = attributes.get("label", "")
        elif len(self._path) == 3 and self._path[1] == "track":
            self._image = self._frame(attributes)
            if attributes.get("outside") != "1":
                self._add_shape(tag, {**attributes, "label": self._track})
        elif self._image is not None:
            self._add_shape(tag, attributes)

    def _start_image(self, attributes: Attributes) -> AnnotatedImage:
        place = f"{self._file.name}:{self._expat.CurrentLineNumber}"
        name = attributes.get("name", "")
        if not name:
            raise DataError(f"{place}: <image> has no name")
        image = AnnotatedImage("", name, size=_size(attributes), place=place)
        subset = attributes.get("subset", "")
        known = split_of(subset) or (subset if subset.lower() != "default" else "")
        self._reading.add(image, known or self._split)
        return image

    def _frame(self, attributes: Attributes) -> AnnotatedImage:
        """Return the image of a frame of a video, called as CVAT exports the frames."""
        place = f"{self._file.name}:{self._expat.CurrentLineNumber}"
        number = attributes.get("frame", "")
        if not number.isdecimal():
            raise DataError(
                f"{place}: shape of a track has the frame {number!r}, not a number; export the "
                "annotations again"
            )
        if int(number) not in self._frames:
            image = AnnotatedImage("", f"frame_{int(number):06}", place=place)
            self._frames[int(number)] = image
            self._reading.add(image, self._split)
        return self._frames[int(number)]

    def _add_shape(self, tag: str, attributes: Attributes) -> None:
        assert self._image is not None
        if tag == "tag" and len(self._path) == 3:
            self._image.labels = [*(self._image.labels or []), attributes.get("label", "")]
            return
        if tag in _UNREAD:
            self._reading.unread[_UNREAD[tag]] += 1
        if tag in _UNREAD or len(self._path) != 3:
            return
        item = Annotated(attributes.get("label", ""))
        item.place = f"{self._file.name}:{self._expat.CurrentLineNumber}"
        try:
            if tag not in _SHAPES:
                raise ValueError(f"<{tag}> is not a shape that is known")
            _SHAPES[tag](item, attributes, self._image)
        except KeyError as error:
            item.fault = f"<{tag}> has no {error}"
        except ValueError as error:
            item.fault = f"<{tag}>: {error}"
        if tag == "ellipse":
            self._reading.remarks["ellipses read as polygons"] += 1
        if tag == "box" and item.polygons:
            self._reading.remarks["turned boxes read as polygons"] += 1
        group = attributes.get("group_id") if item.polygons else None
        self._reading.add_object(self._image, item, group)

    def _add_text(self, text: str) -> None:
        self._text += text

    def _end(self, tag: str) -> None:
        if self._path[-3:] == ["labels", "label", "name"] and self._text.strip():
            self._reading.classes.append(self._text.strip())
        if len(self._path) == 2 or (len(self._path) == 3 and self._path[1] == "track"):
            self._image = None
        self._path.pop()


def _size(attributes: Attributes) -> tuple[int, int] | None:
    try:
        height, width = (int(float(attributes[side])) for side in ("height", "width"))
    except (KeyError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _add_box(item: Annotated, attributes: Attributes, _: AnnotatedImage) -> None:
    left, top, right, bottom = finite_numbers([attributes[s] for s in ("xtl", "ytl", "xbr", "ybr")])
    (degrees,) = finite_numbers([attributes.get("rotation", 0)])
    if degrees % 360:
        center = ((left + right) / 2, (top + bottom) / 2)
        set_outline(item, rotate_points(box_outline(left, top, right, bottom), degrees, center))
    else:
        item.box = [left, top, right, bottom]


def _add_polygon(item: Annotated, attributes: Attributes, _: AnnotatedImage) -> None:
    points = [point.split(",") for point in attributes["points"].split(";") if point.strip()]
    set_outline(item, point_numbers(points))


def _add_ellipse(item: Annotated, attributes: Attributes, _: AnnotatedImage) -> None:
    x, y, across, down = finite_numbers([attributes[name] for name in ("cx", "cy", "rx", "ry")])
    (degrees,) = finite_numbers([attributes.get("rotation", 0)])
    set_outline(item, ellipse_outline(x, y, across, down, degrees))


def _add_mask(item: Annotated, attributes: Attributes, image: AnnotatedImage) -> None:
    names = ("left", "top", "width", "height")
    left, top, width, height = (
        int(value) for value in finite_numbers([attributes[n] for n in names])
    )
    if image.size is None:
        raise ValueError("its image has no width and height")
    runs = [int(run) for run in attributes["rle"].split(",") if run.strip()]
    set_mask(item, runs_to_mask(runs, height, width), (left, top), image.size)


_SHAPES: dict[str, Callable[[Annotated, Attributes, AnnotatedImage], None]] = {
    "box": _add_box,
    "polygon": _add_polygon,
    "ellipse": _add_ellipse,
    "mask": _add_mask,
}
