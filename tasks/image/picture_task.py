"""What tasks share whose rows hold a picture: its column, its faults, reading and saving."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from finetune.errors import DataError
from finetune.io.files import write_json
from finetune.model import TransferModel
from finetune.task import Row, Sample, Task
from tasks.classification.label_columns import find_column
from tasks.image.image_reading import (
    digest_image,
    find_fault,
    looks_like_image,
    path_of,
    read_image,
)
from tasks.image.preprocessing import INPUT

IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "path", "file_name", "filename")


class PictureTask(Task):
    """A task with an image column. Its config has the keys `image` and `max_pixels`."""

    processor_: dict[str, Any] | None
    """Config of the image processor, of a network of transformers."""

    def choose_inputs(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """Settle the image's column; a sentence if it was chosen here."""
        seen = [name for name, values in columns.items() if any(map(looks_like_image, values))]
        known = {name: columns[name] for name in seen if name != "file" or len(seen) == 1}
        asked = columns if self.config.image else known or columns
        image, note = find_column(self.config.image, "image", asked, IMAGE_NAMES, list(known))
        self.config = self.config.model_copy(update={"image": image})
        return [note] if note else []

    def image_faults(self, row: Row) -> Iterator[str]:
        """What is wrong with a row's picture, found by decoding it."""
        value = self.image_of(row)
        if fault := find_fault(value, self.config.max_pixels):
            path = path_of(value)
            named = f" {path!r}" if path and not row.get("file") else ""
            yield f"{self.input_columns()[0]}{named} {fault}"

    def validate_rows(self, rows: Sequence[Row]) -> list[list[str]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda row: list(self.validate(row)), rows))

    def input_columns(self) -> list[str]:
        return [self.config.image or "image"]

    def identity(self, row: Row) -> Any:
        return digest_image(self.image_of(row))

    def row_of(self, value: Any) -> Row:
        return {self.input_columns()[0]: value}

    def image_of(self, row: Row) -> Any:
        """The cell of a row's picture."""
        return row.get(self.input_columns()[0])

    def picture_of(self, row: Row) -> Image.Image:
        """A row's picture, upright and in RGB. Raises DataError that names it."""
        cell = self.image_of(row)
        try:
            return read_image(cell, self.config.max_pixels)
        except DataError as error:
            raise DataError(f"{path_of(cell) or self.input_columns()[0]} {error}") from error

    def show(self, sample: Sample) -> str:
        pixels = sample["inputs"][INPUT]
        return f"float32 {list(pixels.shape)}, {pixels.min():.2f} to {pixels.max():.2f}"

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        if self.processor_ is not None:
            write_json(folder / "preprocessor_config.json", self.processor_)
