"""Images of 16-bit and float colors, read in full."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.errors import DataError
from tasks import ImageClassification
from tasks.image.image_reading import (
    find_fault,
    inspect_header,
    picture_size,
    read_channels,
    read_image,
    read_unscaled,
)

COLORS = np.random.default_rng(0).integers(0, 4096, (4, 6, 3), dtype=np.uint16)
RANGE = [0, 4095]


def encode_png(values: NDArray[np.uint16]) -> bytes:
    """Return a PNG of 16 bits per channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def write_deep(path: Path, values: Any, **keys: Any) -> Path:
    if path.suffix == ".png":
        path.write_bytes(encode_png(values))
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, values, photometric="rgb", **keys)
    return path


def write_planes(path: Path) -> Path:
    return write_deep(path, np.moveaxis(COLORS, -1, 0), planarconfig="separate")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "float.tif", "planes.tif", "frames.tif"])
def test_deep_colors_are_read_in_full(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "planes.tif":
        write_planes(path)
    elif name == "frames.tif":
        write_deep(path, np.stack([COLORS, 0 * COLORS]))
    else:
        write_deep(path, COLORS.astype(np.float32) if name == "float.tif" else COLORS)
    expected = np.round(COLORS / 4095 * 255).astype(np.uint8)
    for cell in (str(path), path.read_bytes()):
        assert np.array_equal(read_unscaled(cell), COLORS)
        assert np.array_equal(np.asarray(read_image(cell, pixel_range=RANGE)), expected)
        assert picture_size(cell) == (4, 6)
        assert inspect_header(cell).is_deep
        assert find_fault(cell) is None


def test_deep_colors_without_a_range_name_the_key(tmp_path: Path) -> None:
    path = write_deep(tmp_path / "a.png", COLORS)
    with pytest.raises(DataError, match=r"uint16 values from .* set .*task.pixel_range=\[0, 65535"):
        read_image(str(path))


def test_deep_colors_are_converted_to_gray_and_given_as_bands(tmp_path: Path) -> None:
    alpha = np.concatenate([COLORS, COLORS[..., :1]], axis=-1)
    path = str(write_deep(tmp_path / "a.png", alpha))
    assert np.array_equal(read_unscaled(path, 4), alpha)
    gray = read_unscaled(str(write_deep(tmp_path / "b.png", COLORS)), 1)
    assert np.array_equal(gray[..., 0], (COLORS @ [0.299, 0.587, 0.114]).round())


def test_transparent_deep_colors_are_white(tmp_path: Path) -> None:
    alpha = np.zeros((4, 6, 1), np.uint16)
    for colors in (COLORS, COLORS[..., :1]):
        path = write_deep(tmp_path / "a.png", np.concatenate([colors, alpha], axis=-1))
        assert (read_channels(str(path), 3, pixel_range=[0, 65535]) == 255).all()


def test_deep_colors_have_one_range_for_the_dataset(tmp_path: Path) -> None:
    write_deep(tmp_path / "a.png", COLORS)
    write_deep(tmp_path / "b.png", COLORS // 4)
    rows = ImageClassification(image="image", label="label").rows
    resolved = rows.settle_pixels([{"image": str(tmp_path / f"{name}.png")} for name in "ab"])
    low, high = resolved.keys["pixel_range"]
    assert low < 50 and high > 3500
    assert resolved.notes[0].startswith("pixels: 2 of 2 images are 16-bit or float")


@pytest.mark.parametrize("size", [0, 30, 60])
def test_truncated_deep_colors_are_corrupt(size: int, tmp_path: Path) -> None:
    content = encode_png(COLORS)[: size or -30]
    faults = ("is corrupt", "is not in a supported image format")
    assert str(find_fault(content)).startswith(faults)
    (tmp_path / "a.png").write_bytes(content)
    assert str(find_fault(str(tmp_path / "a.png"))).startswith(faults)


def test_too_large_deep_colors_are_refused_before_they_are_decoded() -> None:
    assert "has 6 x 4 pixels, over the limit of 20" in str(find_fault(encode_png(COLORS), 20))


def test_deep_colors_of_tiff_name_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_planes(tmp_path / "a.tif")
    monkeypatch.setattr("tasks.pixels.band_files.find_spec", lambda name: None)
    content = path.read_bytes() + b"\0"  # not known to be valid, as that of another test may be
    assert "pip install 'finetune-kit[bands]'" in str(find_fault(content))
