"""Tiny segmentation networks, and small scenes with exact masks and boxes, made in a second."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SwinConfig,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

ROOT = Path(__file__).parents[2]
SHAPES = ("background", "circle", "square", "triangle", "star")
SIZE = (64, 48)  # (width, height) of a scene
PROCESSOR = {"size": {"height": 64, "width": 64}}


def scene_maker() -> ModuleType:
    """Import examples/make_scenes.py as a module."""
    path = ROOT / "examples" / "make_scenes.py"
    spec = importlib.util.spec_from_file_location("make_scenes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_scenes"] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def scene_folder(folder: Path, train: int = 40, test: int = 12) -> Path:
    """Make scenes of 64 x 48 pixels with index masks, COCO annotations and classes.txt."""
    maker = scene_maker()
    for order, (split, count) in enumerate((("train", train), ("test", test))):
        maker.write_split(folder / split, count, SIZE, [0, order])
    (folder / "classes.txt").write_text("\n".join(SHAPES))
    return folder


def scene_rows(folder: Path, count: int = 6) -> list[dict[str, Any]]:
    """Return rows of the training scenes; the first one has no object."""
    names = [f"{number:05}" for number in range(count)]
    root = folder / "train"
    return [
        {"image": f"{root}/images/{name}.jpg", "mask": f"{root}/masks/{name}.png"} for name in names
    ]


def save_mask(path: Path, values: Any, mode: str | None = None) -> Path:
    """Save an array as a mask file: .npy, or an image in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(values)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array.astype(np.uint8)).convert(mode).save(path) if mode else (
            Image.fromarray(array.astype(np.uint8)).save(path)
        )
    return path


def tiny_segformer(folder: Path) -> Path:
    """Save a Segformer of transformers with 4 stages of width 8 to 32, for 7 classes."""
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 24, 32],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=16,
        num_labels=7,
        initializer_range=0.2,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(**PROCESSOR).save_pretrained(folder)
    return folder


def tiny_upernet(folder: Path) -> Path:
    """Save an UperNet of transformers on a Swin backbone, with its auxiliary head."""
    backbone = SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        drop_path_rate=0.0,
    )
    config = UperNetConfig(
        backbone_config=backbone,
        hidden_size=16,
        auxiliary_in_channels=32,
        auxiliary_channels=8,
        num_labels=7,
        pool_scales=[1, 2],
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        UperNetForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(**PROCESSOR).save_pretrained(folder)
    return folder
