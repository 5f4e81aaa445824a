"""Detectors as TransferModels: FCOS on a timm backbone, and the detectors of transformers.

Shapes: B images, H, W pixels, L locations, Q queries, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.utils import concatenate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.io.files import write_json
from finetune.model import Batch, TransferModel
from tasks.backbones.load_faults import check_network_config
from tasks.backbones.pretrained import quiet_transformers
from tasks.backbones.seams import find_blocks, input_channels, is_within, recorded_calls
from tasks.backbones.vision_models import adaptable_layers, timm_stages, vision_network_kind
from tasks.detection.fcos import build_fcos
from tasks.detection.queries import family_of
from tasks.image import tiles
from tasks.image.canvas import Canvas
from tasks.image.preprocessing import INPUT

CLASS_HEADS = ("class_embed", "enc_score_head", "denoising_class_embed", "class_labels_classifier")
"""Names of the layers in transformers detectors whose size depends on the labels."""

CLASS_LAYER = "classification_head.cls_logits"
"""The layer of FCOS whose size depends on the labels."""


class Detector(TransferModel):
    """A detector whose outputs are tensors [B, ...], nested in dictionaries and lists."""

    def forward(self, batch: Batch) -> Any:
        kind = "features" if "features" in batch else "inputs"
        tensors: Mapping[str, Tensor] = batch[kind]
        count = len(next(iter(tensors.values())))
        if torch.is_grad_enabled() or count <= tiles.WINDOWS_AT_ONCE:
            return self.forward_batch(batch)
        # All tiles of a large image at once might exhaust the memory.
        parts = []
        for start in range(0, count, tiles.WINDOWS_AT_ONCE):
            some = slice(start, start + tiles.WINDOWS_AT_ONCE)
            parts.append(self.forward_batch({kind: {name: t[some] for name, t in tensors.items()}}))
        return concatenate(parts)

    def forward_batch(self, batch: Batch) -> Any:
        """Compute the outputs of a batch in one forward pass."""
        raise NotImplementedError


class FcosModel(Detector):
    """torchvision's FCOS on a timm backbone.

    Outputs, in both modes: {"cls_logits": [B, L, C], "bbox_regression": [B, L, 4] in strides,
    "bbox_ctrness": [B, L, 1]}.
    """

    network: Any

    def __init__(self, network: Any, config: Mapping[str, Any]) -> None:
        body = network.backbone.body
        prefix = "backbone.body."
        super().__init__(
            network,
            heads=["backbone.fpn", "head"],
            blocks=[[prefix + name for name in block] for block in timm_stages(body, [])],
            kind="detector",
            batch_norm="freeze",
        )
        self.build_config = dict(config)
        self._channels_last = vision_network_kind(body, []) == "cnn"
        candidates = [prefix + name for name in adaptable_layers(body, [])]
        with recorded_calls(network, candidates) as called:
            shape = (1, input_channels(body), *self.build_config["size"])
            self.features({INPUT: torch.zeros(shape)})
        self.lora_targets = called

    @property
    def cacheable(self) -> bool:
        return True

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the feature maps of strides 8, 16 and 32: {"0": [B, C0, H/8, W/8], "1", "2"}."""
        images = inputs[INPUT]
        if self._channels_last:
            images = images.to(memory_format=torch.channels_last)
        maps: dict[str, Tensor] = self.network.backbone.maps(images)
        return maps

    def forward_batch(self, batch: Batch) -> dict[str, Tensor]:
        maps = batch["features"] if "features" in batch else self.features(batch["inputs"])
        levels = list(self.network.backbone.merge(maps).values())
        outputs: dict[str, Tensor] = self.network.head(levels)
        return outputs

    def save(self, folder: Path) -> None:
        """Write model.safetensors, and config.json from which `load` rebuilds the network."""
        tensors = {
            name: t.detach().cpu().contiguous() for name, t in self.network.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", {"architecture": "fcos", **self.build_config})

    @classmethod
    def load(cls, folder: Path) -> FcosModel:
        """Load a folder written by `save`. Raises ModelError if it is incomplete or corrupt."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config.pop("architecture")
            check_network_config(config)
            model = cls(make_fcos(config), config)
            model.network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ModelError(f"{folder}: the detector cannot be loaded: {error}") from error
        return model

    @classmethod
    def with_labels(
        cls, folder: Path, config: Mapping[str, Any], labels: Sequence[str]
    ) -> FcosModel:
        """Load the weights of a folder into a detector for `labels`.

        `config` is that of the folder, with the new size. The layer of the classes is new, unless
        the labels are the same.
        """
        saved = cls.load(folder).network.state_dict()
        rest = {key: value for key, value in config.items() if key != "architecture"}
        model = cls(make_fcos({**rest, "labels": list(labels)}), {**rest, "labels": list(labels)})
        fresh = model.network.state_dict()
        if config["labels"] != list(labels):
            saved |= {name: fresh[name] for name in fresh if CLASS_LAYER in name}
        model.network.load_state_dict(saved)
        return model


def make_fcos(config: Mapping[str, Any], body: Any = None) -> Any:
    """Build the network of a config of `describe_fcos`; None: on a backbone without weights."""
    if body is None:
        body = timm.create_model(config["backbone"], pretrained=False, **config["backbone_args"])
    return build_fcos(
        body,
        tuple(config["size"]),
        len(config["labels"]),
        width=config["width"],
        convolutions=config["convolutions"],
        mean=config["mean"],
        std=config["std"],
    )


def describe_fcos(
    body: Any, arguments: Mapping[str, Any], labels: Sequence[str], canvas: Canvas, **shape: int
) -> dict[str, Any]:
    """Return the content of config.json, from which `make_fcos` rebuilds the network."""
    return {
        "backbone": body.pretrained_cfg["architecture"],
        "backbone_args": dict(arguments),
        "labels": list(labels),
        "size": list(canvas.size),
        "mean": list(canvas.mean),
        "std": list(canvas.std),
        **shape,
    }


class QueryModel(Detector):
    """A detector of transformers.

    Outputs, in both modes: {"layers": outputs of each supervised layer, the last layer first}; see
    `tasks.detection.queries`.
    """

    network: Any

    def __init__(self, network: Any, heads: Sequence[str]) -> None:
        super().__init__(
            network,
            heads=heads,
            blocks=find_blocks(network, heads),
            lora_targets=[n for n in adaptable_layers(network, heads) if "backbone" in n],
            kind="query-detector",
            batch_norm="freeze",
        )
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(_make_gradient_contiguous)
        self._decoder = network.model.decoder if family_of(network) == "d-fine" else None

    def forward_batch(self, batch: Batch) -> dict[str, list[dict[str, Tensor]]]:
        if self._decoder is not None:
            # D-FINE's decoder classifies after every layer in train mode only. This sets the flag
            # of the decoder itself, not of its layers, so dropout stays off.
            self._decoder.training = True
        outputs = self.network(**batch["inputs"])
        last = {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}
        logits = getattr(outputs, "intermediate_logits", None)  # [B, layers, Q, C]
        if logits is None:
            return {"layers": [last]}
        boxes = outputs.intermediate_reference_points
        layers = [
            {"logits": logits[:, index], "pred_boxes": boxes[:, index]}
            for index in range(logits.shape[1] - 1)
        ]
        corners = getattr(outputs, "intermediate_predicted_corners", None)  # [B, layers, Q, ...]
        if corners is not None:
            # D-FINE predicts boxes once more, before its first layer, so there are more boxes than
            # corners; the loss of transformers 5.24 pairs them from the first on.
            refs, earlier = outputs.initial_reference_points, logits.shape[1] - corners.shape[1]
            teacher = {"teacher_corners": corners[:, -1], "teacher_logits": logits[:, -1]}
            for index, layer in enumerate(layers[earlier:]):
                student = {"pred_corners": corners[:, index], "ref_points": refs[:, index]}
                layer |= student | teacher
        first = {"logits": outputs.enc_topk_logits, "pred_boxes": outputs.enc_topk_bboxes}
        return {"layers": [last, *layers, first]}

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)


def _make_gradient_contiguous(_: nn.Module, __: Any, output: Tensor) -> None:
    """Make the gradient of a BatchNorm's output [B, C, H, W] contiguous.

    For a batch of one image, torch 2.11 to 2.14 on a CPU misreads a channels-last gradient, which
    comes from tokens [B, H * W, C], as contiguous: with BatchNorm in eval mode, the gradients of
    weight and bias are then silently wrong.
    """
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]


def class_heads(network: nn.Module) -> list[str]:
    """Return the names of the layers whose size depends on the labels."""
    heads: list[str] = []
    for name, _ in network.named_modules():
        if name.rpartition(".")[2] in CLASS_HEADS and not is_within(name, heads):
            heads.append(name)
    return heads
