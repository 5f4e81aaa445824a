"""Reading of text and JSON files that a person, another program or a power cut may have changed.

JSON of a known shape is checked by pydantic as it is read, so that a file that was cut off, edited
or written by another program ends in one message that names the key, and not in the code that uses
the value.
"""

from __future__ import annotations

import json
import re
import stat
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

MOST_BYTES = 2**29
"""Size of the largest file that is read at once."""


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a UTF-8 file. Raises OSError if it is not a readable regular file, else ValueError."""
    check_regular(path)
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{size / 2**20:.1f} MiB are too large for a file of this kind")
    return path.read_text(encoding="utf-8-sig")


def check_regular(path: Path) -> None:
    """Raise OSError for a missing path, a folder, a pipe or a device."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError("this is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise OSError("this is a pipe or a device, not a file")


def is_url(path: str) -> bool:
    """True for a URL such as s3://bucket/path, also one that a Path has left with a single slash.

    A letter alone before the colon is a drive of Windows.
    """
    return re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE) is not None


def is_special(path: Path) -> bool:
    """True for a pipe, which can block forever, and for a device, which may have no end."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # reading it reports the error
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def parse_json(text: str) -> Any:
    """Parse JSON. Raises ValueError, also for values that are nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json_as(shape: Any, path: Path) -> Any:
    """Read a JSON file and check its shape. Raises OSError or ValueError."""
    value = parse_json(read_text(path))
    validate_as(shape, value)
    return value


def validate_as(shape: Any, value: Any) -> Any:
    """Return the value as an object of a type. Raises ValueError that names the first wrong key."""
    try:
        return _adapter(shape).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise ValueError(": ".join(filter(None, [place, message]))) from None


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
