"""Tasks: each wraps a pretrained network and defines its rows, metrics and predictions.

The Config of a task is imported without torch, so that config faults are reported at once. Also
exports building blocks for custom tasks: they find columns, load tokenizers and networks of
transformers, and list the blocks and linear layers of a network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.backbones.pretrained import from_pretrained, label_keys, load_network
    from tasks.backbones.seams import find_blocks, linear_layers
    from tasks.classification.label_columns import find_column
    from tasks.detection.detection_config import ObjectDetectionConfig
    from tasks.generation.generation_config import TextGenerationConfig
    from tasks.image_classification import ImageClassification
    from tasks.image_formats.image_classification_config import ImageClassificationConfig
    from tasks.masked_image_modeling import MaskedImageModeling
    from tasks.masked_language_modeling import MaskedLanguageModeling
    from tasks.masks.segmentation_config import SegmentationConfig
    from tasks.object_detection import ObjectDetection
    from tasks.pretraining.masked_image_config import MaskedImageModelingConfig
    from tasks.pretraining.masked_text_config import MaskedLanguageModelingConfig
    from tasks.segmentation import Segmentation
    from tasks.text.text_config import TextClassificationConfig
    from tasks.text.tokenization import load_tokenizer, pad_tokens
    from tasks.text_classification import TextClassification
    from tasks.text_generation import TextGeneration

_HOMES = {
    "ImageClassification": "image_classification",
    "ImageClassificationConfig": "image_formats.image_classification_config",
    "MaskedImageModeling": "masked_image_modeling",
    "MaskedImageModelingConfig": "pretraining.masked_image_config",
    "MaskedLanguageModeling": "masked_language_modeling",
    "MaskedLanguageModelingConfig": "pretraining.masked_text_config",
    "ObjectDetection": "object_detection",
    "ObjectDetectionConfig": "detection.detection_config",
    "Segmentation": "segmentation",
    "SegmentationConfig": "masks.segmentation_config",
    "TextClassification": "text_classification",
    "TextClassificationConfig": "text.text_config",
    "TextGeneration": "text_generation",
    "TextGenerationConfig": "generation.generation_config",
    "find_blocks": "backbones.seams",
    "find_column": "classification.label_columns",
    "from_pretrained": "backbones.pretrained",
    "label_keys": "backbones.pretrained",
    "linear_layers": "backbones.seams",
    "load_network": "backbones.pretrained",
    "load_tokenizer": "text.tokenization",
    "pad_tokens": "text.tokenization",
}

__all__ = [
    "ImageClassification",
    "ImageClassificationConfig",
    "MaskedImageModeling",
    "MaskedImageModelingConfig",
    "MaskedLanguageModeling",
    "MaskedLanguageModelingConfig",
    "ObjectDetection",
    "ObjectDetectionConfig",
    "Segmentation",
    "SegmentationConfig",
    "TextClassification",
    "TextClassificationConfig",
    "TextGeneration",
    "TextGenerationConfig",
    "find_blocks",
    "find_column",
    "from_pretrained",
    "label_keys",
    "linear_layers",
    "load_network",
    "load_tokenizer",
    "pad_tokens",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first access (PEP 562), so that other tasks stay unloaded."""
    if name in _HOMES:
        return getattr(import_module(f"tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'tasks' has no attribute {name!r}")
