"""Rows with an image: detection of the column, validation, decoding.

The image is a path, bytes, {"bytes", "path"}, a PIL image, or an array; see
`tasks.image.image_reading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.errors import DataError
from finetune.task_parts.rows import Resolved, Rows, shorten, validate_in_threads
from finetune.task_parts.samples import Row, RowTable, take_rows
from tasks.classification.label_columns import find_column
from tasks.image.image_reading import (
    digest_image,
    find_fault,
    inspect_header,
    picture_size,
    read_channels,
    read_image,
    read_unscaled,
)
from tasks.pixels.areas import Area, divide_area, png_cell
from tasks.pixels.image_cells import looks_like_image, path_of
from tasks.pixels.input_sizes import SAMPLED
from tasks.pixels.pixel_range import settle_pixel_range
from tasks.pixels.valid_pictures import valid_pictures

RGB = 3
IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "path", "file_name", "filename")


class PictureRows(Rows):
    """Rows of a task whose config has the keys `image`, `max_pixels` and `pixel_range`."""

    is_trained = False
    """True once training has settled pixel_range: without one, deep images cannot be read."""

    @property
    def channels(self) -> int:
        """Number of channels of the decoded images."""
        return getattr(self.config, "channels", None) or RGB

    @property
    def inputs(self) -> list[str]:
        return [self.config.image or "image"]

    def sampled(self, rows: RowTable) -> list[Row]:
        """Return evenly spaced rows, whose images say which size of input they need."""
        places = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED))
        return take_rows(rows, np.unique(places.round().astype(int)).tolist())

    def resolve_inputs(self, columns: Mapping[str, Sequence[Any]]) -> Resolved:
        """Choose the image column."""
        likely = [name for name, values in columns.items() if any(map(looks_like_image, values))]
        images = {name: columns[name] for name in likely if name != "file" or len(likely) == 1}
        choices = columns if self.config.image else images or columns
        image, note = find_column(self.config.image, "image", choices, IMAGE_NAMES, list(images))
        return Resolved({"image": image}, [note] if note else [])

    def settle_pixels(self, rows: Iterable[Row]) -> Resolved:
        """Choose the range of pixel values from the rows of a dataset, whose images are valid."""
        keys, notes = settle_pixel_range(
            self.config,
            map(self.cell, rows),
            inspect_header,
            lambda cell: read_unscaled(cell, self.channels, self.config.max_pixels),
        )
        return Resolved(keys, notes)

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        return self.resolve_inputs(columns)

    def validate(self, row: Row) -> Iterator[str]:
        """Yield the fault of a row's image, found by decoding it."""
        value = self.cell(row)
        if fault := find_fault(value, *self._way()):
            path = path_of(value)
            name = f" {path!r}" if path and not row.get("file") else ""
            yield f"{self.inputs[0]}{name} {fault}"

    def validate_many(self, rows: Sequence[Row]) -> list[list[str]]:
        faults = validate_in_threads(self, rows)
        valid_pictures(*self._way()).save()
        return faults

    def _way(self) -> tuple[int, int, bool]:
        """Return what an image's fault depends on: the most pixels, channels, if it has a range."""
        has_range = not self.is_trained or self.config.pixel_range is not None
        return self.config.max_pixels, self.channels, has_range

    def identity(self, row: Row) -> Any:
        return digest_image(self.cell(row))

    def size(self, row: Row) -> tuple[int, int] | None:
        try:
            return picture_size(self.cell(row))
        except DataError:
            return None

    def thumbnail(self, row: Row, side: int) -> NDArray[np.uint8] | None:
        try:
            gray = self.image(row).convert("L")
        except DataError:
            return None
        return np.asarray(gray.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))

    def divide(self, row: Row, shares: Mapping[str, float]) -> dict[str, Row] | None:
        """Divide a large image, which is read in tiles, by area.

        Not divided are images of 16 bits or floats, whose range is not known yet.
        """
        cell, tile = self.cell(row), tile_side(self.config)
        if tile is None or path_of(cell) is None or self.channels != RGB:
            return None
        if inspect_header(cell).is_deep:
            return None
        areas = divide_area(picture_size(cell), shares, tile)
        if areas is None:
            return None
        return {split: self.crop(row, area) for split, area in areas.items()}

    def crop(self, row: Row, area: Area) -> Row:
        """Return the row of an area of its image; subclasses crop the target as well."""
        picture = png_cell(self.image(row).crop(area), path_of(self.cell(row)))
        return {**row, self.inputs[0]: picture}

    def from_value(self, value: Any) -> Row:
        return {self.inputs[0]: value}

    def cell(self, row: Row) -> Any:
        """Return the undecoded image of a row: a path, bytes ..."""
        return row.get(self.inputs[0])

    def image(self, row: Row) -> Image.Image:
        """Decode a row's image to look at, upright and in RGB. Raises DataError with its name."""
        if self.channels != RGB:
            return Image.fromarray(as_rgb(self.pixels(row)))
        return self._decoded(row, read_image)  # type: ignore[no-any-return]

    def pixels(self, row: Row, enough: int | None = None) -> NDArray[np.uint8]:
        """Decode a row's image to [H, W, C] of `channels`. Raises DataError with its name.

        `enough` lets JPEGs be decoded at a reduced size (see `read_image`).
        """
        read = partial(read_channels, channels=self.channels, enough=enough)
        return self._decoded(row, read)  # type: ignore[no-any-return]

    def _decoded(self, row: Row, read: Any) -> Any:
        cell, config = self.cell(row), self.config
        try:
            return read(cell, max_pixels=config.max_pixels, pixel_range=config.pixel_range)
        except DataError as error:
            raise DataError(f"{path_of(cell) or self.inputs[0]} {error}") from error


def as_rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels [H, W, C] as RGB to look at: the first three bands, or gray."""
    return pixels[..., :RGB] if pixels.shape[-1] >= RGB else pixels[..., :1].repeat(RGB, axis=-1)


def image_name(cell: Any) -> str:
    """Name an image for people: its path, also that of one stored in its row."""
    stored = cell.get("path") if isinstance(cell, Mapping) else None
    return path_of(cell) or stored or shorten(cell)


def describe_pixels(pixels: Any) -> str:
    """Render the dtype, shape and range of an encoded image."""
    return f"float32 {list(pixels.shape)}, {pixels.min():.2f} to {pixels.max():.2f}"


def tile_side(config: Any) -> int | None:
    """Return the side in pixels of the tiles that images are cut into; None if they are not."""
    tile = getattr(config, "tile", None)
    return getattr(tile, "size", tile)
