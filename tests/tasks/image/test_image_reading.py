"""Every odd picture file is read as what a person sees, or refused with what is wrong with it."""

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
from tasks.image.image_reading import (
    digest_image,
    find_fault,
    looks_like_image,
    picture_size,
    read_image,
)

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


def test_grey_is_read_as_equal_channels() -> None:
    assert pixel(read_image(encoded(Image.new("L", (3, 2), 77), "PNG"))) == (77, 77, 77)
    assert pixel(read_image(encoded(Image.new("1", (3, 2), 1), "PNG"))) == WHITE


def test_cmyk_is_converted() -> None:
    found = pixel(read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")))
    assert found[0] > 230
    assert max(found[1:]) < 40


@pytest.mark.parametrize("dtype", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(dtype: str) -> None:
    deep = Image.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    image = read_image(encoded(deep, dtype))
    assert [pixel(image, x)[0] for x in range(3)] == [0, 128, 255]


def test_floats_from_0_to_1_are_scaled() -> None:
    image = read_image(encoded(Image.fromarray(np.array([[0.0, 1.0]], np.float32)), "TIFF"))
    assert [pixel(image, x)[0] for x in range(2)] == [0, 255]


def test_transparent_parts_become_white() -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    read = read_image(encoded(image, "PNG"))
    assert (pixel(read), pixel(read, 1)) == (RED, WHITE)
    grey = Image.new("LA", (1, 1), (0, 0))
    assert pixel(read_image(encoded(grey, "PNG"))) == WHITE


def test_palette_with_a_transparent_colour_is_read() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    opaque, seen_through = encoded(image, "PNG"), encoded(image, "PNG", transparency=1)
    assert pixel(read_image(opaque), 1) == BLUE
    assert pixel(read_image(seen_through), 1) == WHITE


def test_a_rotated_photo_is_turned_upright() -> None:
    image = Image.new("RGB", (16, 8), WHITE)
    image.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the left of the file is the top of the scene
    read = read_image(encoded(image, "PNG", exif=exif))
    assert read.size == (8, 16)
    opened = Image.open(io.BytesIO(encoded(image, "PNG", exif=exif)))
    assert picture_size(encoded(image, "PNG", exif=exif)) == picture_size(opened) == (16, 8)
    assert (pixel(read, 4, 2), pixel(read, 4, 13)) == (RED, WHITE)


@pytest.mark.parametrize(
    ("kind", "junk"),
    [("JPEG", b"MM\x00*" + struct.pack(">I", 4_000_000) + b"\xff" * 9), ("PNG", b"no note")],
)
def test_a_broken_note_of_rotation_breaks_no_picture(kind: str, junk: bytes) -> None:
    content = encoded(noise(), kind, exif=b"Exif\x00\x00" + junk)
    assert read_image(content).size == (20, 12)
    assert picture_size(content) == (12, 20)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_read(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN)]
    held = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    found = pixel(read_image(held), 4, 4)
    assert found[0] > 200 > found[1]


def test_smallest_and_longest_pictures_are_read() -> None:
    assert read_image(encoded(Image.new("RGB", (1, 1), BLUE), "PNG")).size == (1, 1)
    assert read_image(encoded(Image.new("RGB", (5000, 1), BLUE), "PNG")).size == (5000, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_a_truncated_file_is_broken(kind: str) -> None:
    whole = encoded(noise(size=(200, 200)), kind)
    with pytest.raises(DataError, match=r"is broken|is no picture"):
        read_image(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture in a format"),
        (b"just a text, saved as cat.jpg", "no picture in a format"),
    ],
)
def test_what_is_no_picture_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_image(content)


def test_a_wrong_ending_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(noise(), "PNG"))
    assert read_image(path).tobytes() == noise().tobytes()


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (20000, 20000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match="pixels"):
        read_image(bomb)
    with pytest.raises(DataError, match=r"has 20 x 12 pixels, over the limit of 100 \(task.max_"):
        read_image(encoded(noise(), "PNG"), max_pixels=100)


def test_every_form_of_a_cell_gives_the_same_picture(tmp_path: Path) -> None:
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
    ("value", "said"),
    [
        ("https://example.org/cat.jpg", "is an address, which is not fetched"),
        ({"bytes": None, "path": "http://example.org/cat.jpg"}, "is an address"),
        ("data:image/png;base64,AAAA", "is an address"),
        ("nowhere/cat.jpg", "does not exist"),
        (".", "is no file"),
        (None, "is missing"),
        ("", "is missing"),
        (3, "is int, not a path"),
    ],
)
def test_what_is_no_file_here_is_refused(value: Any, said: str) -> None:
    assert said in str(find_fault(value))
    with pytest.raises(DataError, match=said):
        read_image(value)


def test_a_file_is_looked_at_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"no picture")
    assert find_fault(path)
    path.write_bytes(encoded(noise(), "PNG"))
    assert find_fault(path) is None


def test_a_picture_within_the_users_own_limit_is_read_without_a_warning(tmp_path: Path) -> None:
    """In a process of its own, since pytest has filters of its own."""
    large = tmp_path / "large.png"
    large.write_bytes(encoded(Image.new("1", (10_000, 9_000)), "PNG"))
    code = f"from tasks.image.image_reading import *; print(read_image({str(large)!r}, 90_000_000).size)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(10000, 9000)\n", "")


@pytest.mark.parametrize("given", [np.array, lambda pixels: np.asarray(pixels).tolist()])
def test_an_array_is_a_picture(given: Any) -> None:
    value = given(np.asarray(noise()))
    assert looks_like_image(value)
    assert np.array_equal(np.asarray(read_image(value)), np.asarray(noise()))
    assert picture_size(value) == (12, 20)
    assert digest_image(value) != digest_image(given(np.asarray(noise())[::-1]))
    assert not looks_like_image([[1, 2, 3, 4], [5, 6, 7, 8]])  # boxes
    with pytest.raises(DataError, match=r"float64 \[5, 5\], where uint8 \[H, W\]"):
        read_image(np.zeros((5, 5)))
    with pytest.raises(DataError, match=r"lists of different lengths"):
        read_image([[1, 2, 3, 4, 5], [1, 2, 3, 4]])
