"""A published model is used by a stranger: with its plain library, in a process without this kit.

The code is what stands on the card. A further model joins with a line in CASES.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune
from finetune.hub import push
from tests.hub_server import serve_hub
from tests.lives import one_thread
from tests.test_hub import at
from tests.tiny_detectors import MAKERS, tiny_detector
from tests.tiny_models import (
    answered_rows,
    text_csv,
    text_rows,
    tiny_bart,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
)
from tests.tiny_scenes import SIZE, scene_folder, tiny_segformer, tiny_upernet
from tests.tiny_vision import shape_folder, tiny_timm, tiny_vit

CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
PROMPT = "Text: {body}\nTopic:"
NETWORKS: dict[str, Callable[[Path], Any]] = {
    "bert": lambda folder: tiny_bert(folder, dropout=0),
    "gpt2": lambda folder: tiny_gpt2(folder, dropout=0),
    "llama": tiny_llama,
    "t5": tiny_t5,
    "bart": tiny_bart,
    "timm": tiny_timm,
    "vit": tiny_vit,
    "segformer": tiny_segformer,
    "upernet": tiny_upernet,
    **{name: lambda folder, name=name: tiny_detector(folder, name) for name in MAKERS},
}


@dataclass(frozen=True)
class Case:
    """A run, and what of it is pushed."""

    model: str
    method: str = "full"
    what: str = "merged"
    keys: dict[str, Any] = field(default_factory=dict)
    use: str = "classify-text"
    change: tuple[str, str] = ("", "")
    """What of the card's code is replaced by what."""


@dataclass(frozen=True)
class Use:
    """What a task is trained on and asked.

    Attributes:
        verb: the function that the card's code defines.
        rows: what the kit is asked; `asked`: the same, as that function takes it.
        check: raises if what the kit says of a row is not what the function says.
    """

    task: str
    verb: str
    data: Any
    rows: list[Any]
    asked: list[Any]
    check: Callable[[Any, Any], None]
    keys: dict[str, Any] = field(default_factory=dict)


def check_label(right: Any, answer: Any) -> None:
    """The pipeline's list of one dict, or {label: score}."""
    if isinstance(answer, list):
        label, score = answer[0]["label"], answer[0]["score"]
    else:
        label = max(answer, key=answer.__getitem__)
        score = answer[label]
    assert score == pytest.approx(right["score"], abs=1e-4)
    assert label == right["label"]


def check_text(right: Any, answer: str) -> None:
    assert right["generated_text"]
    assert right["generated_text"] == answer.strip()


def check_boxes(right: Any, answer: Any) -> None:
    """The best boxes; the pipeline cuts none at the border of the picture."""

    def ranked(found: Any) -> list[Any]:
        return sorted(found, key=lambda item: (-round(item["score"], 3), item["label"]))[:5]

    assert right
    for ours, theirs in zip(ranked(right), ranked(answer), strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-3)
        for side, value in ours["box"].items():
            longest = SIZE[side in ("ymin", "ymax")]
            assert abs(value - min(max(theirs["box"][side], 0), longest)) <= 1


def check_masks(right: Any, answer: Any) -> None:
    """Numbers of classes [H, W], or what the pipeline says; pictures are resized otherwise there."""
    names = ("background", "circle", "square", "triangle", "star")
    said = np.asarray(answer) if isinstance(answer[0], list) else classes_of(answer, names)
    assert said.shape == SIZE[::-1]
    assert (classes_of(right, names) == said).mean() > 0.97


def classes_of(segments: Any, names: tuple[str, ...]) -> Any:
    """The number of the class of each pixel, of label and mask of each segment."""
    found = np.full(SIZE[::-1], -1)
    for item in segments:
        found[np.asarray(item["mask"]) > 0] = names.index(item["label"])
    return found


POOLED = {"task.head": "pooled"}
CLASSIFY, DETECT, SEGMENT = "classify-image", "detect", "segment"
WRITE, CHAT = "write", "chat"
AUTO_PEFT = (
    'AutoModelForCausalLM.from_pretrained("{base}")',
    "",
)
CASES = {
    "text-lora": Case("bert", "lora"),
    "text-lora-adapter": Case("bert", "lora", "adapter"),
    "timm-lora": Case("timm", "lora", use=CLASSIFY),
    "detector-lora": Case("rt-detr-v2", "lora", use=DETECT),
    "unet-lora": Case("timm", "lora", use=SEGMENT),
    "chat-lora": Case("llama", "lora", use=CHAT),
    "chat-lora-adapter": Case("llama", "lora", "adapter", use=CHAT),
}
METHODS = ("full", "frozen", "lora", "partial")
RARER = {
    "text-pooled": Case("bert", "frozen"),
    "timm-lora-adapter": Case("timm", "lora", "adapter", use=CLASSIFY),
    "vit-full": Case("vit", use=CLASSIFY),
    "text-full": Case("bert"),
    "text-partial": Case("bert", "partial"),
    "text-pooled-full": Case("bert", "full", keys=POOLED),
    "text-pooled-lora": Case("bert", "lora", keys=POOLED),
    "text-frozen-native": Case("bert", "frozen", keys={"task.head": "native"}),
    "decoder-lora-adapter": Case("gpt2", "lora", "adapter"),
    "decoder-pooled": Case("gpt2", "frozen"),
    "timm-frozen": Case("timm", "frozen", use=CLASSIFY),
    "timm-partial": Case("timm", "partial", use=CLASSIFY),
    "vit-lora": Case("vit", "lora", use=CLASSIFY),
    "vit-lora-adapter": Case("vit", "lora", "adapter", use=CLASSIFY),
    "vit-frozen": Case("vit", "frozen", use=CLASSIFY),
    **{f"{name}-full": Case(name, use=DETECT) for name in MAKERS},
    **{f"d-fine-{method}": Case("d-fine", method, use=DETECT) for method in METHODS[1:]},
    **{f"unet-{method}": Case("timm", method, use=SEGMENT) for method in METHODS if method != "lora"},
    **{f"segformer-{method}": Case("segformer", method, use=SEGMENT) for method in METHODS},
    "fpn-full": Case("timm", use=SEGMENT, keys={"task.decoder": "fpn"}),
    "segformer-lora-adapter": Case("segformer", "lora", "adapter", use=SEGMENT),
    "upernet-full": Case("upernet", use=SEGMENT),
    "upernet-lora-adapter": Case("upernet", "lora", "adapter", use=SEGMENT),
    **{f"{name}-lora": Case(name, "lora", use=WRITE) for name in ("gpt2", "t5", "bart")},
    **{
        f"{name}-lora-adapter": Case(name, "lora", "adapter", use=WRITE)
        for name in ("gpt2", "t5", "bart")
    },
    "gpt2-full": Case("gpt2", use=WRITE),
    "t5-partial": Case("t5", "partial", use=WRITE),
    "chat-full": Case("llama", use=CHAT),
    "chat-partial": Case("llama", "partial", use=CHAT),
}
