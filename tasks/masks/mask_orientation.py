"""Masks that were drawn on images as they are stored, without their EXIF orientation.

An image is shown upright; a mask whose height and width are exchanged is turned with it. Mirrored
images, those turned by 180 degrees and squares have the same size either way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune.errors import DataError, listed
from tasks.image.image_reading import picture_size
from tasks.pixels.image_cells import file_or_bytes, path_of
from tasks.pixels.orientation import orientation_of, swaps_sides

_SHOWN = 3


def turn_of_mask(size: tuple[int, int], image: Any) -> int:
    """Return the EXIF orientation by which a mask of `size` (H, W) is turned; 1 if it is upright.

    `image` is the cell of its image.
    """
    upright = picture_size(image)
    if size == upright or size != upright[::-1]:
        return 1
    orientation = _orientation(image)
    return orientation if swaps_sides(orientation) else 1


def _orientation(image: Any) -> int:
    try:
        return orientation_of(file_or_bytes(image))
    except DataError:  # an image in memory has none
        return 1


def note_turned_masks(pairs: Iterable[tuple[tuple[int, int], Any]]) -> list[str]:
    """Return a note on the masks that are turned, from (size of a mask, cell of its image).

    Raises DataError if masks are turned and others have the same size either way.
    """
    turned, alike = 0, []
    for size, image in pairs:
        if turn_of_mask(size, image) != 1:
            turned += 1
        elif size == size[::-1] or not swaps_sides(_orientation(image)):
            alike.append(image)
    doubtful = [path_of(image) or "an image" for image in alike if _orientation(image) != 1]
    if turned and doubtful:
        raise DataError(
            f"masks: {turned} ignore the EXIF orientation of their images, and {len(doubtful)} have"
            f" the same size whether they do or not ({listed(doubtful, _SHOWN)}); save these images"
            " upright, without the orientation"
        )
    note = f"masks: {turned} ignore the EXIF orientation of their images, and are turned with them"
    return [note] if turned else []
