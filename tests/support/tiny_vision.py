"""Tiny vision networks and a small set of labeled images, made in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SHAPES = ("circle", "cross", "square")
SIZE = 32  # side of the networks' input, in pixels


def tiny_timm(folder: Path, name: str = "test_resnet", *, seed: int = 0, **arguments: Any) -> Path:
    """Save a timm network with random weights for 5 classes, in timm's format.

    Its BatchNorm averages come from random images.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = timm.create_model(name, num_classes=5, **arguments)
        network.train()
        with torch.no_grad():
            for _ in range(12):
                network(torch.randn(8, 3, SIZE, SIZE))
        network.eval()
    network.pretrained_cfg.update(input_size=(3, SIZE, SIZE), crop_pct=0.9)
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return folder


def tiny_vit(folder: Path, *, seed: int = 0) -> Path:
    """Save a ViT of transformers with 3 layers of width 32, and its image processor."""
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=SIZE,
        patch_size=8,
        num_labels=5,
        initializer_range=0.2,  # with 0.02 the output of so small a network hardly varies
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    return folder


def draw_shape(shape: str, rng: np.random.Generator) -> Image.Image:
    """Draw a shape of random color and position on a noisy background, 40 x 36 pixels."""
    background = rng.integers(0, 90, (36, 40, 3)).astype(np.uint8)
    image = Image.fromarray(background)
    draw = ImageDraw.Draw(image)
    left, top, side = rng.integers(2, 14), rng.integers(2, 10), rng.integers(16, 22)
    color = tuple(int(value) for value in rng.integers(150, 256, 3))
    box = (int(left), int(top), int(left + side), int(top + side))
    if shape == "circle":
        draw.ellipse(box, fill=color)
    elif shape == "square":
        draw.rectangle(box, fill=color)
    else:
        middle, center = (box[1] + box[3]) // 2, (box[0] + box[2]) // 2
        draw.line((box[0], middle, box[2], middle), fill=color, width=4)
        draw.line((center, box[1], center, box[3]), fill=color, width=4)
    return image


def shape_folder(folder: Path, count: int = 50, seed: int = 0) -> Path:
    """Save `count` images in class folders, with balanced classes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        shape = SHAPES[index % len(SHAPES)]
        target = folder / shape / f"{index:03}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_shape(shape, rng).save(target)
    return folder


def shape_rows(count: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Make `count` rows {"image": PIL image, "label"}."""
    rng = np.random.default_rng(seed)
    shapes = [SHAPES[index % len(SHAPES)] for index in range(count)]
    return [{"image": draw_shape(shape, rng), "label": shape} for shape in shapes]
