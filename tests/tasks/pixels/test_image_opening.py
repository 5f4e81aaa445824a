"""HEIC photos, with and without the package that reads them."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from finetune.errors import DataError
from tasks.image.image_reading import find_fault, picture_size, read_image
from tasks.pixels.image_cells import looks_like_image

HEADER = b"\x00\x00\x00\x1cftypheic" + bytes(20)


def test_heic_without_its_package_is_a_fault_with_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pixels.image_opening.find_spec", lambda name: None)
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(HEADER)
    assert looks_like_image(path)
    assert "is a HEIC image" in str(find_fault(path))
    with pytest.raises(DataError, match=r"pip install 'finetune-kit\[heic\]'"):
        picture_size(path)


@pytest.mark.skipif(find_spec("pillow_heif") is None, reason="needs pillow-heif")
def test_heic_is_read_with_its_package() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener()
    buffer = io.BytesIO()
    Image.new("RGB", (20, 12), (255, 0, 0)).save(buffer, "HEIF")
    assert read_image(buffer.getvalue()).getpixel((3, 3))[0] > 240
    assert picture_size(buffer.getvalue()) == (12, 20)
