"""Tables of run-length masks, as competitions of Kaggle have them: a column EncodedPixels.

    ImageId,EncodedPixels          ImageId,ClassId,EncodedPixels    ImageId_ClassId,EncodedPixels
    0a1b.jpg,1 3 10 5              0a1b.jpg,2,1 3 10 5              0a1b.jpg_1,1 3 10 5
    2c3d.jpg,                                                       0a1b.jpg_2,

Pairs of a start, from 1, and a length. Pixels are counted down the columns, from the left, or along
the rows, from the top: in the wrong order, the masks of images that are not square fall to pieces.
An empty cell or -1 means an image, or a class of it, without a mask. All lines of an image belong
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.tables.encodings import Decoder
from tasks.exports.export_files import csv_lines, find_exports, first_cells
from tasks.exports.export_images import Reading, find_images, read_exports
from tasks.exports.outlines import Mask, check_size, set_mask
from tasks.image.image_reading import picture_size
from tasks.objects.annotated import Annotated, AnnotatedImage, mask_row

_RUNS = "encodedpixels"
_IMAGES = ("imageid", "image", "imagename", "imgid", "filename", "id", "img")
_BOTH = {"imageidclassid": "ImageId_ClassId", "imagelabel": "Image_Label"}
_CLASSES = ("classid", "class", "label", "category", "classname")
_ONE_CLASS = "object"
_SAMPLES = "submission"  # tables of answers to hand in, with the same columns
_NO_MASK = ("", "-1", "nan")
_SHOWN = 3
_COMPARED = 20  # masks that are read in both orders to find theirs
_FAR_SHORTER = 0.7  # ratio of the outlines in both orders that tells the order

_Runs = Mapping[str, Sequence[tuple[str, str, int]]]
"""Class, runs and line of the masks of each image."""


class _Columns(NamedTuple):
    """The columns of a table by number; `category` is None where there is one class.

    Attributes:
        is_joined: True if the name of the image ends in the class, after a "_".
        unread: names of the other columns.
    """

    runs: int
    image: int
    category: int | None
    is_joined: bool
    unread: list[str]


def _columns(header: Sequence[str]) -> _Columns | None:
    plain = [name.strip().lower().replace("_", "").replace(" ", "") for name in header]
    joined = next((plain.index(name) for name in _BOTH if name in plain), None)
    image = next((plain.index(name) for name in _IMAGES if name in plain), joined)
    if _RUNS not in plain or image is None:
        return None
    category = next((plain.index(name) for name in _CLASSES if name in plain), None)
    runs = plain.index(_RUNS)
    unread = [n for i, n in enumerate(header) if i not in (runs, image, category)]
    return _Columns(runs, image, category, image == joined, unread)


def _is_run_table(file: Path) -> bool:
    return _SAMPLES not in file.name.lower() and _columns(first_cells(file)) is not None


def find_run_tables(path: Path) -> dict[str, list[Path]]:
    """Return the tables of run-length masks at a path by split; {} if there are none."""
    return find_exports(path, ".csv", _is_run_table)


def read_run_tables(path: Path, config: DataConfig) -> TaskTables:
    """Return rows of segmentation by split, and notes. Raises DataError."""
    files, looked_for = find_run_tables(path), "a .csv with the columns ImageId and EncodedPixels"
    splits, notes = read_exports(path, files, _read_table, config, "run-length masks", looked_for)
    rows = {split: list(map(mask_row, images)) for split, images in splits.items()}
    return TaskTables(rows, notes)


def _read_table(file: Path, split: str, config: DataConfig) -> Reading:
    decoder = Decoder(config.encoding)
    lines = csv_lines(file, decoder.text(file))
    columns = _columns(next(lines)[1])
    assert columns is not None, "the table was recognized by its header"
    runs: dict[str, list[tuple[str, str, int]]] = {}
    for number, cells in lines:
        name, category, text = _cells(file, cells, columns, number)
        runs.setdefault(name, []).append((category, text, number))
    reading = Reading(notes=decoder.notes())
    images = {name: AnnotatedImage("", name, place=f"{file.name}, {name}") for name in runs}
    for image in images.values():
        reading.add(image, split)
    found = find_images(file, reading.splits, config)
    by_rows = _are_by_rows(images, runs)
    order = "along the rows from 1, since only so the masks are whole areas"
    reading.notes += [
        f"{file}: read as run-length masks, whose pixels are counted"
        f" {order if by_rows else 'down the columns from 1'}",
        *found,
    ]
    if columns.unread:
        reading.notes.append(f"{file.name}: not read: columns {listed(columns.unread, _SHOWN)}")
    for name, some in runs.items():
        images[name].objects = list(_objects(file, images[name], some, by_rows))
    return reading


def _cells(
    file: Path, cells: Sequence[str], columns: _Columns, number: int
) -> tuple[str, str, str]:
    """Return the image, the class and the runs of a line. Raises DataError."""
    if len(cells) <= max(columns.runs, columns.image, columns.category or 0):
        raise DataError(
            f"{file}, line {number}: has {len(cells)} cells, fewer than the header; complete the "
            "line, or remove it"
        )
    name, category = cells[columns.image].strip(), _ONE_CLASS
    if columns.is_joined:
        name, _, category = name.rpartition("_")
    elif columns.category is not None:
        category = cells[columns.category].strip()
    if not name:
        raise DataError(
            f"{file}, line {number}: has no image name ({cells[columns.image]!r}); write it there, "
            "or remove the line"
        )
    return name, category, cells[columns.runs].strip()


def _objects(
    file: Path, image: AnnotatedImage, runs: Sequence[tuple[str, str, int]], by_rows: bool
) -> Iterator[Annotated]:
    try:
        size = picture_size(image.image)
    except DataError:  # a fault of the row, which validation reports
        return
    for category, text, number in runs:
        if text.lower() in _NO_MASK:
            continue
        item = Annotated(category, place=f"{file.name}:{number}")
        try:
            set_mask(item, _decode(text, size, by_rows), (0, 0), size)
        except ValueError as error:
            item.fault = str(error)
        yield item


def _are_by_rows(images: Mapping[str, AnnotatedImage], runs: _Runs) -> bool:
    """True if the outlines of the masks are far shorter with pixels counted along the rows.

    A square image gives no sign: in the other order its masks are mirrored along the diagonal.
    """
    lengths = np.array([_outlines(*each) for each in islice(_comparable(images, runs), _COMPARED)])
    if not len(lengths):
        return False
    by_columns, by_rows = lengths.sum(0)
    return bool(by_rows < _FAR_SHORTER * by_columns)


def _comparable(
    images: Mapping[str, AnnotatedImage], runs: _Runs
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the runs of the masks in images that are not square, with the size of the image."""
    for name, some in runs.items():
        try:
            size = picture_size(images[name].image)
        except DataError:
            continue
        if size[0] != size[1]:
            yield from ((text, size) for _, text, _ in some if text.lower() not in _NO_MASK)


