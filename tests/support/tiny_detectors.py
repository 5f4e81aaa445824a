"""Tiny local detectors of transformers with random weights, for 5 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    PreTrainedModel,
    ResNetConfig,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

SIDE = 64  # side of the detectors' input, in pixels
QUERIES = 12
_LEVELS = {
    "d_model": 32,
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "decoder_layers": 2,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
    "num_queries": QUERIES,
    "num_labels": 5,
    "dropout": 0.0,
    "initializer_range": 0.3,  # with less, layer norms scale up values near 0 and gradients explode
}


def _rt_detr_v2() -> PreTrainedModel:
    sizes = [8, 16, 24, 32]
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=sizes,
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=sizes[1:],
        decoder_in_channels=[32] * 3,
        **_LEVELS,
    )
    return RTDetrV2ForObjectDetection(config)


def _d_fine() -> PreTrainedModel:
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 16, 24],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 16, 24, 32],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[2, 2, 2, 2],
        hidden_sizes=[16, 16, 24, 32],
        depths=[1, 1, 1, 1],
        embedding_size=8,
        out_features=["stage2", "stage3", "stage4"],
    )
    config = DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[16, 24, 32],
        decoder_in_channels=[32] * 3,
        hidden_expansion=0.5,
        **_LEVELS,
    )
    return DFineForObjectDetection(config)


def _detr() -> PreTrainedModel:
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        backbone_config=backbone,
        d_model=32,
        encoder_layers=1,
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=32,
        decoder_attention_heads=2,
        num_queries=QUERIES,
        num_labels=5,
        dropout=0.0,
        init_std=0.3,
    )
    return DetrForObjectDetection(config)


MAKERS = {"rt-detr-v2": _rt_detr_v2, "d-fine": _d_fine, "detr": _detr}


def tiny_detector(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Save a detector with its image processor for inputs of 64 x 64 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MAKERS[name]()
        network.train()  # gives BatchNorm realistic averages
        with torch.no_grad():
            for _ in range(30):
                network(interpolate(torch.randn(4, 3, 8, 8), size=(SIDE, SIDE)))
    network.eval().save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    processor: Any = RTDetrImageProcessor(size=square)
    if name == "detr":
        processor = DetrImageProcessor(size={"shortest_edge": SIDE, "longest_edge": SIDE})
    processor.save_pretrained(folder)
    return folder
