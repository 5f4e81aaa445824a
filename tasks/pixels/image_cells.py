"""Cells of an image column: which values may be images, and the path, bytes or array of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from finetune.config.formats import IMAGE_ENDINGS
from finetune.config.text_files import is_special
from finetune.errors import DataError

_URL = re.compile(r"^[a-z][a-z0-9+.-]+://|^data:", re.IGNORECASE)


def looks_like_image(value: Any) -> bool:
    """True if a cell may be an image: a path (by its suffix), bytes, an array, a stored or a PIL
    image.
    """
    if isinstance(value, str | Path):
        suffix = Path(value).suffix.lower()
        return suffix in IMAGE_ENDINGS or suffix in Image.registered_extensions()
    is_stored = isinstance(value, Mapping) and {"bytes", "path"} <= value.keys()
    return is_stored or isinstance(value, bytes | Image.Image) or is_array(value)


def path_of(value: Any) -> str | None:
    """Return the path that an image is read from, or None if it is not read from a file."""
    if isinstance(value, Mapping) and value.get("bytes") is None:
        value = value.get("path")
    return str(value) if isinstance(value, str | Path) and not _URL.match(str(value)) else None


def is_array(value: Any) -> bool:
    """True if a cell is an array [H, W, ...], or nested lists as `datasets` stores one.

    Nested lists with fewer than 5 values in a list are boxes, not an array.
    """
    if isinstance(value, list):
        return (
            bool(value)
            and isinstance(value[0], list)
            and (len(value[0]) > 4 and isinstance(value[0][0], int | list))
        )
    return isinstance(value, np.ndarray)


def to_array(value: Any) -> NDArray[Any]:
    """Convert a cell that `is_array` to NumPy. Raises DataError for rows of different lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise DataError("is a list of lists of different lengths, not an array") from error


def file_or_bytes(value: Any) -> Path | bytes:
    """Return the file or the bytes of a cell. Raises DataError if it is neither."""
    if isinstance(value, Mapping):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str) and _URL.match(value):
        raise DataError("is a URL, which is not fetched; download it and give the path")
    if "\0" in str(value):
        raise DataError("is not a path: it contains a NUL character")
    if isinstance(value, str | Path) and str(value).strip():
        path = Path(value).expanduser()
        if is_special(path):
            raise DataError("is a pipe or a device, not a file")
        return path
    if value is None or value == "":
        raise DataError("is missing")
    raise DataError(
        f"is {type(value).__name__}, not a path, bytes, a PIL image or an array of integers"
    )


def check_not_empty(source: Path | bytes) -> None:
    """Raise DataError for a file that is missing or cannot be read, and for no bytes."""
    size = len(source) if isinstance(source, bytes) else _file_size(source)
    if not size:
        raise DataError("is empty (0 bytes)")


def _file_size(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    raise DataError("is not a file" if path.exists() else "does not exist")
