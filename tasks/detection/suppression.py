"""Selection of detections: thresholds, and the merging of the tiles of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Detections = dict[str, Tensor]
"""{"boxes" [K, 4] xyxy, "scores" [K], "labels" [K]} of an image or tile, best first."""


@dataclass(frozen=True)
class Suppression:
    """Thresholds of the selection.

    Attributes:
        score: minimum score.
        overlap: IoU above which the lower-scoring of two boxes of a class is dropped.
        most: maximum number of boxes per image.
    """

    score: float
    overlap: float = 0.6
    most: int = 100


def join_tiles(
    detections: Sequence[Detections], tiles: Sequence[int], suppression: Suppression
) -> list[Detections]:
    """Merge the detections of the tiles of each image, all in pixels of the image.

    `tiles` is the number of tiles of each image. Duplicates from overlapping tiles are dropped. If
    a box of one tile contains that of another, such as the part of an object that the border of a
    tile cuts off, only the one with the higher score is kept.
    """
    joined, start = [], 0
    for count in tiles:
        parts = detections[start : start + count]
        start += count
        joined.append(parts[0] if count == 1 else _join(parts, suppression))
    return joined


def _join(parts: Sequence[Detections], suppression: Suppression) -> Detections:
    boxes, scores, labels = (
        torch.cat([part[name] for part in parts]) for name in ("boxes", "scores", "labels")
    )
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)
    corners = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    ends = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (ends - corners).clamp(min=0).prod(2)  # [K, K]
    union = areas[:, None] + areas[None] - shared
    # Share of the smaller box that is inside the larger: a partial box is inside the whole one.
    tile = torch.cat([torch.full((len(part["scores"]),), n) for n, part in enumerate(parts)])[
        order.cpu()
    ]
    inside = shared / torch.minimum(areas[:, None], areas[None]).clamp(min=1e-9)
    other_tile = (tile[:, None] != tile[None]).to(boxes.device)
    overlaps = shared / union.clamp(min=1e-9) > suppression.overlap
    overlaps |= other_tile & (inside > 0.8)
    duplicates = (overlaps & (labels[:, None] == labels[None])).cpu()
    kept: list[int] = []
    dropped = torch.zeros(len(scores), dtype=torch.bool)
    for index in range(len(scores)):
        if not dropped[index]:
            kept.append(index)
            dropped |= duplicates[index]
    chosen = torch.tensor(kept[: suppression.most], dtype=torch.int64, device=boxes.device)
    return {"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen]}
