"""Rows with an image: its column, its faults, reading it.

The image is a path, bytes, {"bytes", "path"}, a PIL image, or an array; see
`tasks.image.image_reading`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from finetune.errors import DataError
from finetune.task_parts import Resolved, Row, Rows, validate_in_threads
from tasks.classification.label_columns import find_column
from tasks.image.image_reading import (
    digest_image,
    find_fault,
    looks_like_image,
    path_of,
    read_image,
)

IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "path", "file_name", "filename")


class PictureRows(Rows):
    """Rows of a task whose config has the keys `image` and `max_pixels`."""

    @property
    def inputs(self) -> list[str]:
        return [self.config.image or "image"]

    def resolve_inputs(self, columns: Mapping[str, Sequence[Any]]) -> Resolved:
        """Choose the column of the image."""
        seen = [name for name, values in columns.items() if any(map(looks_like_image, values))]
        known = {name: columns[name] for name in seen if name != "file" or len(seen) == 1}
        asked = columns if self.config.image else known or columns
        image, note = find_column(self.config.image, "image", asked, IMAGE_NAMES, list(known))
        return Resolved({"image": image}, [note] if note else [])

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        return self.resolve_inputs(columns)

    def validate(self, row: Row) -> Iterator[str]:
        """Yield what is wrong with a row's image, found by decoding it."""
        value = self.cell(row)
        if fault := find_fault(value, self.config.max_pixels):
            path = path_of(value)
            named = f" {path!r}" if path and not row.get("file") else ""
            yield f"{self.inputs[0]}{named} {fault}"

    def validate_many(self, rows: Sequence[Row]) -> list[list[str]]:
        return validate_in_threads(self, rows)

    def identity(self, row: Row) -> Any:
        return digest_image(self.cell(row))

    def from_value(self, value: Any) -> Row:
        return {self.inputs[0]: value}

    def cell(self, row: Row) -> Any:
        """What a row holds of its image: a path, bytes ..."""
        return row.get(self.inputs[0])

    def image(self, row: Row) -> Image.Image:
        """A row's image, upright and in RGB. Raises DataError that names it."""
        cell = self.cell(row)
        try:
            return read_image(cell, self.config.max_pixels)
        except DataError as error:
            raise DataError(f"{path_of(cell) or self.inputs[0]} {error}") from error


def describe_pixels(pixels: Any) -> str:
    """The type, shape and range of an encoded image."""
    return f"float32 {list(pixels.shape)}, {pixels.min():.2f} to {pixels.max():.2f}"
