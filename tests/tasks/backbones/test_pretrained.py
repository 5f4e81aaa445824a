"""Error messages of networks that transformers cannot load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from tasks.backbones.pretrained import from_pretrained, load_network
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


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (self.canary,)


@pytest.mark.parametrize("format", ["zip", "legacy"])
def test_from_pretrained_refuses_pickles_without_advice_to_load_them(
    format: str, tmp_path: Path
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    new = format == "zip"
    payload = {"weight": Payload(tmp_path / "ran")}
    torch.save(payload, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)
    with pytest.raises(ModelError, match=r"a pickle that contains more .*save_file") as caught:
        load_network("AutoModel", ModelConfig(name=str(folder)))
    assert "weights_only" not in str(caught.value)
    tiny_bert(folder)  # safetensors beside a pickle are preferred
    load_network("AutoModel", ModelConfig(name=str(folder)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"attn_implementation": "me/kernel"}, "names the attention kernel 'me/kernel'.*not run"),
        ({"num_hidden_layers": 10**9}, r"has num_hidden_layers=1e\+09, above 2,000"),
        ({"num_attention_heads": 10**400}, r"has num_attention_heads=\(a long number\), above"),
        ({"hidden_sizes": [1], "depths": [1, 10**9]}, r"has depths=1e\+09, above"),
        ({"hidden_dropout_prob": 1.5}, "has hidden_dropout_prob=1.5, not a probability"),
        ({"layer_norm_eps": float("nan")}, "has layer_norm_eps=nan, not a number"),
        ({"num_labels": 10**9}, "has num_labels"),
        ({"text_config": {"num_hidden_layers": 10**9}}, "has num_hidden_layers"),
        ({"hidden_size": -32}, "negative dimension"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_size": "many"}, "hidden_size"),
    ],
)
def test_from_pretrained_refuses_hostile_configs(
    keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tiny_bert(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"model\.name: .*{message}"):
        load_network("AutoModel", ModelConfig(name=str(folder)))
