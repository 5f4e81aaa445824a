"""Losses of set-prediction detectors (DETR, RT-DETR, D-FINE), as sums.

The matching and the individual losses are those of transformers. Its functions that add them up are
not used: all divide by the number of boxes in a micro-batch, and DETR's calls a collective, which
deadlocks if processes have different numbers of batches.

Shapes: B images, Q queries, C classes, M boxes of an image. Boxes are cxcywh in shares of the image
size, as in transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchvision.ops import box_convert

from finetune.errors import ModelError
from finetune.io.integrity import network_faults
from tasks.detection.suppression import Suppression

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Layer = dict[str, Tensor]
"""Outputs of a decoder layer: "logits" [B, Q, C], "pred_boxes" [B, Q, 4]; for D-FINE also
"pred_corners" and "ref_points".
"""
Indices = Sequence[tuple[Tensor, Tensor]]
_BOXES = {"loss_bbox": "bbox_loss_coefficient", "loss_giou": "giou_loss_coefficient"}
_REMEDY = "correct it, or give another detector"
_DIVERGED = (
    "if this is after some steps, the weights have diverged: lower optim.lr; before, correct the "
    "values in its config.json"
)
FAMILIES = {
    "RTDetrForObjectDetectionLoss": "rt-detr",
    "DFineForObjectDetectionLoss": "d-fine",
    "ForObjectDetectionLoss": "detr",
}


def family_of(config: PretrainedConfig) -> str:
    """Return the loss family of a detector's config. Raises ModelError if it is not supported."""
    from transformers import AutoModelForObjectDetection
    from transformers.loss.loss_utils import LOSS_MAPPING

    known = AutoModelForObjectDetection._model_mapping
    network = known[type(config)].__name__ if type(config) in known else type(config).__name__
    # transformers finds the loss of a class likewise: by its name, or by a part of it.
    kinds = [network] if network in LOSS_MAPPING else re.findall("|".join(LOSS_MAPPING), network)
    name = LOSS_MAPPING[kinds[0]].__name__ if kinds else ""
    if name not in FAMILIES:
        raise ModelError(
            f"model.name: {network} is not a supported detector (loss: {name or 'none'}); "
            "choose a checkpoint of RT-DETR, RT-DETR v2, D-FINE, DETR or YOLOS"
        )
    return FAMILIES[name]


