"""The key of cached features: whatever changes a feature changes it, and a new place does not."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from finetune.batching.feature_key import digest_model
from finetune.errors import FinetuneError
from finetune.model import TransferModel
from tasks.image.preprocessing import INPUT
from tests.support.image_classifiers import random_images, set_up_classifier
from tests.support.text_classifiers import SINGLE, set_up
from tests.support.tiny_models import tiny_bert, tiny_gpt2, tiny_llama
from tests.support.tiny_vision import SIZE, tiny_timm, tiny_vit

Build = Callable[[Path], tuple[TransferModel, dict[str, Tensor]]]


def text_model(folder: Path) -> tuple[TransferModel, dict[str, Tensor]]:
    task, model = set_up(folder, SINGLE, head="pooled", max_length=24)
    return model.eval(), task.collate([task.encode(row) for row in SINGLE])["inputs"]


def image_model(folder: Path) -> tuple[TransferModel, dict[str, Tensor]]:
    _, model = set_up_classifier(folder)
    return model, {INPUT: random_images()}


def key_and_features(folder: Path, build: Build) -> tuple[str, list[Tensor]]:
    model, inputs = build(folder)
    with torch.inference_mode():
        features = model.features(inputs)
    return digest_model(model, "fp32").hexdigest(), list(features.values())


def others(value: Any) -> list[Any]:
    """Return other values of an entry of config.json."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value // 2, value + 1]
    if isinstance(value, float):
        return [value * 2, value / 2, value + 1]
    return ["relu"] if value in ("gelu", "gelu_new", "silu") else []


def paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the places of all entries, nested ones as well."""
    found = []
    for name, value in values.items():
        place = (*above, name)
        found += paths(value, place) if isinstance(value, dict) else [place]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "build"),
    [
        (tiny_bert, text_model),
        (tiny_gpt2, text_model),
        (tiny_llama, text_model),
        (tiny_vit, image_model),
    ],
)
def test_key_changes_with_every_entry_of_the_config_that_changes_features(
    make: Callable[[Path], Path], build: Build, tmp_path: Path
) -> None:
    folder = make(tmp_path / "network")
    before, expected = key_and_features(folder, build)
    config = json.loads((folder / "config.json").read_text())
    effects = set()
    for place in paths(config):
        changed = json.loads(json.dumps(config))
        parent = changed
        for name in place[:-1]:
            parent = parent[name]
        for value in others(parent[place[-1]]):
            parent[place[-1]] = value
            (folder / "config.json").write_text(json.dumps(changed))
            try:
                key, features = key_and_features(folder, build)
            except (FinetuneError, RuntimeError, ValueError, TypeError, IndexError, AssertionError):
                continue  # shapes that do not fit the weights
            pairs = zip(expected, features, strict=True)
            if any(one.shape != two.shape or not torch.equal(one, two) for one, two in pairs):
                effects.add(place[-1])
                assert key != before, (place, value)
    assert len(effects) >= 3, effects


class Sharper(nn.ReLU):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * values


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("test_resnet", {"act_layer": nn.SiLU}),
        ("test_resnet", {"act_layer": Sharper}),
        ("test_vit", {"img_size": SIZE, "num_heads": 1}),
        ("test_vit", {"img_size": SIZE, "global_pool": "avg", "fc_norm": False}),
    ],
)
def test_key_changes_with_arguments_of_a_timm_network(
    architecture: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    size = {key: value for key, value in arguments.items() if key == "img_size"}
    _, model = set_up_classifier(tiny_timm(tmp_path / "network", architecture, **size))
    weights, keys = model.network.state_dict(), set()
    for each in (size, arguments):
        model.network = timm.create_model(architecture, num_classes=3, **each)
        model.network.load_state_dict(weights)
        keys.add(digest_model(model, "fp32").hexdigest())
    assert len(keys) == 2


def test_key_is_that_of_the_same_network_elsewhere(tmp_path: Path) -> None:
    for make, build in ((tiny_bert, text_model), (tiny_timm, image_model)):
        first = make(tmp_path / make.__name__)
        second = shutil.copytree(first, tmp_path / "elsewhere" / make.__name__)
        keys = {key_and_features(folder, build)[0] for folder in (first, second)}
        assert len(keys) == 1


def test_key_does_not_depend_on_the_labels(bert_folder: Path) -> None:
    keys = set()
    for count in (2, 3):
        rows = [{"text": f"the year {i}", "label": str(i % count)} for i in range(12)]
        _, model = set_up(bert_folder, rows, head="native")
        keys.add(digest_model(model, "fp32").hexdigest())
    assert len(keys) == 1


def test_key_changes_with_versions_and_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bert_folder: Path
) -> None:
    model, _ = text_model(bert_folder)
    before = digest_model(model, "fp32").hexdigest()
    assert before != digest_model(model, "bf16").hexdigest()
    with monkeypatch.context() as patch:
        for library in ("torch", "transformers", "finetune"):
            patch.setattr(sys.modules[library], "__version__", "99")
            now = digest_model(model, "fp32").hexdigest()
            assert now != before
            before = now
    keys = set()
    for value in (1, 2):  # a file of the user's own
        path = tmp_path / str(value) / "my_layer.py"
        path.parent.mkdir()
        path.write_text(f"from torch import nn\n\nclass Layer(nn.Identity):\n    a = {value}\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(path.parent))
            patch.delitem(sys.modules, "my_layer", raising=False)
            model.network.extra = importlib.import_module("my_layer").Layer()
            keys.add(digest_model(model, "fp32").hexdigest())
    assert len(keys) == 2
