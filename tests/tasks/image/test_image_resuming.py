"""Bit-identical resuming of image runs, and cached augmented features."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.image_classifiers import train_classifier
from tests.support.lives import Seen, Stop, left_behind, live, load

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "method.rank": 2},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
    "frozen-views": {"method": "frozen", "method.views": 2},
    "frozen-live": {"method": "frozen", "method.cache": "off"},
}
FAST = [
    ("full", 0, "fp32"),
    ("full", 2, "bf16"),
    ("lora", 0, "fp32"),
    ("frozen-views", 0, "fp32"),
    ("frozen-live", 2, "fp32"),
]


@pytest.mark.parametrize(
    ("method", "workers", "precision"),
    [
        pytest.param(*case, marks=() if case in FAST else pytest.mark.slow)
        for case in product(METHODS, (0, 2), ("fp32", "bf16"))
    ],
)
def test_image_run_resumes_bit_identically(
    method: str,
    workers: int,
    precision: str,
    vision_networks: dict[str, Path],
    shape_images: Path,
    tmp_path: Path,
) -> None:
    keys = METHODS[method] | {"task": "image-classification", "task.augmentation": "heavy"}
    keys |= {"train.workers": workers, "train.precision": precision}
    once, often = Seen(), Seen()
    network = vision_networks["resnet"]
    unstopped = live(load(tmp_path / "once", network, shape_images, keys), seen=once)
    loaded = load(tmp_path / "often", network, shape_images, keys)
    for stop in (Stop(1), Stop(4, "evaluate"), Stop(6), Stop(8, "saved")):
        assert live(loaded, seen=often, stop=stop) is None, stop
    stopped = live(loaded, seen=often)
    assert unstopped is not None
    assert stopped is not None
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)


def test_frozen_views_cache_the_augmentation_of_each_epoch(
    vision_networks: dict[str, Path], shape_images: Path, tmp_path: Path
) -> None:
    keys = {"method": "frozen", "augmentation": "light", "data.validation": 0.2}
    network = vision_networks["resnet"]
    cached = train_classifier(network, shape_images, tmp_path / "cached", **keys, views=2)
    live = train_classifier(network, shape_images, tmp_path / "live", **keys, cache="off")
    for ours, theirs in zip(cached.folder.history(), live.folder.history(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
