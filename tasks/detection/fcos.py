"""torchvision's FCOS (Tian et al. 2019, arXiv:1904.01355), with its losses as sums.

torchvision's forward returns losses in train mode, each a mean over the batch, and boxes in eval
mode. Here the network returns the same outputs in both modes. Positive locations depend only on the
boxes and the grid of locations, so the divisors of the losses are counted before the forward pass.

Shapes: B images, L locations on all pyramid levels, C classes, M boxes of an image, P positive
locations of a batch. Boxes are xyxy in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSHead
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.ops.focal_loss import sigmoid_focal_loss
from torchvision.ops.giou_loss import generalized_box_iou_loss

from tasks.backbones.pyramid import PYRAMID_STRIDES, Pyramid
from tasks.detection.suppression import Suppression

RADIUS = 1.5
"""Maximum distance of a positive location from the center of its box, in strides."""
START = 2.0
"""Distance from a location to the sides of the box that a new head predicts, in strides.

torchvision starts at 0, where boxes are empty and the ReLU blocks half of the head's gradients.
"""
CANDIDATES = 1000
"""Number of highest-scoring boxes per level that enter non-maximum suppression."""


def build_fcos(
    body: Any,
    size: tuple[int, int],
    classes: int,
    *,
    width: int,
    convolutions: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> FCOS:
    """Build torchvision's FCOS on a timm backbone with a new pyramid and head; `size` is (H, W)."""
    pyramid = Pyramid(body, width)
    head = FCOSHead(width, 1, classes, convolutions)
    nn.init.constant_(head.regression_head.bbox_reg.bias, START)
    return FCOS(
        pyramid,
        classes,
        min_size=min(size),
        max_size=max(size),
        image_mean=list(mean) if mean else None,
        image_std=list(std) if std else None,
        anchor_generator=_generator(),
        head=head,
        center_sampling_radius=RADIUS,
    )


def _generator() -> AnchorGenerator:
    sizes = tuple((stride,) for stride in PYRAMID_STRIDES)
    return AnchorGenerator(sizes, ((1.0,),) * len(sizes))


@dataclass(frozen=True)
class Locations:
    """Grid of locations at which the head predicts, over all levels of the pyramid.

    Attributes:
        squares: a square around each location whose side is its stride, float32 [L, 4].
        levels: number of locations of each level.
    """

    squares: Tensor
    levels: tuple[int, ...]


