"""Bands of TIFF and .npy files: none is lost, and none is taken for transparency by its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from tasks.image.image_reading import (
    find_fault,
    inspect_header,
    picture_size,
    read_image,
    read_unscaled,
)

tifffile = pytest.importorskip("tifffile")

CONTIGUOUS: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
SEPARATE: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate"}


def make_bands(count: int, dtype: str) -> np.ndarray:
    return np.arange(4 * 6 * count).reshape(4, 6, count).astype(dtype)


@pytest.mark.parametrize("layout", [CONTIGUOUS, SEPARATE])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [2, 4, 7])
def test_all_bands_of_a_tiff_are_read_or_it_is_refused(
    count: int, dtype: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    pixels = make_bands(count, dtype)
    path = tmp_path / "a.tif"
    stored = pixels if layout is CONTIGUOUS else np.moveaxis(pixels, -1, 0)
    tifffile.imwrite(path, stored, **layout)
    for cell in (str(path), path.read_bytes()):
        assert np.array_equal(read_unscaled(cell, count), pixels)
        assert f"has {count} bands" in str(find_fault(cell))
        assert f"task.channels={count}" in str(find_fault(cell, channels=1))
        with pytest.raises(DataError, match="neither gray nor RGB"):
            read_image(cell, pixel_range=[0, 1])
        assert picture_size(cell) == (4, 6)
        assert inspect_header(cell).is_deep == (dtype != "uint8")


def test_transparency_that_a_tiff_states_is_read_as_such(tmp_path: Path) -> None:
    pixels = make_bands(4, "uint8")
    pixels[..., 3] = 0
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"])
    assert find_fault(str(tmp_path / "a.tif")) is None
    assert (np.asarray(read_image(str(tmp_path / "a.tif"))) == 255).all()


def test_colors_of_an_array_file_may_be_its_first_axis(tmp_path: Path) -> None:
    pixels = make_bands(3, "uint8")
    np.save(tmp_path / "a.npy", np.moveaxis(pixels, -1, 0))
    path = str(tmp_path / "a.npy")
    assert np.array_equal(np.asarray(read_image(path)), pixels)
    assert picture_size(path) == (4, 6)
    np.save(tmp_path / "b.npy", make_bands(4, "uint16"))
    assert "set task.channels to its number of bands" in str(find_fault(str(tmp_path / "b.npy")))


@pytest.mark.parametrize(
    ("dtype", "photometric", "fault"),
    [("int8", "minisblack", "type int8"), ("uint16", "miniswhite", "whose 0 is white")],
)
def test_values_that_pillow_would_read_as_others_are_refused(
    dtype: str, photometric: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, make_bands(1, dtype)[..., 0], photometric=photometric)
    assert fault in str(find_fault(str(path)))
    tifffile.imwrite(path, make_bands(1, "uint8")[..., 0], photometric=photometric)
    assert find_fault(str(path)) is None
