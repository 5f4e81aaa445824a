"""Detections as a person or a program reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from finetune.task import REPOSITORY, Prediction

USAGE = f"""from transformers import pipeline

detect = pipeline("object-detection", model="{REPOSITORY}")
print(detect("photo.jpg", threshold=0.3))
"""
"""What the card of a detector of transformers shows."""
SIDES = ("xmin", "ymin", "xmax", "ymax")


def say(found: Mapping[str, Tensor], names: Sequence[str]) -> Prediction:
    """{"detections": [{"score", "label", "box": {"xmin", ...}}]} of the detections
    of a picture; boxes in pixels, to a hundredth.
    """
    rows = zip(*(found[name].tolist() for name in ("scores", "labels", "boxes")), strict=True)
    return {
        "detections": [
            {
                "score": score,
                "label": names[label],
                "box": {side: round(value, 2) for side, value in zip(SIDES, box, strict=True)},
            }
            for score, label, box in rows
        ]
    }


def to_pipeline(prediction: Prediction) -> list[dict[str, Any]]:
    """The list that the object-detection pipeline of transformers gives: boxes in whole pixels."""
    return [
        {**item, "box": {side: int(value) for side, value in item["box"].items()}}
        for item in prediction["detections"]
    ]
