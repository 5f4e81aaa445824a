"""Heads with a hidden layer (task.head_hidden)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import finetune
from finetune.config.yaml import parse_value
from finetune.errors import FinetuneError, ModelError
from finetune.testing import check_task
from tasks import ImageClassification, TextClassification
from tasks.backbones.vector_heads import HiddenHead, HiddenShape
from tasks.backbones.vision_models import add_hidden_layer
from tests.support.tiny_models import text_rows
from tests.support.tiny_vision import shape_folder, shape_rows, tiny_timm, tiny_vit

HIDDEN: dict[str, Any] = {"task.head_hidden": 8, "task.head_dropout": 0.2}
Train = Callable[..., finetune.Run]


@pytest.mark.parametrize("maker", [tiny_timm, tiny_vit])
def test_head_hidden_passes_check_task_for_images(
    maker: Callable[[Path], Path], tmp_path: Path
) -> None:
    task = ImageClassification(head_hidden=8, augmentation="none")
    check_task(task, shape_rows(), str(maker(tmp_path / "network")))


@pytest.mark.parametrize("kind", ["single", "number"])
def test_head_hidden_passes_check_task_for_texts(kind: str, bert_folder: Path) -> None:
    rows = [
        {**row, "label": index / 7} if kind == "number" else row
        for index, row in enumerate(text_rows(24, seed=3))
    ]
    check_task(TextClassification(head_hidden=8), rows, str(bert_folder))


def test_head_hidden_trains_on_cached_features_at_a_lower_rate(tmp_path: Path) -> None:
    """The default learning rate of a deeper head is lower."""
    run = finetune.train(
        "image-classification",
        data=str(shape_folder(tmp_path / "shapes", 30)),
        model=str(tiny_vit(tmp_path / "vit")),
        output=str(tmp_path / "run"),
        **{"method": "frozen", "epochs": 2, "precision": "fp32", **HIDDEN},
    )
    config = parse_value((run.path / "config.yaml").read_text())
    assert config["optim"]["head_lr"] == 1e-3
    head: Any = run.predictor.model.network.classifier
    assert isinstance(head, HiddenHead)
    assert head.hidden.out_features == 8
    assert (run.path / "final" / "head.safetensors").is_file()


def test_hidden_head_applies_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    head, vectors = HiddenHead(16, HiddenShape(8, dropout=0.5), 3), torch.randn(4, 16)
    assert not torch.equal(head(vectors), head(vectors))
    head.eval()
    assert torch.equal(head(vectors), head(vectors))


@pytest.mark.parametrize(
    ("keys", "remedy"),
    [
        ({"task.head": "native"}, r"task\.head_hidden.*remove it"),
        ({"task.truncation": "windows", "task.max_length": 16}, r"task\.truncation.*head_hidden"),
        ({"method": "frozen", "method.solver": "exact"}, r"solver=exact.*solver=loop"),
    ],
    ids=["native", "windows", "exact"],
)
def test_head_hidden_is_rejected_where_unsupported(
    keys: dict[str, Any], remedy: str, bert_folder: Path, tmp_path: Path
) -> None:
    words = {"method": "full", "output": str(tmp_path / "run"), **HIDDEN, **keys}
    with pytest.raises(FinetuneError, match=remedy):
        finetune.train("text-classification", data=text_rows(24), model=str(bert_folder), **words)


def test_add_hidden_layer_rejects_a_network_with_two_heads() -> None:
    network = timm.create_model("deit_tiny_distilled_patch16_224")
    with pytest.raises(ModelError, match=r"head_hidden.*\(head, head_dist\).*remove the key"):
        add_hidden_layer(network, HiddenShape(8))
