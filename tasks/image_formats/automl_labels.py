"""Import files of AutoML and Vertex AI for image classification: .csv without a header.

    TRAIN,gs://bucket/1.jpg,cat           the split, if any: TRAIN, VALIDATION, TEST, UNASSIGNED
    gs://bucket/2.jpg,cat,dog             several labels
    gs://bucket/3.jpg                     none

Such a file of boxes has more columns; `tasks.annotations.box_table` reads it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.tables.encodings import Decoder
from tasks.annotations.annotated import AnnotatedImage
from tasks.annotations.box_table import is_box_table
from tasks.exports.export_files import find_exports
from tasks.exports.export_images import Reading, Splits, find_images, read_exports

_SPLITS = {
    "TRAIN": "train",
    "TRAINING": "train",
    "UNASSIGNED": "train",
    "VALIDATE": "validation",
    "VALIDATION": "validation",
    "TEST": "test",
}
_BUCKET = "gs://"


def _is_automl(file: Path) -> bool:
    """True if the first line of a table is an image of a bucket, with or without its split."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            cells = next(csv.reader(opened), [])
    except (OSError, ValueError, csv.Error):
        return False
    _, cells = _divide(cells)
    return bool(cells) and cells[0].startswith(_BUCKET) and not is_box_table(file)


def _divide(cells: Sequence[str]) -> tuple[str, list[str]]:
    """Return the split of a line, "train" if it names none, and its other cells."""
    cells = [cell.strip() for cell in cells]
    if cells and cells[0].upper() in _SPLITS:
        return _SPLITS[cells[0].upper()], cells[1:]
    return "train", cells


def find_automl(path: Path) -> dict[str, list[Path]]:
    """Return the import files at a path by split; {} if there are none."""
    return find_exports(path, ".csv", _is_automl)


def read_automl(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split with their labels, and notes. Raises DataError."""
    looked_for = "a .csv file of gs:// images and labels"
    return read_exports(path, find_automl(path), _read_file, config, "AutoML", looked_for)


def _read_file(file: Path, split_of_file: str, config: DataConfig) -> Reading:
    decoder, reading = Decoder(config.encoding), Reading()
    lines = csv.reader(io.StringIO(decoder.text(file), newline=""))
    try:
        for cells in filter(any, lines):
            split, names = _divide(cells)
            place = f"{file.name}:{lines.line_num}"
            if not names or not names[0].startswith(_BUCKET):
                raise DataError(
                    f"{file.parent / place}: does not begin with a gs:// image; correct the line, "
                    "or remove it"
                )
            labels = [name for name in names[1:] if name]
            image = AnnotatedImage("", names[0], place=place, labels=labels)
            reading.add(image, split if split != "train" else split_of_file)
    except csv.Error as error:
        raise DataError(f"{file}, line {lines.line_num}: cannot be read: {error}") from error
    reading.notes += [*decoder.notes(), *find_images(file, reading.splits, config)]
    return reading
