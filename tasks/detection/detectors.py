"""Detectors as TransferModels: FCOS on a network of timm, and the detectors of transformers.

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
from tasks.backbones.pretrained import quiet_transformers
from tasks.backbones.seams import calls_noted, find_blocks, lies_in
from tasks.backbones.vision_models import adaptable_layers, timm_stages, vision_network_kind
from tasks.detection.fcos import build_fcos
from tasks.detection.queries import family_of
from tasks.image import tiles
from tasks.image.canvas import Canvas
from tasks.image.preprocessing import INPUT

CLASS_HEADS = ("class_embed", "enc_score_head", "denoising_class_embed", "class_labels_classifier")
"""What the detectors of transformers call the layers that are sized by the labels."""


class Detector(TransferModel):
    """A detector whose outputs are tensors [B, ...], in dictionaries and lists."""

    def forward(self, batch: Batch) -> Any:
        kind = "features" if "features" in batch else "inputs"
        held: Mapping[str, Tensor] = batch[kind]
        count = len(next(iter(held.values())))
        if torch.is_grad_enabled() or count <= tiles.TOGETHER:
            return self.look(batch)
        # The tiles of one large picture are a batch that may fill the memory.
        parts = []
        for start in range(0, count, tiles.TOGETHER):
            some = slice(start, start + tiles.TOGETHER)
            parts.append(self.look({kind: {name: each[some] for name, each in held.items()}}))
        return concatenate(parts)

    def look(self, batch: Batch) -> Any:
        """The outputs for all of a batch at once."""
        raise NotImplementedError


class FcosModel(Detector):
    """torchvision's FCOS on a network of timm.

    Outputs, in both modes: {"cls_logits": [B, L, C], "bbox_regression": [B, L, 4] in strides,
    "bbox_ctrness": [B, L, 1]}.
    """

    network: Any

    def __init__(self, network: Any, facts: Mapping[str, Any]) -> None:
        body = network.backbone.body
        prefix = "backbone.body."
        super().__init__(
            network,
            heads=["backbone.fpn", "head"],
            blocks=[[prefix + name for name in block] for block in timm_stages(body, [])],
            kind="detector",
            batch_norm="freeze",
        )
        self.facts = dict(facts)
        self._channels_last = vision_network_kind(body, []) == "cnn"
        candidates = [prefix + name for name in adaptable_layers(body, [])]
        with calls_noted(network, candidates) as called:
            self.features({INPUT: torch.zeros(1, 3, *self.facts["size"])})
        self.lora_targets = called

    @property
    def cacheable(self) -> bool:
        return True

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The backbone's maps of strides 8, 16 and 32: {"0": [B, C0, H/8, W/8], "1", "2"}."""
        images = inputs[INPUT]
        if self._channels_last:
            images = images.to(memory_format=torch.channels_last)
        maps: dict[str, Tensor] = self.network.backbone.maps(images)
        return maps

    def look(self, batch: Batch) -> dict[str, Tensor]:
        maps = batch["features"] if "features" in batch else self.features(batch["inputs"])
        levels = list(self.network.backbone.merge(maps).values())
        outputs: dict[str, Tensor] = self.network.head(levels)
        return outputs

    def save(self, folder: Path) -> None:
        """model.safetensors, and config.json that says how the network is built."""
        tensors = {
            name: t.detach().cpu().contiguous() for name, t in self.network.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        write_json(folder / "config.json", {"architecture": "fcos", **self.facts})

    @classmethod
    def load(cls, folder: Path) -> FcosModel:
        """What `save` wrote."""
        try:
            facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            facts.pop("architecture")
            model = cls(make_fcos(facts), facts)
            model.network.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ModelError(f"{folder}: holds no detector that can be loaded: {error}") from error
        return model


def make_fcos(facts: Mapping[str, Any], body: Any = None) -> Any:
    """The network that `facts` describe, on a given network of timm or on one without weights."""
    if body is None:
        body = timm.create_model(facts["backbone"], pretrained=False, **facts["backbone_args"])
    return build_fcos(
        body,
        tuple(facts["size"]),
        len(facts["labels"]),
        width=facts["width"],
        convolutions=facts["convolutions"],
        mean=facts["mean"],
        std=facts["std"],
    )


def describe_fcos(
    body: Any, arguments: Mapping[str, Any], labels: Sequence[str], canvas: Canvas, **shape: int
) -> dict[str, Any]:
    """What config.json says of a network, so that it can be built again."""
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

    Outputs, in both modes: {"layers": what each supervised layer says, the last one first}; see
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
                module.register_forward_hook(_lay_out_gradient)
        self._decoder = network.model.decoder if family_of(network) == "d-fine" else None

    def look(self, batch: Batch) -> dict[str, list[dict[str, Tensor]]]:
        if self._decoder is not None:
            # D-FINE's decoder names classes after its last layer only, unless it is in train mode;
            # this is the flag of the decoder alone, so nothing in it drops out.
            self._decoder.training = True
        said = self.network(**batch["inputs"])
        last = {"logits": said.logits, "pred_boxes": said.pred_boxes}
        logits = getattr(said, "intermediate_logits", None)  # [B, layers, Q, C]
        if logits is None:
            return {"layers": [last]}
        boxes = said.intermediate_reference_points
        layers = [
            {"logits": logits[:, place], "pred_boxes": boxes[:, place]}
            for place in range(logits.shape[1] - 1)
        ]
        corners = getattr(said, "intermediate_predicted_corners", None)  # [B, layers, Q, ...]
        if corners is not None:
            # D-FINE says boxes once before its first layer, so these are one more than the corners;
            # the loss of transformers 5.24 pairs them from the first on.
            refs, earlier = said.initial_reference_points, logits.shape[1] - corners.shape[1]
            teacher = {"teacher_corners": corners[:, -1], "teacher_logits": logits[:, -1]}
            for place, layer in enumerate(layers[earlier:]):
                own = {"pred_corners": corners[:, place], "ref_points": refs[:, place]}
                layer |= own | teacher
        first = {"logits": said.enc_topk_logits, "pred_boxes": said.enc_topk_bboxes}
        return {"layers": [last, *layers, first]}

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)


def _lay_out_gradient(_: nn.Module, __: Any, output: Tensor) -> None:
    """Have the gradient of a BatchNorm's output [B, C, H, W] laid out channels first, as it is.

    Of a batch of one picture torch on a CPU (2.11 to 2.15) takes a gradient that comes back with
    its channels last, from tokens [B, H * W, C], for one with its channels first: that of scale and
    shift is then wrong, without a word, where BatchNorm is in evaluation mode.
    """
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.contiguous())  # type: ignore[no-untyped-call]


def class_heads(network: nn.Module) -> list[str]:
    """The layers that are sized by the labels, by their names."""
    found: list[str] = []
    for name, _ in network.named_modules():
        if name.rpartition(".")[2] in CLASS_HEADS and not lies_in(name, found):
            found.append(name)
    return found
