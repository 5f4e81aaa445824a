"""Import files of AutoML and Vertex AI for image classification: .csv without a header.

    TRAIN,gs://bucket/1.jpg,cat           the split, if any: TRAIN, VALIDATION, TEST, UNASSIGNED
    gs://bucket/2.jpg,cat,dog             several labels
    gs://bucket/3.jpg                     none

Such a file of boxes has more columns; `tasks.annotations.box_table` reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.tables.encodings import Decoder
from tasks.annotations.box_table import is_box_table
from tasks.exports.export_files import csv_lines, find_exports, first_cells
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.objects.annotated import AnnotatedImage

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
    _, cells = _divide(first_cells(file))
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
    for number, cells in csv_lines(file, decoder.text(file)):
        split, names = _divide(cells)
        place = f"{file.name}:{number}"
        if not names or not names[0].startswith(_BUCKET):
            raise DataError(
                f"{file.parent / place}: does not begin with a gs:// image; correct the line, or "
                "remove it"
            )
        labels = [name for name in names[1:] if name]
        image = AnnotatedImage("", names[0], place=place, labels=labels)
        reading.add(image, split if split != "train" else split_of_file)
    reading.notes += [*decoder.notes(), *find_images(file, reading.splits, config)]
    return reading
