"""Error messages of networks that transformers cannot load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from tasks.backbones.pretrained import from_pretrained
from tests.support.tiny_models import tiny_bert


def test_from_pretrained_names_the_type_of_a_network_for_another_task(tmp_path: Path) -> None:
    source = ModelConfig(name=str(tiny_bert(tmp_path / "bert")))
    with pytest.raises(ModelError, match=r"does not support networks of type Bert\. Choose"):
        from_pretrained("AutoModelForImageClassification", source)


def test_from_pretrained_says_that_a_folder_is_missing() -> None:
    with pytest.raises(ModelError, match=r"'nowhere' .*There is no such folder, and the hub"):
        from_pretrained("AutoConfig", ModelConfig(name="nowhere"))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ({"weights": "x.safetensors"}, r"weights=x\.safetensors: .*its folder holds its weights"),
        ({"match": "order"}, "match=order: .*without model.weights"),
        ({"revision": "v1"}, "revision=v1: .* is on this machine"),
    ],
)
def test_from_pretrained_rejects_keys_without_effect(
    key: dict[str, Any], message: str, tmp_path: Path
) -> None:
    source = ModelConfig(name=str(tiny_bert(tmp_path / "bert")), **key)
    with pytest.raises(ModelError, match=rf"model\.{message}.*; remove the key"):
        from_pretrained("AutoConfig", source)


def test_from_pretrained_names_a_value_that_the_config_must_not_have(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"hidden_size": 32', '"hidden_size": "x"'))
    with pytest.raises(ModelError, match=r"config.json of .*'hidden_size' expected int, got str"):
        from_pretrained("AutoConfig", ModelConfig(name=str(folder)))