def _outlines(text: str, size: tuple[int, int]) -> tuple[int, int]:
    """Return the length of a mask's outline in pixels, by columns and by rows."""
    try:
        masks = [_decode(text, size, by_rows) for by_rows in (False, True)]
    except ValueError:  # which is reported with its line
        return 0, 0
    by_columns, by_rows = (
        sum(int(np.count_nonzero(np.diff(mask, axis=axis))) for axis in (0, 1)) for mask in masks
    )
    return by_columns, by_rows


def _decode(text: str, size: tuple[int, int], by_rows: bool) -> Mask:
    """Return the mask [H, W] of pairs of a start and a length. Raises ValueError."""
    check_size(size)
    height, width = size
    try:
        numbers = np.array([int(word) for word in text.split()], dtype=np.int64)
    except (ValueError, OverflowError):
        raise ValueError(f"EncodedPixels {text!r:.60} is not a list of whole numbers") from None
    if len(numbers) % 2:
        raise ValueError(f"EncodedPixels has {len(numbers)} numbers, not pairs")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    ends = starts + lengths
    if (lengths < 1).any() or (starts < 0).any() or (starts[1:] < ends[:-1]).any():
        raise ValueError(
            "EncodedPixels does not ascend: starts may be relative to the run before, which is not"
            " read; write them from the first pixel of the image"
        )
    if ends[-1] > height * width:
        raise ValueError(
            f"EncodedPixels reaches pixel {ends[-1]}, but the image has {width} x {height} pixels"
        )
    steps = np.zeros(height * width + 1, np.int8)
    np.add.at(steps, starts, 1)
    np.add.at(steps, ends, -1)
    covered = steps[:-1].cumsum(dtype=np.int8).astype(bool)
    return covered.reshape(height, width) if by_rows else covered.reshape(width, height).T


RUN_LENGTH_MASKS = DataFormat(
    "run-length",
    lambda path: bool(find_run_tables(path)),
    read_run_tables,
    "a table with the columns ImageId and EncodedPixels (.csv)",
)
