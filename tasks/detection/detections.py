"""Detections as a person or a program reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from finetune.task import REPOSITORY, Prediction

USAGE = """
from transformers import pipeline

pipe = pipeline("object-detection", "{repository}")


def detect(path):
    return pipe(path, threshold={threshold})


print(detect("picture.jpg"))
"""
SIDES = ("xmin", "ymin", "xmax", "ymax")


def code_of(threshold: float) -> str:
    """The code on the card of a detector of transformers; it defines `detect`: a path -> boxes.

    There is none for an adapter: peft asks a network for its input embeddings, which the detectors
    of transformers 5.24 refuse to be asked for.
    """
    return USAGE.format(repository=REPOSITORY, threshold=threshold).strip()


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
