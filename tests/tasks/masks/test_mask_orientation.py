"""Masks of images with an EXIF orientation: drawn on the stored image, or with an orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.errors import DataError
from tasks import Segmentation
from tests.support.annotated_sets import MASK, open_set, read_classes, save_masks, save_picture


def upright_mask(orientation: int) -> list[list[int]]:
    """Return the mask as Pillow shows it upright."""
    image = Image.fromarray(MASK)
    image.getexif()[0x0112] = orientation
    turned = ImageOps.exif_transpose(image)
    return np.asarray(turned).tolist()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_masks_of_stored_images_are_turned_with_them(orientation: int, tmp_path: Path) -> None:
    save_picture(tmp_path / "images/1.jpg", orientation=orientation)
    save_masks(tmp_path / "masks", ["1.png"])
    (mask,), _ = read_classes(tmp_path)
    assert mask == upright_mask(orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_with_an_orientation_of_their_own_are_read_upright(
    orientation: int, tmp_path: Path
) -> None:
    save_picture(tmp_path / "images/1.jpg", orientation=orientation)
    (tmp_path / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(MASK).save(tmp_path / "masks/1.png", exif=exif)
    assert read_classes(tmp_path)[0] == [upright_mask(orientation)]


def test_turned_masks_are_counted_and_doubtful_ones_refused(tmp_path: Path) -> None:
    for name, orientation in (("1", 6), ("2", 1)):
        save_picture(tmp_path / f"images/{name}.jpg", orientation=orientation)
    save_masks(tmp_path / "masks", ["1.png", "2.png", "3.png"])
    masks = Segmentation(image="image", mask="mask").rows.masks
    rows = open_set(Segmentation(), tmp_path).train
    facts = [masks.facts(row) for row in rows]
    (note,) = masks.note_turned(rows, facts)
    assert note.startswith("masks: 1 ignore the EXIF orientation of their images")
    save_picture(tmp_path / "images/3.jpg", orientation=3)  # alike in size either way
    rows = open_set(Segmentation(), tmp_path).train
    with pytest.raises(DataError, match="1 have the same size whether they do or not .*3.jpg"):
        masks.note_turned(rows, [masks.facts(row) for row in rows])


def test_areas_of_a_turned_mask_are_those_of_its_image(tmp_path: Path) -> None:
    save_picture(tmp_path / "images/1.jpg", orientation=6)
    save_masks(tmp_path / "masks", ["1.png"])
    task = Segmentation(tile=16)
    splits = open_set(task, tmp_path, validation=0.25)
    assert splits.validation is not None
    parts = [np.load(_file(row)) for row in (splits.train[0], splits.validation[0])]
    assert np.concatenate(parts).tolist() == upright_mask(6)


def _file(row: dict[str, dict[str, bytes]]) -> object:
    import io

    return io.BytesIO(row["mask"]["bytes"])
