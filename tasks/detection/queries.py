"""The losses of detectors that say a set of boxes (DETR, RT-DETR, D-FINE), as sums.

The matching and the single losses are those of transformers. Its own sum of them is left out: that
of DETR hides a collective, so that processes with other numbers of batches wait for ever; and all
of them divide by the boxes of one micro-batch.

Shapes: B images, Q queries, C classes, M boxes of an image. Boxes are cxcywh as shares of the
picture, as transformers has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from finetune.errors import ModelError
from tasks.detection.suppression import Suppression

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Layer = dict[str, Tensor]
"""What one layer of a decoder says: "logits" [B, Q, C], "pred_boxes" [B, Q, 4]; of D-FINE also
"pred_corners" and "ref_points".
"""
Indices = Sequence[tuple[Tensor, Tensor]]
_BOXES = {"loss_bbox": "bbox_loss_coefficient", "loss_giou": "giou_loss_coefficient"}
FAMILIES = {
    "RTDetrForObjectDetectionLoss": "rt-detr",
    "DFineForObjectDetectionLoss": "d-fine",
    "ForObjectDetectionLoss": "detr",
}


def family_of(config: PretrainedConfig) -> str:
    """Which losses train the detector of a config. Raises ModelError if none of ours does."""
    from transformers import AutoModelForObjectDetection
    from transformers.loss.loss_utils import LOSS_MAPPING

    known = AutoModelForObjectDetection._model_mapping
    network = known[type(config)].__name__ if type(config) in known else type(config).__name__
    # As transformers itself finds the loss of a class: by its name, or by what its name contains.
    kinds = [network] if network in LOSS_MAPPING else re.findall("|".join(LOSS_MAPPING), network)
    name = LOSS_MAPPING[kinds[0]].__name__ if kinds else ""
    if name not in FAMILIES:
        raise ModelError(
            f"model.name: {network} is trained by {name or 'a loss'}, which is not known here; "
            "take a checkpoint of RT-DETR, RT-DETR v2, D-FINE, DETR or YOLOS"
        )
    return FAMILIES[name]


class QueryHead:
    """How a detector with queries is judged: by its family and its config."""

    def __init__(self, family: str, config: PretrainedConfig) -> None:
        from transformers.loss import loss_d_fine, loss_for_object_detection, loss_rt_detr

        self.family = family
        self.config: Any = config
        self.queries = int(getattr(config, "num_queries", None) or config.num_detection_tokens)
        self._criterion: Any
        if family == "detr":
            own = loss_for_object_detection
            matcher = own.HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
            self._criterion = own.ImageLoss(
                matcher, config.num_labels, config.eos_coefficient, ["labels", "boxes"]
            )
        elif family == "d-fine":
            self._criterion = loss_d_fine.DFineLoss(config)
        else:
            self._criterion = loss_rt_detr.RTDetrLoss(config)

    def make_targets(
        self, boxes: Sequence[Tensor], labels: Sequence[Tensor], contents: Tensor
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Targets as transformers has them, and the count of each loss term.

        `boxes` are xyxy on the canvas, of which each picture fills `contents` [B, 2], height and
        width.
        """
        rows = []
        for own, classes, (height, width) in zip(boxes, labels, contents.tolist(), strict=True):
            shares = own / torch.tensor([width, height, width, height])
            rows.append({"boxes": box_convert(shares, "xyxy", "cxcywh"), "class_labels": classes})
        numbers = [len(own) for own in boxes]
        total = torch.tensor(float(sum(numbers)))
        count = {"classes": total, "boxes": total.clone()}
        if self.family == "detr":
            # A query without a box has the weight eos, and the mean of the library is over weights.
            eos, most = float(self.config.eos_coefficient), self.queries
            matched = sum(min(number, most) for number in numbers)
            count["classes"] = torch.tensor(eos * (most * len(numbers) - matched) + matched)
        else:
            # Of a picture without boxes the background is learned, too.
            count["classes"] = torch.tensor(float(sum(max(number, 1) for number in numbers)))
        if self.family == "d-fine":
            count["corners"] = torch.tensor(float(len(boxes)))
        return {"rows": rows}, count

    def losses(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Tensor]:
        """Sums over all layers that are supervised, weighted as the network's config says."""
        rows: list[dict[str, Tensor]] = targets["rows"]
        layers: list[Layer] = outputs["layers"]
        criterion = self._criterion.to(layers[0]["logits"])
        sums: dict[str, Tensor] = {}
        for layer in layers:
            if self.family == "d-fine":
                layer = {**layer, "pred_boxes": layer["pred_boxes"].clamp(0, 1)}
            indices = criterion.matcher(layer, rows)
            for name, value in self._of_layer(criterion, layer, rows, indices).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _of_layer(
        self, criterion: Any, layer: Layer, rows: list[dict[str, Tensor]], indices: Indices
    ) -> dict[str, Tensor]:
        boxes = criterion.get_loss("boxes", layer, rows, indices, 1.0)
        if self.family == "detr":
            weights = {key: getattr(self.config, name) for key, name in _BOXES.items()}
            mean = criterion.get_loss("labels", layer, rows, indices, 1.0)["loss_ce"]
            matched = sum(len(queries) for queries, _ in indices)
            rest = layer["logits"].shape[0] * layer["logits"].shape[1] - matched
            classes = mean * (criterion.eos_coef * rest + matched)
        else:
            weights = criterion.weight_dict
            vfl = criterion.get_loss("vfl", layer, rows, indices, 1.0)["loss_vfl"]
            classes = vfl * weights["loss_vfl"]
        sums = {"classes": classes, "boxes": sum(boxes[key] * weights[key] for key in _BOXES)}
        if self.family == "d-fine":
            fine, distilled = self._corners(criterion, layer, rows, indices)
            sums |= {"boxes": sums["boxes"] + fine, "corners": distilled}
        return sums

    def _corners(
        self, criterion: Any, layer: Layer, rows: list[dict[str, Tensor]], indices: Indices
    ) -> tuple[Tensor, Tensor]:
        """The losses of D-FINE's corner distributions, image by image: the library's distillation
        takes means over a batch, which no sum over micro-batches can equal.
        """
        fine = distilled = layer["logits"].new_zeros(())
        if "pred_corners" not in layer:
            return fine, distilled
        weights = criterion.weight_dict
        for place in range(len(rows)):
            own = {name: tensor[place : place + 1] for name, tensor in layer.items()}
            one = slice(place, place + 1)
            found = criterion.get_loss("local", own, rows[one], indices[one], 1.0)
            fine = fine + found["loss_fgl"] * weights["loss_fgl"]
            distilled = distilled + found["loss_ddf"] * weights["loss_ddf"]
        return fine, distilled

    def candidates(self, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Every query's "boxes" [B, Q, 4], xyxy in shares of the picture, and "scores" [B, Q, C],
        before any is chosen.
        """
        last = outputs["layers"][0]
        logits = last["logits"]
        scores = logits.softmax(-1)[..., :-1] if self.family == "detr" else logits.sigmoid()
        return {"boxes": box_convert(last["pred_boxes"], "cxcywh", "xyxy"), "scores": scores}

    def detect(
        self, outputs: Mapping[str, Any], contents: Tensor, suppression: Suppression
    ) -> list[dict[str, Tensor]]:
        """{"boxes" [K, 4] xyxy on the canvas, "scores" [K], "labels" [K]} of each image, best
        first, as the image processors of transformers choose them.
        """
        last = outputs["layers"][0]
        logits, shares = last["logits"], last["pred_boxes"]
        height, width = contents.to(shares.device).unbind(1)
        sides = torch.stack([width, height, width, height], dim=1)[:, None]  # [B, 1, 4]
        boxes = box_convert(shares, "cxcywh", "xyxy") * sides
        if self.family == "detr":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # [B, Q]
            places = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        else:
            flat = logits.sigmoid().flatten(1)  # [B, Q * C]
            scores, index = flat.topk(min(self.queries, flat.shape[1]))
            places, labels = index // logits.shape[-1], index % logits.shape[-1]
        found = []
        for own, score, label, place in zip(boxes, scores, labels, places, strict=True):
            order = score.argsort(descending=True, stable=True)
            order = order[score[order] > suppression.score][: suppression.most]
            found.append(
                {"boxes": own[place[order]], "scores": score[order], "labels": label[order]}
            )
        return found
