"""The adapters: each wraps a pretrained network for one task.

It says what a row is, how it is judged and what a prediction looks like.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.image_classification import ImageClassification
    from tasks.object_detection import ObjectDetection
    from tasks.segmentation import Segmentation
    from tasks.text_classification import TextClassification
    from tasks.text_generation import TextGeneration

_HOMES = {
    "ImageClassification": "tasks.image_classification",
    "ObjectDetection": "tasks.object_detection",
    "Segmentation": "tasks.segmentation",
    "TextClassification": "tasks.text_classification",
    "TextGeneration": "tasks.text_generation",
}

__all__ = [
    "ImageClassification",
    "ObjectDetection",
    "Segmentation",
    "TextClassification",
    "TextGeneration",
]


def __getattr__(name: str) -> Any:
    """Import an adapter when it is first asked for (PEP 562): the others stay unloaded."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")
