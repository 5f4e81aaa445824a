"""Large JPEGs are decoded at a reduced size for training, and at their own for everything else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from finetune.config.schema import ModelConfig
from finetune.errors import DataError
from tasks import ImageClassification
from tasks.image.image_reading import read_channels, read_image
from tasks.image.preprocessing import Preprocessing
from tests.support.contract import resolve

WIDTH, HEIGHT, INPUT = 800, 640, 40


def photo(mode: str = "RGB", kind: str = "JPEG", **options: Any) -> bytes:
    """Return a picture with edges and noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(float)
    noisy = (smooth + rng.normal(0, 5, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).convert(mode).save(file, kind, **options)
    return file.getvalue()


def resized(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image.resize((INPUT, INPUT), Image.Resampling.BILINEAR)).astype(int)


def test_reduced_jpeg_resizes_to_the_same_picture_but_for_one_level() -> None:
    content = photo(quality=92)
    whole, reduced = read_image(content), read_image(content, enough=4 * INPUT)
    assert (whole.size, reduced.size) == ((WIDTH, HEIGHT), (200, 160))
    assert np.abs(resized(whole) - resized(reduced)).max() <= 1


@pytest.mark.parametrize(
    ("content", "enough"),
    [
        (photo(quality=92), 350),  # a half has 320
        (photo(kind="PNG"), 100),
        (photo(kind="WEBP"), 100),
        (photo("CMYK"), 100),
    ],
)
def test_other_images_keep_their_size(content: bytes, enough: int) -> None:
    assert read_image(content, enough=enough).size == (WIDTH, HEIGHT)


def test_reduced_jpeg_is_upright_and_may_be_gray() -> None:
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    assert read_image(photo(exif=exif), enough=160).size == (160, 200)
    assert read_channels(photo("L"), 3, enough=160).shape == (160, 200, 3)
    with pytest.raises(DataError, match="over the limit"):
        read_image(photo(), max_pixels=10**5, enough=100)


def test_training_reads_reduced_jpegs_and_evaluation_whole_ones(
    vision_networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[tuple[int, int]]()
    fit = Preprocessing.fit
    monkeypatch.setattr(
        Preprocessing, "fit", lambda self, image: sizes.append(image.shape[-2:]) or fit(self, image)
    )
    rows = [{"image": {"bytes": photo(), "path": "a.jpg"}, "label": name} for name in ("a", "b")]
    task = ImageClassification(augmentation="none", horizontal_flip=0.5, image_size=INPUT)
    resolve(task, Dataset.from_list(rows)[:2])
    source = ModelConfig(name=str(vision_networks["resnet"]))
    task.setup(Dataset.from_list(rows), source, frozen=False)
    task.encode(rows[0], np.random.default_rng(0))
    task.encode(rows[0])
    assert sizes == [(160, 200), (HEIGHT, WIDTH)]
