"""What of all that a detector says is kept, of an image and of the tiles of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Detections = dict[str, Tensor]
"""{"boxes" [K, 4] xyxy, "scores" [K], "labels" [K]} of an image, best first."""


@dataclass(frozen=True)
class Suppression:
    """What is kept.

    Attributes:
        score: the least score.
        overlap: intersection over union from which on the weaker of two boxes of a class goes.
        most: boxes kept of an image.
    """

    score: float
    overlap: float = 0.6
    most: int = 100


def join_tiles(
    found: Sequence[Detections], tiles: Sequence[int], keeps: Suppression
) -> list[Detections]:
    """Detections of each image from those of its tiles, in pixels of the image.

    `tiles` says how many of `found` are of each image. What two tiles both saw stays once; an
    object that a border cuts is said by the part, too, where that is not in a larger box.
    """
    joined, start = [], 0
    for count in tiles:
        own = found[start : start + count]
        start += count
        joined.append(own[0] if count == 1 else _join(own, keeps))
    return joined


def _join(parts: Sequence[Detections], keeps: Suppression) -> Detections:
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
    # Of the smaller of two boxes of different tiles: a piece lies in the whole.
    tile = torch.cat([torch.full((len(part["scores"]),), n) for n, part in enumerate(parts)])[
        order.cpu()
    ]
    inside = shared / torch.minimum(areas[:, None], areas[None]).clamp(min=1e-9)
    apart = (tile[:, None] != tile[None]).to(boxes.device)
    close = (shared / union.clamp(min=1e-9) > keeps.overlap) | (apart & (inside > 0.8))
    rivals = (close & (labels[:, None] == labels[None])).cpu()
    kept: list[int] = []
    gone = torch.zeros(len(scores), dtype=torch.bool)
    for place in range(len(scores)):
        if not gone[place]:
            kept.append(place)
            gone |= rivals[place]
    chosen = torch.tensor(kept[: keeps.most], dtype=torch.int64, device=boxes.device)
    return {"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen]}
