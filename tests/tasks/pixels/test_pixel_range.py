"""One range for all 16-bit and float images of a dataset, and images of any number of bands."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from finetune.errors import DataError
from tasks import ImageClassification
from tasks.image.image_reading import (
    find_fault,
    inspect_header,
    picture_size,
    read_channels,
    read_image,
)
from tasks.image.picture_rows import PictureRows
from tasks.pixels.pixel_range import to_8_bits

DARK, BRIGHT = 1000, 4000


def encoded(pixels: np.ndarray, kind: str = "TIFF") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def flat(value: float, dtype: Any = np.uint16) -> np.ndarray:
    """Return an image of 100 pixels that ranges from 0 to `value`."""
    return np.linspace(0, value, 100).reshape(10, 10).astype(dtype)


def settle(cells: list[Any], **keys: Any) -> tuple[dict[str, Any], list[str]]:
    rows: PictureRows = ImageClassification(image="image", **keys).rows
    return rows.settle_pixels({"image": cell} for cell in cells)


@pytest.mark.parametrize(
    ("dtype", "kind"), [(np.uint16, "TIFF"), (np.uint16, "PNG"), (np.float32, "TIFF")]
)
def test_settle_pixels_chooses_one_range_for_all_deep_images(dtype: Any, kind: str) -> None:
    cells = [encoded(flat(value, dtype), kind) for value in (DARK, BRIGHT)]
    cells.append(encoded(np.zeros((4, 4, 3), np.uint8), "PNG"))
    keys, notes = settle(cells)
    low, high = keys["pixel_range"]
    assert 0 <= low < 20
    assert 3900 < high <= BRIGHT
    assert "2 of 3 images are 16-bit or float" in notes[0]
    dark, bright = (
        np.asarray(read_image(cell, pixel_range=keys["pixel_range"])) for cell in cells[:2]
    )
    assert bright.max() == 255
    assert abs(int(dark.max()) - 255 * DARK / high) < 3  # a quarter as bright, as it is


def test_settle_pixels_leaves_8_bit_images_alone() -> None:
    assert settle([encoded(np.full((4, 4, 3), 9, np.uint8), "PNG"), np.full((5, 5), 9)]) == ({}, [])
    content = encoded(np.full((4, 4, 3), 9, np.uint8), "PNG")
    assert np.asarray(read_image(content, pixel_range=[0, 4])).max() == 9


def test_settle_pixels_keeps_a_configured_range() -> None:
    keys, notes = settle([encoded(flat(DARK))], pixel_range=[0, 2000])
    assert keys == {"pixel_range": [0, 2000]}
    assert "0 to 2000 becomes 0 to 255 in all of them (as configured" in notes[0]
    with pytest.raises(ValidationError, match="must be smaller than the second"):
        ImageClassification(pixel_range=[5, 5])


def test_settle_pixels_names_images_of_several_frames(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif")
    keys, notes = settle([str(tmp_path / name) for name in ("a.gif", "b.gif")])
    assert keys == {}
    assert notes == ["pixels: 1 of 2 images have several frames; the first one is read: a.gif"]


def test_settle_pixels_chooses_a_range_for_each_band() -> None:
    bands = np.stack([flat(DARK), flat(BRIGHT)], axis=-1)
    keys, _ = settle([bands], channels=2)
    (_, first), (_, second) = keys["pixel_range"]
    assert first <= DARK < 3900 < second
    scaled = to_8_bits(bands, keys["pixel_range"])
    assert np.abs(scaled[..., 0].astype(int) - scaled[..., 1]).max() <= 1
    colors = np.stack([flat(DARK)] * 3, axis=-1)
    assert len(settle([colors])[0]["pixel_range"]) == 2  # one range for red, green and blue


def test_to_8_bits_maps_nan_to_the_low_end_and_clips() -> None:
    pixels = np.array([[-5.0, 0.0, 5.0, 10.0, 20.0, np.nan]])
    assert to_8_bits(pixels, [0, 10]).tolist() == [[0, 0, 128, 255, 255, 0]]


def test_deep_arrays_without_a_range_are_valid_but_not_decoded() -> None:
    pixels = flat(1.0, np.float32)
    assert find_fault(pixels) is None
    with pytest.raises(
        DataError, match=r"float32 values from 0 to 1, .*task\.pixel_range=\[0, 65535\]"
    ):
        read_image(pixels)


def test_read_image_reads_npy_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, flat(200, np.uint8))
    assert picture_size(path) == (10, 10)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], flat(200, np.uint8))
    path.write_bytes(b"no array")
    assert "is not a valid .npy file" in str(find_fault(path))
    np.save(path, np.array(["text"], dtype=object), allow_pickle=True)
    assert "is not a valid .npy file" in str(find_fault(path))


@pytest.mark.parametrize("axis", [0, 2])
def test_read_channels_takes_bands_first_or_last(axis: int) -> None:
    bands = np.stack([np.full((6, 7), value, np.uint8) for value in range(5)], axis=axis)
    assert read_channels(bands, 5)[0, 0].tolist() == [0, 1, 2, 3, 4]
    assert "set task.channels" in str(find_fault(bands, channels=4))


def test_settle_pixels_learns_the_range_from_finite_values_only() -> None:
    gaps = flat(DARK, np.float32)
    gaps[0, :2] = np.nan, np.inf
    keys, _ = settle([encoded(gaps)])
    assert np.isfinite(keys["pixel_range"]).all()
    with pytest.raises(DataError, match="no finite value in any of them"):
        settle([encoded(np.full((4, 4), np.nan, np.float32))] * 2)


def test_read_channels_reads_gray() -> None:
    red = encoded(np.full((4, 4, 3), (255, 0, 0), np.uint8), "PNG")
    assert read_channels(red, 1).shape == (4, 4, 1)
    assert read_channels(red, 1)[0, 0, 0] == 76
    deep = encoded(flat(DARK))
    assert read_channels(deep, 1, pixel_range=[0, DARK]).max() == 255


def test_read_channels_reads_bands_of_tiff_files(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    bands = np.random.default_rng(0).integers(0, 4000, (6, 7, 5)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", bands, planarconfig="contig", photometric="minisblack")
    read = read_channels(str(tmp_path / "a.tif"), 5, pixel_range=[0, 4000])
    assert np.array_equal(read, to_8_bits(bands, [0, 4000]))


def test_read_channels_names_the_package_for_bands_of_tiff_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pixels.band_files.find_spec", lambda name: None)
    (tmp_path / "a.tif").write_bytes(encoded(flat(9)))
    assert "pip install 'finetune-kit[bands]'" in str(find_fault(tmp_path / "a.tif", channels=5))


def test_headers_are_read_by_content_and_not_by_suffix(tmp_path: Path) -> None:
    (tmp_path / "deep.jpg").write_bytes(encoded(flat(DARK), "PNG"))
    (tmp_path / "plain.tif").write_bytes(encoded(np.full((4, 4, 3), 9, np.uint8), "JPEG"))
    headers = [inspect_header(str(tmp_path / name)) for name in ("deep.jpg", "plain.tif")]
    assert [header.is_deep for header in headers] == [True, False]


def test_deep_images_are_faults_of_rows_for_a_model_trained_without_a_range() -> None:
    rows: PictureRows = ImageClassification(image="image").rows
    row = {"image": encoded(flat(DARK)), "label": "a"}
    assert not any("16" in fault for fault in rows.validate(row))
    rows.is_trained = True
    assert any("set the range that becomes 0 to 255" in fault for fault in rows.validate(row))