@lru_cache(maxsize=16)
def make_locations(size: tuple[int, int]) -> Locations:
    """Return the locations of an input of (H, W) pixels, placed as in torchvision."""
    height, width = size
    grids = [[-(-height // stride), -(-width // stride)] for stride in PYRAMID_STRIDES]
    strides = [
        [torch.tensor(height // rows), torch.tensor(width // columns)] for rows, columns in grids
    ]
    generator = _generator()
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    levels = generator.grid_anchors(grids, strides)
    return Locations(torch.cat(levels), tuple(len(level) for level in levels))


def assign_locations(boxes: Tensor, locations: Locations) -> Tensor:
    """Return the index of the box that each location must predict, int64 [L]; -1: background.

    It is the smallest of the `boxes` [M, 4] that contain the location, have their center nearby and
    are of the size range of the location's level.
    """
    if not len(boxes):
        return torch.full((len(locations.squares),), -1)
    squares = locations.squares
    centers = (squares[:, :2] + squares[:, 2:]) / 2  # [L, 2]
    strides = squares[:, 2] - squares[:, 0]
    box_centers = (boxes[:, :2] + boxes[:, 2:]) / 2  # [M, 2]
    offset = (centers[:, None] - box_centers[None]).abs().amax(dim=2)  # [L, M]
    sides = torch.cat(
        [centers[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - centers[:, None]], 2
    )
    shortest, longest = strides * 4, strides * 8
    shortest[: locations.levels[0]] = 0
    longest[-locations.levels[-1] :] = torch.inf
    reach = sides.amax(dim=2)  # [L, M]
    fits = (offset < RADIUS * strides[:, None]) & (sides.amin(dim=2) > 0)
    fits &= (reach > shortest[:, None]) & (reach < longest[:, None])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ranked = torch.where(fits, areas[None].expand_as(fits), torch.inf)
    smallest, box = ranked.min(dim=1)
    return torch.where(smallest.isfinite(), box, -1)


class FcosHead:
    """Targets, losses and decoding of FCOS for inputs of one size (H, W)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.locations = make_locations(size)

    def make_targets(
        self, boxes: Sequence[Tensor], labels: Sequence[Tensor], contents: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the targets of the positive locations of B images, and each loss term's count.

        Targets: "place" [P], the index of the location in the batch, "class" [P], "box" [P, 4],
        "centerness" [P]. An image without positive locations counts as one in the classification
        loss, since its background is learned too. `contents`, the part of the input that each image
        covers, is not used.
        """
        locations = self.locations
        parts: dict[str, list[Tensor]] = {"place": [], "class": [], "box": []}
        counted = 0
        for number, (image_boxes, classes) in enumerate(zip(boxes, labels, strict=True)):
            matched = assign_locations(image_boxes, locations)
            positive = (matched >= 0).nonzero()[:, 0]
            parts["place"].append(positive + number * len(locations.squares))
            parts["class"].append(classes[matched[positive]])
            parts["box"].append(image_boxes[matched[positive]])
            counted += max(len(positive), 1)
        targets = {name: torch.cat(tensors) for name, tensors in parts.items()}
        targets["centerness"] = _centerness(targets, locations)
        positives = torch.tensor(float(len(targets["place"])))
        return targets, {
            "classes": torch.tensor(float(counted)),
            "boxes": positives,
            "centerness": positives.clone(),
        }

    def learned_boxes(
        self, targets: Mapping[str, Tensor], contents: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the boxes that a location learns, [M, 4] on the canvas, and the labels of each
        image. `contents` are those of `make_targets`.
        """
        images = targets["place"] // len(self.locations.squares)
        found = torch.cat([targets["box"], targets["class"][:, None].to(targets["box"])], dim=1)
        each = [torch.unique(found[images == number], dim=0) for number in range(len(contents))]
        return [(rows[:, :4], rows[:, 4].long()) for rows in each]

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the sums of the focal loss of the classes, the GIoU loss of the boxes and the
        cross-entropy of the centerness.
        """
        logits = outputs["cls_logits"].flatten(0, 1)  # [B * L, C]
        place = targets["place"]
        one_hot = torch.zeros_like(logits)
        one_hot[place, targets["class"]] = 1.0
        boxes = _decode(outputs["bbox_regression"].flatten(0, 1)[place], place, self.locations)
        centerness = outputs["bbox_ctrness"].flatten()[place]
        return {
            "classes": sigmoid_focal_loss(logits, one_hot, reduction="sum"),
            "boxes": generalized_box_iou_loss(boxes, targets["box"], reduction="sum"),
            "centerness": functional.binary_cross_entropy_with_logits(
                centerness, targets["centerness"], reduction="sum"
            ),
        }

    def candidates(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the "boxes" [B, L, 4] and "scores" [B, L, C] of all locations, unfiltered.

        Boxes are xyxy in pixels of the input.
        """
        sides = outputs["bbox_regression"]
        place = torch.arange(sides.shape[1], device=sides.device)
        return {"boxes": _decode(sides, place, self.locations), "scores": _scores(outputs)}

    def detect(
        self, outputs: Mapping[str, Tensor], contents: Tensor, suppression: Suppression
    ) -> list[dict[str, Tensor]]:
        """Return {"boxes" [K, 4], "scores" [K], "labels" [K]} of each image, best first."""
        levels = self.locations.levels
        starts = [sum(levels[:level]) for level in range(len(levels))]
        detections = []
        for scores, sides in zip(_scores(outputs), outputs["bbox_regression"], strict=True):
            classes = scores.shape[-1]
            parts: list[tuple[Tensor, Tensor]] = []
            for start, length in zip(starts, levels, strict=True):
                level = scores[start : start + length].flatten()  # [length * C]
                best, index = level.topk(min(CANDIDATES, len(level)))
                above = best > suppression.score
                parts.append((best[above], index[above] + start * classes))
            best, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            place, labels = index // classes, index % classes
            boxes = clip_boxes_to_image(_decode(sides[place], place, self.locations), self.size)
            keep = batched_nms(boxes, best, labels, suppression.overlap)[: suppression.most]
            detections.append({"boxes": boxes[keep], "scores": best[keep], "labels": labels[keep]})
        return detections


def _centerness(targets: Mapping[str, Tensor], locations: Locations) -> Tensor:
    """Return the centerness [P]: 1 at the center of a box, falling to 0 at its sides."""
    squares = locations.squares[targets["place"] % len(locations.squares)]
    centers = (squares[:, :2] + squares[:, 2:]) / 2
    before, behind = centers - targets["box"][:, :2], targets["box"][:, 2:] - centers  # [P, 2]
    ratios = torch.minimum(before, behind) / torch.maximum(before, behind)
    return ratios.prod(dim=1).sqrt()


def _decode(sides: Tensor, place: Tensor, locations: Locations) -> Tensor:
    """Convert distances to the sides of boxes, in strides [..., P, 4], to boxes [..., P, 4]."""
    squares = locations.squares.to(sides.device)[place % len(locations.squares)]
    strides = (squares[:, 2:] - squares[:, :2]).repeat(1, 2)
    centers = ((squares[:, :2] + squares[:, 2:]) / 2).repeat(1, 2)
    signs = sides.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return centers + signs * sides * strides


def _scores(outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the score of each class at each location, [B, L, C]."""
    return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
