"""Decoding of masks from image files, .npy files, arrays and COCO objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import ConfigError, DataError
from tasks.mask_sources.mask_files import find_facts, read_mask
from tasks.masks.mask_coding import MaskCoding, learn_coding
from tests.support.masks import MASK, learn, to_classes
from tests.support.tiny_scenes import save_mask


@pytest.mark.parametrize("name", ["index.png", "values.npy", "palette.png", "deep.png", "gray.png"])
def test_read_mask_gives_the_same_values_for_every_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "palette.png":
        image = Image.fromarray(MASK.astype(np.uint8))
        image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
        image.save(path)
        assert Image.open(path).mode == "P"
    elif name == "deep.png":
        Image.fromarray(MASK.astype(np.uint16)).save(path)
    elif name == "gray.png":
        Image.fromarray(MASK.astype(np.uint8)).convert("RGB").save(path)
    else:
        save_mask(path, MASK)
    for cell in (str(path), {"bytes": path.read_bytes(), "path": None}):
        coding = learn(cell)
        assert coding.names == ("class 0", "class 1", "class 2")
        assert to_classes(coding, cell) == MASK.tolist()
        assert coding == MaskCoding.from_state(json.loads(json.dumps(coding.state())))


def test_read_mask_accepts_arrays(tmp_path: Path) -> None:
    large = np.kron(MASK, np.ones((2, 2), int))
    for cell in (large, large.astype(np.uint8), large.tolist(), large[..., None].tolist()):
        assert to_classes(learn(cell), cell) == large.tolist()
    with pytest.raises(DataError, match="is list, not a path, .* an array of integers"):
        read_mask((large / 1).tolist())


def test_read_mask_reads_a_palette_as_colors_if_asked(tmp_path: Path) -> None:
    image = Image.fromarray(MASK.astype(np.uint8))
    image.putpalette([9, 9, 9, 200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.png")
    facts = [find_facts(str(tmp_path / "a.png"), as_colors=True)]
    labels = {"car": "#c80000", "ground": [9, 9, 9], "tree": "#0000c8"}
    coding = learn_coding(facts, labels, None, "color")
    values, _ = read_mask(str(tmp_path / "a.png"), as_colors=True)
    assert coding.classes(values).tolist() == np.array([1, 0, 2])[MASK].tolist()


def test_read_mask_rejects_files_that_are_not_masks(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3))
    with pytest.raises(DataError, match="too many for a mask; JPEG compression"):
        learn(str(save_mask(tmp_path / "noise.png", noise)))
    with pytest.raises(DataError, match="integers"):
        learn(str(save_mask(tmp_path / "a.npy", MASK / 2)))
    with pytest.raises(DataError, match="contain only class 0"):
        learn(str(save_mask(tmp_path / "empty.png", MASK * 0)))
    for content, message in (
        (b"", "is empty"),
        (b"\x89PNG no", "is not in a supported image format"),
    ):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_mask(str(tmp_path / "broken.png"))
    with pytest.raises(ConfigError, match="'red' is not a mask value"):
        learn(str(tmp_path / "a.png"), labels={"a": "red"}) if save_mask(
            tmp_path / "a.png", MASK
        ) else None


def test_find_facts_rejects_a_jpeg(tmp_path: Path) -> None:
    Image.fromarray((np.eye(30) * 255).astype(np.uint8)).save(tmp_path / "a.jpg")
    with pytest.raises(
        DataError, match="JPEG compression destroys the values of a mask: save it as PNG"
    ):
        learn(str(tmp_path / "a.jpg"))