class QueryHead:
    """Targets, losses and decoding of a detector with queries, for its loss family and config."""

    def __init__(self, family: str, config: PretrainedConfig) -> None:
        with network_faults("config.json of the detector", "cannot be used", _REMEDY):
            self._set_criterion(family, config)

    def _set_criterion(self, family: str, config: PretrainedConfig) -> None:
        from transformers.loss import loss_d_fine, loss_for_object_detection, loss_rt_detr

        self.family = family
        self.config: Any = config
        queries = getattr(config, "num_queries", None)
        self.queries = int(config.num_detection_tokens if queries is None else queries)
        if self.queries < 1:
            raise ModelError(f"config.json has {self.queries} queries; a detector needs some")
        self._criterion: Any
        if family == "detr":
            detr = loss_for_object_detection
            matcher = detr.HungarianMatcher(config.class_cost, config.bbox_cost, config.giou_cost)
            self._criterion = detr.ImageLoss(
                matcher, config.num_labels, config.eos_coefficient, ["labels", "boxes"]
            )
        elif family == "d-fine":
            self._criterion = loss_d_fine.DFineLoss(config)
        else:
            self._criterion = loss_rt_detr.RTDetrLoss(config)

    def make_targets(
        self, boxes: Sequence[Tensor], labels: Sequence[Tensor], contents: Tensor
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the targets in transformers' format, and the count of each loss term.

        `boxes` are xyxy on the canvas, `contents` [B, 2] the height and width of it that each image
        covers.
        """
        rows = []
        for pixels, classes, (height, width) in zip(boxes, labels, contents.tolist(), strict=True):
            shares = pixels / torch.tensor([width, height, width, height])
            rows.append({"boxes": box_convert(shares, "xyxy", "cxcywh"), "class_labels": classes})
        numbers = [len(each) for each in boxes]
        total = torch.tensor(float(sum(numbers)))
        count = {"classes": total, "boxes": total.clone()}
        if self.family == "detr":
            # The library's mean is weighted; a query without a box has the weight eos.
            eos, queries = float(self.config.eos_coefficient), self.queries
            matched = sum(min(number, queries) for number in numbers)
            count["classes"] = torch.tensor(eos * (queries * len(numbers) - matched) + matched)
        else:
            # An image without boxes counts as one: its background is learned too.
            count["classes"] = torch.tensor(float(sum(max(number, 1) for number in numbers)))
        if self.family == "d-fine":
            count["corners"] = torch.tensor(float(len(boxes)))
        return {"rows": rows}, count

    def learned_boxes(
        self, targets: Mapping[str, Any], contents: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the boxes that targets hold, [M, 4] on the canvas, and the labels of each image.

        `contents` are those of `make_targets`.
        """
        return [
            (
                box_convert(row["boxes"], "cxcywh", "xyxy") * torch.stack([width, height] * 2),
                row["class_labels"],
            )
            for row, (height, width) in zip(targets["rows"], contents, strict=True)
        ]

    def losses(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the sums over all supervised layers, with the loss weights of the config.

        Raises ModelError for outputs that are not finite, which cannot be matched to boxes.
        """
        with network_faults("the detector", "cannot be trained on a batch", _DIVERGED):
            return self._losses(outputs, targets)

    def _losses(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Tensor]:
        rows: list[dict[str, Tensor]] = targets["rows"]
        layers: list[Layer] = outputs["layers"]
        criterion = self._criterion.to(layers[0]["logits"])
        sums: dict[str, Tensor] = {}
        for layer in layers:
            if self.family == "d-fine":
                layer = {**layer, "pred_boxes": layer["pred_boxes"].clamp(0, 1)}
            indices = criterion.matcher(layer, rows)
            for name, value in self._layer_losses(criterion, layer, rows, indices).items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    def _layer_losses(
        self, criterion: Any, layer: Layer, rows: list[dict[str, Tensor]], indices: Indices
    ) -> dict[str, Tensor]:
        boxes = criterion.get_loss("boxes", layer, rows, indices, 1.0)
        if self.family == "detr":
            weights = {key: getattr(self.config, name) for key, name in _BOXES.items()}
            mean = criterion.get_loss("labels", layer, rows, indices, 1.0)["loss_ce"]
            matched = sum(len(queries) for queries, _ in indices)
            unmatched = layer["logits"].shape[0] * layer["logits"].shape[1] - matched
            classes = mean * (criterion.eos_coef * unmatched + matched)
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
        """Return the losses of D-FINE's corner distributions: fine-grained localization, and
        distillation.

        They are computed image by image, because the library's distillation loss is a mean over the
        batch and would depend on the micro-batch size.
        """
        fine = distilled = layer["logits"].new_zeros(())
        if "pred_corners" not in layer:
            return fine, distilled
        weights = criterion.weight_dict
        for index in range(len(rows)):
            one = slice(index, index + 1)
            outputs = {name: tensor[one] for name, tensor in layer.items()}
            losses = criterion.get_loss("local", outputs, rows[one], indices[one], 1.0)
            fine = fine + losses["loss_fgl"] * weights["loss_fgl"]
            distilled = distilled + losses["loss_ddf"] * weights["loss_ddf"]
        return fine, distilled

    def candidates(self, outputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the "boxes" [B, Q, 4] and "scores" [B, Q, C] of all queries, unfiltered.

        Boxes are xyxy in shares of the image size.
        """
        last = outputs["layers"][0]
        logits = last["logits"]
        scores = logits.softmax(-1)[..., :-1] if self.family == "detr" else logits.sigmoid()
        return {"boxes": box_convert(last["pred_boxes"], "cxcywh", "xyxy"), "scores": scores}

    def detect(
        self, outputs: Mapping[str, Any], contents: Tensor, suppression: Suppression
    ) -> list[dict[str, Tensor]]:
        """Return {"boxes" [K, 4], "scores" [K], "labels" [K]} of each image, best first.

        Boxes are xyxy on the canvas. The selection is that of transformers' image processors.
        """
        last = outputs["layers"][0]
        logits, shares = last["logits"], last["pred_boxes"]
        height, width = contents.to(shares.device).unbind(1)
        sides = torch.stack([width, height, width, height], dim=1)[:, None]  # [B, 1, 4]
        boxes = box_convert(shares, "cxcywh", "xyxy") * sides
        if self.family == "detr":
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # [B, Q]
            queries = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
        else:
            flat = logits.sigmoid().flatten(1)  # [B, Q * C]
            scores, index = flat.topk(min(self.queries, flat.shape[1]))
            queries, labels = index // logits.shape[-1], index % logits.shape[-1]
        detections = []
        for box, score, label, query in zip(boxes, scores, labels, queries, strict=True):
            order = score.argsort(descending=True, stable=True)
            order = order[score[order] > suppression.score][: suppression.most]
            detections.append(
                {"boxes": box[query[order]], "scores": score[order], "labels": label[order]}
            )
        return detections
