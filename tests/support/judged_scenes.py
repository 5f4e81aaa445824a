"""Statistics of detectors, as evaluation gathers them, from boxes written down or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.detection.detection_encoder import pad_boxes


def box_stats(
    found: Sequence[Any], true: Sequence[Any], crowds: Sequence[bool] | None = None
) -> dict[str, Tensor]:
    """Return the statistics of one image: (box, label, score) found, (box, label) true."""
    boxes = torch.tensor([box for box, *_ in true], dtype=torch.float32).reshape(-1, 4)
    stats = {
        "boxes": torch.tensor([box for box, *_ in found], dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor([score for *_, score in found], dtype=torch.float32),
        "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
        "true_boxes": boxes,
        "true_labels": torch.tensor([label for _, label in true], dtype=torch.int64),
        "true_areas": (boxes[:, 2:] - boxes[:, :2]).prod(1),
        "crowds": torch.tensor(list(crowds or [False] * len(true)), dtype=torch.bool),
    }
    return join_stats([stats])


def join_stats(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the statistics of several images, padded to one size."""
    joined = {name: pad_boxes([each[name] for each in images]) for name in images[0]}
    joined["found"] = torch.tensor([len(each["scores"]) for each in images])
    joined["present"] = torch.tensor([len(each["true_labels"]) for each in images])
    return joined


def random_stats(seed: int, images: int = 12, crowds: float = 0.0) -> dict[str, Tensor]:
    """Return images with true boxes of 3 of 4 classes, and errors of every kind; all scores differ."""
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(np.arange(1, 4000)) / 4000)
    made = []
    for _ in range(images):
        true = int(rng.integers(0, 8))
        start = rng.uniform(0, 300, (true, 2))
        boxes = np.hstack([start, start + rng.uniform(10, 120, (true, 2))])
        labels, found = rng.integers(0, 3, true), list[Any]()
        for _ in range(int(rng.integers(0, 40))):
            score = float(next(scores))
            if true and rng.random() < 0.75:  # near a true box, some of another class
                place = int(rng.integers(true))
                sides = np.tile(boxes[place, 2:] - boxes[place, :2], 2)
                box = boxes[place] + rng.normal(0, 0.12, 4) * sides
                label = int(labels[place]) if rng.random() < 0.7 else int(rng.integers(0, 3))
            else:
                corner = rng.uniform(0, 300, 2)
                box = np.hstack([corner, corner + rng.uniform(10, 120, 2)])
                label = int(rng.integers(0, 3))
            found.append(([*box[:2], *np.maximum(box[2:], box[:2] + 1)], label, score))
        found.sort(key=lambda each: -each[2])
        given = [(box, int(label)) for box, label in zip(boxes.tolist(), labels, strict=True)]
        one = box_stats(found, given, list(rng.random(true) < crowds))
        count, present = int(one.pop("found")), int(one.pop("present"))
        ends = {name: present if name in TRUE else count for name in one}
        made.append({name: values[0, : ends[name]] for name, values in one.items()})
    return join_stats(made)


TRUE = ("true_boxes", "true_labels", "true_areas", "crowds")
