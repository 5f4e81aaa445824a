"""Decoding of unusual image files, and the messages for files that cannot be decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import DataError
from tasks.image.image_reading import digest_image, find_fault, picture_size, read_image
from tasks.pixels.image_cells import looks_like_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str, **arguments: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **arguments)
    return buffer.getvalue()


def noise(mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> Any:
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def test_read_image_converts_gray_to_equal_channels() -> None:
    assert pixel(read_image(encoded(Image.new("L", (3, 2), 77), "PNG"))) == (77, 77, 77)
    assert pixel(read_image(encoded(Image.new("1", (3, 2), 1), "PNG"))) == WHITE


def test_read_image_converts_cmyk() -> None:
    color = pixel(read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert color[0] > 230
    assert max(color[1:]) < 40


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_read_image_maps_16_bit_gray_from_the_range_of_the_data(kind: str) -> None:
    deep = encoded(Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)), kind)
    image = read_image(deep, pixel_range=[0, 65535])
    assert [pixel(image, x)[0] for x in range(3)] == [0, 128, 255]
    assert find_fault(deep) is None
    with pytest.raises(DataError, match=r"uint16 values from 0 to 65535, .*task\.pixel_range="):
        read_image(deep)


def test_read_image_maps_floats_from_the_range_of_the_data() -> None:
    deep = encoded(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), "TIFF")
    image = read_image(deep, pixel_range=[0, 1])
    assert [pixel(image, x)[0] for x in range(2)] == [0, 255]


def test_read_image_makes_transparent_areas_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    read = read_image(encoded(image, "PNG"))
    assert (pixel(read), pixel(read, 1)) == (RED, WHITE)
    gray = Image.new("LA", (1, 1), (0, 0))
    assert pixel(read_image(encoded(gray, "PNG"))) == WHITE


def test_read_image_reads_a_palette_with_a_transparent_color() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    opaque, transparent = encoded(image, "PNG"), encoded(image, "PNG", transparency=1)
    assert pixel(read_image(opaque), 1) == BLUE
    assert pixel(read_image(transparent), 1) == WHITE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_read_image_applies_the_exif_orientation(kind: str) -> None:
    image = Image.new("RGB", (16, 8), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated camera: the left of the file is the top of the scene
    read = read_image(encoded(image, kind, exif=exif))
    assert read.size == (8, 16)
    opened = Image.open(io.BytesIO(encoded(image, kind, exif=exif)))
    assert picture_size(encoded(image, kind, exif=exif)) == picture_size(opened) == (16, 8)
    assert (pixel(read, 4, 2), pixel(read, 4, 13)) == (RED, WHITE)


@pytest.mark.parametrize(
    ("kind", "junk"),
    [("JPEG", b"MM\x00*" + struct.pack(">I", 4_000_000) + b"\xff" * 9), ("PNG", b"no note")],
)
def test_read_image_ignores_corrupt_exif_data(kind: str, junk: bytes) -> None:
    content = encoded(noise(), kind, exif=b"Exif\x00\x00" + junk)
    assert read_image(content).size == (20, 12)
    assert picture_size(content) == (12, 20)


@pytest.mark.parametrize("path", ["/", "missing.png", "a" * 5000])
def test_picture_size_reports_paths_that_are_no_files(path: str) -> None:
    with pytest.raises(DataError):
        picture_size(path)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_read_image_reads_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    animation = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    color = pixel(read_image(animation), 4, 4)
    assert color[0] > 200 > color[1]


def test_read_image_reads_extreme_sizes() -> None:
    assert read_image(encoded(Image.new("RGB", (1, 1), BLUE), "PNG")).size == (1, 1)
    assert read_image(encoded(Image.new("RGB", (5000, 1), BLUE), "PNG")).size == (5000, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_read_image_rejects_a_truncated_file(kind: str) -> None:
    whole = encoded(noise(size=(200, 200)), kind)
    with pytest.raises(DataError, match=r"is corrupt|is not in a supported"):
        read_image(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not in a supported image format"),
        (b"just a text, saved as cat.jpg", "is not in a supported image format"),
    ],
)
def test_read_image_rejects_other_content(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(content)


def test_read_image_ignores_a_wrong_suffix(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(noise(), "PNG"))
    assert read_image(path).tobytes() == noise().tobytes()


def test_read_image_rejects_decompression_bombs_before_decoding() -> None:
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match="pixels"):
        read_image(bomb)
    with pytest.raises(DataError, match=r"has 20 x 12 pixels, over the limit of 100 \(task.max_"):
        read_image(encoded(noise(), "PNG"), max_pixels=100)


def test_read_image_gives_the_same_image_for_every_form_of_a_cell(tmp_path: Path) -> None:
    content = encoded(noise(), "PNG")
    path = tmp_path / "ä b.png"
    path.write_bytes(content)
    forms: list[Any] = [
        path,
        str(path),
        content,
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        noise(),
    ]
    assert {read_image(form).tobytes() for form in forms} == {noise().tobytes()}
    assert all(map(looks_like_image, forms))
    assert len({digest_image(form) for form in forms[:-1]}) == 1
    assert not any(map(looks_like_image, ["a text", 3, None, {"text": "x"}]))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://example.org/cat.jpg", "is a URL, which is not fetched"),
        ({"bytes": None, "path": "http://example.org/cat.jpg"}, "is a URL"),
        ("data:image/png;base64,AAAA", "is a URL"),
        ("nowhere/cat.jpg", "does not exist"),
        (".", "is not a file"),
        (None, "is missing"),
        ("", "is missing"),
        (3, "is int, not a path"),
    ],
)
def test_find_fault_reports_cells_without_a_readable_file(value: Any, message: str) -> None:
    assert message in str(find_fault(value))
    with pytest.raises(DataError, match=message):
        read_image(value)


def test_find_fault_checks_a_changed_file_again(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"not an image")
    assert find_fault(path)
    path.write_bytes(encoded(noise(), "PNG"))
    assert find_fault(path) is None


def test_read_image_does_not_warn_within_a_raised_limit(tmp_path: Path) -> None:
    """Runs in a process of its own, since pytest installs its own warning filters."""
    large = tmp_path / "large.png"
    large.write_bytes(encoded(Image.new("1", (10_000, 9_000)), "PNG"))
    code = f"from tasks.image.image_reading import *; print(read_image({str(large)!r}, 9 * 10**7).size)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("(10000, 9000)\n", "")


@pytest.mark.parametrize("convert", [np.array, lambda pixels: np.asarray(pixels).tolist()])
def test_read_image_reads_arrays_and_nested_lists(convert: Any) -> None:
    value = convert(np.asarray(noise()))
    assert looks_like_image(value)
    assert np.array_equal(np.asarray(read_image(value)), np.asarray(noise()))
    assert picture_size(value) == (12, 20)
    assert digest_image(value) != digest_image(convert(np.asarray(noise())[::-1]))
    assert not looks_like_image([[1, 2, 3, 4], [5, 6, 7, 8]])  # boxes
    with pytest.raises(
        DataError, match=r"array uint8 \[5, 5, 7\]; \[H, W\] or \[H, W, 3\] is needed"
    ):
        read_image(np.zeros((5, 5, 7), np.uint8))
    with pytest.raises(DataError, match=r"lists of different lengths"):
        read_image([[1, 2, 3, 4, 5], [1, 2, 3, 4]])
