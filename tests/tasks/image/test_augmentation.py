"""Image augmentation: reproducible draws, presets, MixUp and CutMix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from finetune.batching.data_loader import Split, load_batches
from finetune.batching.plan import TrainPlan
from finetune.config.loading import load_config
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.registry import INSTALLED
from tasks.image.augmentation import mix
from tasks.image.image_config import PRESETS
from tasks.image.preprocessing import INPUT
from tasks.image_classification import ImageClassification, ImageClassificationConfig
from tests.support.contract import resolve
from tests.support.lives import digest
from tests.support.tiny_vision import SIZE, shape_rows, tiny_timm

HEAVY: dict[str, Any] = {
    "augmentation": "heavy",
    "trivial_augment": True,
    "vertical_flip": 0.5,
    "random_erasing": 1.0,
}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_timm(tmp_path_factory.mktemp("models") / "resnet")


def ready(network: Path, **keys: Any) -> tuple[ImageClassification, datasets.Dataset]:
    """Set up a task; also return its rows."""
    rows = datasets.Dataset.from_list(shape_rows(24))
    rows = rows.cast_column("image", datasets.Image(decode=False))
    task = ImageClassification(**keys)
    resolve(task, rows[:10])
    task.setup(rows, ModelConfig(name=str(network)), frozen=False)
    return task, rows


def batches(network: Path, workers: int, start: int = 0, stop: int = 6) -> Iterator[str]:
    """Yield digests of the batches of some steps."""
    task, rows = ready(network, **HEAVY)
    lengths = np.ones(len(rows), dtype=np.int64)
    plan = TrainPlan(lengths, 8, 4, seed=3)
    split = Split("train", rows, lengths)
    micro_batches = [each for step in range(start, stop) for each in plan.micro_batches(step, 0)]
    device = torch.device("cpu")
    for _, batch in load_batches(
        split, task, micro_batches, seed=3, device=device, workers=workers
    ):
        yield digest(batch)


def test_augmentation_is_independent_of_workers_and_resuming(network: Path) -> None:
    whole = list(batches(network, 0))
    assert len(set(whole)) == 12  # two micro-batches per step, and new draws in the second epoch
    assert list(batches(network, 2)) == whole
    assert list(batches(network, 2, start=4)) == whole[8:]


def test_augmentation_leaves_the_global_generator_unchanged(network: Path) -> None:
    task, rows = ready(network, **HEAVY)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    task.encode(rows[0], np.random.default_rng(0))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_augment_images_except_none(network: Path, preset: str) -> None:
    task, rows = ready(network, augmentation=preset)
    assert task.augments == (preset != "none")
    plain = task.encode(rows[0])["inputs"][INPUT]
    drawn = [task.encode(rows[0], np.random.default_rng(n))["inputs"][INPUT] for n in range(4)]
    assert all(view.shape == (3, SIZE, SIZE) and view.dtype == torch.float32 for view in drawn)
    assert [torch.equal(view, plain) for view in drawn] == [preset == "none"] * 4


def test_augmentation_keys_override_the_preset(network: Path) -> None:
    task, _ = ready(network, augmentation="heavy", mixup=0.0, cutmix=0.0, rand_augment=0)
    assert (task.resolved_.mixup, task.resolved_.random_erasing) == (0.0, 0.25)
    alone, rows = ready(network, augmentation="none", horizontal_flip=1.0)
    flipped = alone.encode(rows[0], np.random.default_rng(0))["inputs"][INPUT]
    assert torch.equal(flipped, alone.encode(rows[0])["inputs"][INPUT].flip(2))


def test_augmentation_defaults_to_none_for_a_frozen_backbone(network: Path) -> None:
    rows = datasets.Dataset.from_list(shape_rows(24))
    task = ImageClassification()
    resolve(task, rows[:10])
    notes = task.setup(rows, ModelConfig(name=str(network)), frozen=True)
    assert "augmentation: none, for a frozen backbone" in notes
    assert not task.augments


def test_augmentation_config_reports_invalid_values_by_key() -> None:
    keys = {"task": "image-classification", "model": "x", "horizontal_flip": 2, "augmentation": "x"}
    with pytest.raises(ConfigError, match=r"task\.horizontal_flip: 2") as caught:
        load_config(None, keys, replace(INSTALLED, task=lambda _: ImageClassificationConfig))
    assert "task.augmentation: 'x'" in str(caught.value)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mix_blends_images_with_partners_by_share(name: str) -> None:
    config = ImageClassificationConfig(**{name: 1.0})
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).contiguous()
    for seed in range(5):
        mixed, partners = mix(images, config, np.random.default_rng(seed))
        assert partners is not None
        expected = partners.share * images + (1 - partners.share) * images[partners.partners]
        # The share of CutMix is an area, so only the mean of an image is a blend.
        torch.testing.assert_close(mixed.mean((1, 2, 3)), expected.mean((1, 2, 3)))
        assert 0 <= partners.share <= 1
    assert mix(images[:1], config, np.random.default_rng(0))[1] is None


def test_loss_of_a_mixed_batch_weights_both_targets_by_share(network: Path) -> None:
    task, rows = ready(network, augmentation="none", mixup=1.0, class_weights="balanced")
    samples = [task.encode(row) for row in rows.select(range(6))]
    plain, mixed = task.collate(samples), task.collate(samples, np.random.default_rng(0))
    assert mixed["count"] == plain["count"]
    outputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    share = mixed["mix"]["share"]
    others = {**plain, "targets": mixed["mix"]["targets"]}
    expected = share * task.loss(outputs, plain)["loss"]
    expected = expected + (1 - share) * task.loss(outputs, others)["loss"]
    torch.testing.assert_close(task.loss(outputs, mixed)["loss"], expected)
    without = [{"target": sample["target"]} for sample in samples]
    assert "mix" not in task.collate(without, np.random.default_rng(0))
