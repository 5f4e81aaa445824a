"""Networks of other than three channels, and deep images, from training to prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image

import finetune
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError, ModelError
from finetune.testing import check_task
from tasks import ImageClassification
from tasks.image.augmentation import Augmentation
from tasks.image.image_config import settle_augmentation
from tasks.image.preprocessing import Preprocessing
from tests.support.image_classifiers import set_up_classifier, train_classifier
from tests.support.tiny_vision import shape_rows


def band_rows(count: int = 12, bands: int = 5) -> list[dict[str, Any]]:
    """Make rows of uint16 images of several bands; the class is how bright they are."""
    rng = np.random.default_rng(0)
    return [
        {
            "image": (rng.random((36, 40, bands)) * 2000 * (1 + index % 2)).astype(np.uint16),
            "label": "ab"[index % 2],
        }
        for index in range(count)
    ]


@pytest.mark.parametrize("name", ["resnet", "timm-vit"])
def test_gray_network_passes_check_task(name: str, vision_networks: dict[str, Path]) -> None:
    check_task(ImageClassification(channels=1), shape_rows(), str(vision_networks[name]))


def test_network_of_several_bands_passes_check_task(vision_networks: dict[str, Path]) -> None:
    check_task(ImageClassification(channels=5), band_rows(), str(vision_networks["resnet"]))


def test_gray_network_is_reloaded_by_timm_and_by_the_kit(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"channels": 1, "method": "full"}
    run = train_classifier(vision_networks["resnet"], shape_images, tmp_path / "run", **keys)
    final = run.path / "final"
    network = timm.create_model(f"local-dir:{final}", pretrained=True)
    assert next(network.parameters()).shape[1] == 1
    assert json.loads((final / "config.json").read_text())["pretrained_cfg"]["input_size"][0] == 1
    assert "convert" not in (final / "README.md").read_text()  # no code that would read RGB
    task, _ = set_up_classifier(final)  # as the pretrained network of another run
    assert task.resolved_.channels == 1
    assert task.encode(shape_rows(1)[0])["inputs"]["pixel_values"].shape[0] == 1


def test_deep_images_are_predicted_with_the_range_of_training(
    vision_networks: dict[str, Path], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for index in range(16):
        pixels = (rng.random((36, 40)) * 1500 * (1 + index % 2)).astype(np.uint16)
        path = tmp_path / "data" / "ab"[index % 2] / f"{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    run = train_classifier(vision_networks["resnet"], tmp_path / "data", tmp_path / "run")
    task = finetune.load(run.path).trained_task
    low, high = task.resolved_.pixel_range
    assert 0 <= low < 50
    assert 2900 < high < 3000
    dark, bright = (
        task.rows.pixels({"image": str(tmp_path / "data" / name)})
        for name in ("a/0.tif", "b/1.tif")
    )
    assert dark.max() < 135 < 250 < bright.max()


@pytest.mark.parametrize("task", ["segmentation", "object-detection"])
def test_deep_images_get_a_range_in_other_tasks(
    task: str, vision_networks: dict[str, Path], scenes: Path, tmp_path: Path
) -> None:
    for path in sorted(shutil.copytree(scenes, tmp_path / "scenes").rglob("images/*")):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L")).astype(np.uint16) * 12
        Image.fromarray(pixels).save(path, "PNG")
    run = finetune.train(
        task,
        model=str(vision_networks["efficientnet"]),
        data={"source": str(tmp_path / "scenes"), "validation": "test"},
        output=str(tmp_path / "run"),
        max_steps=1,
        **{"task.tile": 64, "task.image_size": None if task == "segmentation" else 64},
    )
    low, high = run.predictor.trained_task.resolved_.pixel_range
    assert 0 <= low < high <= 12 * 255
    image = next(iter(sorted((tmp_path / "scenes" / "test").rglob("images/*"))))
    assert run.predictor([str(image)])


def test_deep_images_are_refused_by_a_model_of_8_bit_images(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"method": "frozen", "epochs": 1}
    run = train_classifier(vision_networks["resnet"], shape_images, tmp_path / "run", **keys)
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep.png' has uint16 values .*not 8-bit ones"):
        run.predictor([str(tmp_path / "deep.png")])
    predictor = finetune.load(run.path, pixel_range=[0, 4000])
    assert predictor([str(tmp_path / "deep.png")])


def test_channels_need_a_network_of_timm(vision_networks: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"task\.channels=1: .*use a network of timm"):
        set_up_classifier(vision_networks["vit"], channels=1)


def test_channels_adapt_weights_of_a_file(vision_networks: dict[str, Path]) -> None:
    weights = str(vision_networks["resnet"] / "model.safetensors")
    source = ModelConfig(name="timm/test_resnet", weights=weights)
    _, rgb = set_up_classifier(source, image_size=32)
    _, gray = set_up_classifier(source, image_size=32, channels=1)
    first = [next(model.network.parameters()).detach().numpy() for model in (rgb, gray)]
    np.testing.assert_allclose(first[1][:, 0], first[0].sum(1), rtol=1e-5, atol=1e-6)


def test_colors_of_other_bands_are_not_augmented() -> None:
    preprocessing = Preprocessing((32, 32), None).with_channels(5)
    keys, _ = settle_augmentation(ImageClassification(augmentation="medium").config, frozen=False)
    config = ImageClassification(**keys).config
    with pytest.raises(ConfigError, match=r"images have 5 bands; write task\.augmentation=light"):
        Augmentation(config, preprocessing)
