"""Bands of a TIFF image, from the tags of its first page, which Pillow may not be able to open.

A fourth band is transparency only if the file says so: satellite images have near infrared there.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import TiffImagePlugin

_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_LONG = b"+"  # in the mark of a BigTIFF, whose header has 16 bytes
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _SAMPLES = 256, 257, 258, 262, 277
_EXTRA, _FORMAT = 338, 339
_ALPHA = (1, 2)  # values of ExtraSamples
_WHITE_IS_ZERO, _CMYK = 0, 5  # values of PhotometricInterpretation
_SIGNED, _FLOAT = 2, 3  # values of SampleFormat
_COLORS = (1, 3)  # bands of gray and of RGB


class TiffLayout(NamedTuple):
    """The layout of a page.

    Attributes:
        size: (H, W) as stored.
        bands: bands other than transparency.
        samples: all bands.
        is_deep: True for values of more than 8 bits or floats.
        misread: what Pillow reads as other values; "" if there is nothing.
    """

    size: tuple[int, int]
    bands: int
    samples: int
    is_deep: bool
    misread: str = ""

    @property
    def is_color(self) -> bool:
        """True for gray and RGB, with or without transparency."""
        return self.bands in _COLORS

    @property
    def fault(self) -> str:
        """The fault of an image that is read as gray or RGB; "" if it is one."""
        if self.misread:
            return f"has {self.misread}, which are not read; save them as uint8, uint16 or float32"
        if self.is_color:
            return ""
        return (
            f"has {self.samples} bands, which are neither gray nor RGB;"
            f" task.channels={self.samples} reads all of them"
        )


def tiff_layout(source: Path | bytes) -> TiffLayout | None:
    """Return the layout of a TIFF image; None for other files and for corrupt ones."""
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
            header = file.read(8)
            if not header.startswith(_MARKS):
                return None
            header += file.read(8) if _LONG in header[2:4] else b""
            tags: Any = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(tags.next)
            tags.load(file)
            return _layout(tags)
    except Exception:  # of corrupt tags, which decoding reports
        return None


def _layout(tags: Any) -> TiffLayout:
    samples = int(tags.get(_SAMPLES, 1))
    extra = tags.get(_EXTRA, ())
    alpha = sum(kind in _ALPHA for kind in extra)
    is_cmyk = tags.get(_PHOTOMETRIC) == _CMYK
    formats, bits = tuple(tags.get(_FORMAT, ())), max(tags.get(_BITS, (8,)))
    is_deep, misread = _FLOAT in formats or bits > 8, ""
    if _SIGNED in formats and bits <= 8:
        misread = "values of type int8"
    elif is_deep and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        misread = "values of more than 8 bits whose 0 is white"
    return TiffLayout(
        (int(tags[_HEIGHT]), int(tags[_WIDTH])),
        3 if is_cmyk and samples - alpha == 4 else samples - alpha,
        samples,
        is_deep,
        misread,
    )
