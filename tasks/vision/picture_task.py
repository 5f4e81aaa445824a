"""What tasks share whose rows hold a picture: its column, its faults, what tells it from others."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finetune.task import Row, Task
from tasks.labelling.columns import find_column
from tasks.vision.images import digest_image, find_fault, looks_like_image, path_of

IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "path", "file_name", "filename")


class PictureTask(Task):
    """A task with an image column. Its config has the keys `image` and `max_pixels`."""

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
