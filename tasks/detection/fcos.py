"""FCOS (Tian et al. 2019, arXiv:1904.01355) of torchvision: its network, and its losses as sums.

torchvision's own forward gives losses in train mode and boxes in eval mode, each loss as a mean
over a batch. Here the same network gives the same outputs in both modes; which locations are
positive is known from boxes and locations alone, so what a loss is divided by is counted before the
forward pass.

Shapes: B images, L locations on all levels of the pyramid, C classes, M boxes of an image,
P positive locations of a batch. Boxes are xyxy in pixels of the network's input.
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
"""Strides around the middle of a box within which a location may be positive."""
START = 2.0
"""Strides from a location to the sides of the box that a new head predicts. torchvision starts at
0, where the boxes are empty and half of the head is cut off by its ReLU.
"""
CANDIDATES = 1000
"""Best boxes of a level that enter the suppression."""


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
    """torchvision's FCOS on a network of timm, with a new pyramid and head; `size` is (H, W)."""
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
    """Where the head predicts: a square of the side of its stride around each location.

    Attributes:
        squares: float32 [L, 4].
        levels: how many locations each level has.
    """

    squares: Tensor
    levels: tuple[int, ...]


@lru_cache(maxsize=16)
def locations(size: tuple[int, int]) -> Locations:
    """The locations of an input of (H, W) pixels, as torchvision places them."""
    height, width = size
    grids = [[-(-height // stride), -(-width // stride)] for stride in PYRAMID_STRIDES]
    strides = [
        [torch.tensor(height // rows), torch.tensor(width // columns)] for rows, columns in grids
    ]
    generator = _generator()
    generator.set_cell_anchors(torch.float32, torch.device("cpu"))
    levels = generator.grid_anchors(grids, strides)
    return Locations(torch.cat(levels), tuple(len(level) for level in levels))


def assign(boxes: Tensor, places: Locations) -> Tensor:
    """The box that each location answers for, int64 [L]; -1: none. `boxes` is [M, 4].

    A location answers for the smallest box around it whose middle is near and whose size is of its
    level.
    """
    if not len(boxes):
        return torch.full((len(places.squares),), -1)
    squares = places.squares
    centers = (squares[:, :2] + squares[:, 2:]) / 2  # [L, 2]
    strides = squares[:, 2] - squares[:, 0]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2  # [M, 2]
    offset = (centers[:, None] - middles[None]).abs().amax(dim=2)  # [L, M]
    sides = torch.cat(
        [centers[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - centers[:, None]], 2
    )
    least, most = strides * 4, strides * 8
    least[: places.levels[0]] = 0
    most[-places.levels[-1] :] = torch.inf
    reach = sides.amax(dim=2)  # [L, M]
    fits = (offset < RADIUS * strides[:, None]) & (sides.amin(dim=2) > 0)
    fits &= (reach > least[:, None]) & (reach < most[:, None])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ranked = torch.where(fits, areas[None].expand_as(fits), torch.inf)
    smallest, box = ranked.min(dim=1)
    return torch.where(smallest.isfinite(), box, -1)


class FcosHead:
    """How FCOS is judged on inputs of one size (H, W)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.places = locations(size)

    def make_targets(
        self, boxes: Sequence[Tensor], labels: Sequence[Tensor], contents: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the positive locations of B images should say, and the count of each loss term.

        Targets: "place" [P], counted through the batch, "class" [P], "box" [P, 4], "centerness"
        [P]. An image without a positive location counts as one for the classes: its background is
        learned too. What part of the input a picture fills (`contents`) changes nothing.
        """
        places = self.places
        found: dict[str, list[Tensor]] = {"place": [], "class": [], "box": []}
        counted = 0
        for number, (own, classes) in enumerate(zip(boxes, labels, strict=True)):
            matched = assign(own, places)
            positive = (matched >= 0).nonzero()[:, 0]
            found["place"].append(positive + number * len(places.squares))
            found["class"].append(classes[matched[positive]])
            found["box"].append(own[matched[positive]])
            counted += max(len(positive), 1)
        targets = {name: torch.cat(parts) for name, parts in found.items()}
        targets["centerness"] = _centerness(targets, places)
        positives = torch.tensor(float(len(targets["place"])))
        return targets, {
            "classes": torch.tensor(float(counted)),
            "boxes": positives,
            "centerness": positives.clone(),
        }

    def losses(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Focal loss of the classes, GIoU loss of the boxes, cross-entropy of the centerness, as
        sums.
        """
        logits = outputs["cls_logits"].flatten(0, 1)  # [B * L, C]
        place = targets["place"]
        wanted = torch.zeros_like(logits)
        wanted[place, targets["class"]] = 1.0
        boxes = _decode(outputs["bbox_regression"].flatten(0, 1)[place], place, self.places)
        centerness = outputs["bbox_ctrness"].flatten()[place]
        return {
            "classes": sigmoid_focal_loss(logits, wanted, reduction="sum"),
            "boxes": generalized_box_iou_loss(boxes, targets["box"], reduction="sum"),
            "centerness": functional.binary_cross_entropy_with_logits(
                centerness, targets["centerness"], reduction="sum"
            ),
        }

    def candidates(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every location's "boxes" [B, L, 4], xyxy in pixels of the input, and "scores" [B, L, C],
        before any is chosen.
        """
        sides = outputs["bbox_regression"]
        place = torch.arange(sides.shape[1], device=sides.device)
        return {"boxes": _decode(sides, place, self.places), "scores": _chances(outputs)}

    def detect(
        self, outputs: Mapping[str, Tensor], contents: Tensor, suppression: Suppression
    ) -> list[dict[str, Tensor]]:
        """{"boxes" [K, 4], "scores" [K], "labels" [K]} of each image, best first."""
        levels = self.places.levels
        starts = [sum(levels[:level]) for level in range(len(levels))]
        found = []
        for scores, sides in zip(_chances(outputs), outputs["bbox_regression"], strict=True):
            classes = scores.shape[-1]
            parts: list[tuple[Tensor, Tensor]] = []
            for start, length in zip(starts, levels, strict=True):
                level = scores[start : start + length].flatten()  # [length * C]
                best, index = level.topk(min(CANDIDATES, len(level)))
                above = best > suppression.score
                parts.append((best[above], index[above] + start * classes))
            best, index = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
            place, labels = index // classes, index % classes
            boxes = clip_boxes_to_image(_decode(sides[place], place, self.places), self.size)
            keep = batched_nms(boxes, best, labels, suppression.overlap)[: suppression.most]
            found.append({"boxes": boxes[keep], "scores": best[keep], "labels": labels[keep]})
        return found


def _centerness(targets: Mapping[str, Tensor], places: Locations) -> Tensor:
    """1 in the middle of a box, falling to 0 at its sides, [P]."""
    squares = places.squares[targets["place"] % len(places.squares)]
    centers = (squares[:, :2] + squares[:, 2:]) / 2
    before, behind = centers - targets["box"][:, :2], targets["box"][:, 2:] - centers  # [P, 2]
    ratios = torch.minimum(before, behind) / torch.maximum(before, behind)
    return ratios.prod(dim=1).sqrt()


def _decode(sides: Tensor, place: Tensor, places: Locations) -> Tensor:
    """Boxes [..., P, 4] from the distances to their sides in strides, [..., P, 4]."""
    squares = places.squares.to(sides.device)[place % len(places.squares)]
    strides = (squares[:, 2:] - squares[:, :2]).repeat(1, 2)
    centers = ((squares[:, :2] + squares[:, 2:]) / 2).repeat(1, 2)
    signs = sides.new_tensor([-1.0, -1.0, 1.0, 1.0])
    return centers + signs * sides * strides


def _chances(outputs: Mapping[str, Tensor]) -> Tensor:
    """The score of each class at each location, [B, L, C]."""
    return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
