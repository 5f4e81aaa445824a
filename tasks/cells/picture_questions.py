"""Columns of a text about the image of its row: a question, a statement, a hypothesis.

{"image": "1.png", "question": "Is it raining?", "answer": "yes"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import AmbiguityError

_ABOUT_IMAGES = (
    "question",
    "questions",
    "query",
    "hypothesis",
    "premise",
    "sentence",
    "statement",
    "expression",
    "instruction",
    "prompt",
    "text",
)


def names_image(value: Any) -> bool:
    """True for a cell that holds the path of an image, or an image itself."""
    if isinstance(value, str):
        return value.lower().endswith((*IMAGE_ENDINGS,))
    if isinstance(value, Mapping):
        return {"bytes", "path"} <= value.keys()
    return hasattr(value, "getbbox")  # of Pillow


def refuse_picture_questions(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raise AmbiguityError for a text and a label about an image, as in sets of VQA.

    The label belongs to both, and tasks of this kit read one of them.
    """
    lowered = {name.lower(): name for name in columns}
    image = next((name for name, cells in columns.items() if any(map(names_image, cells))), None)
    texts = [lowered[name] for name in _ABOUT_IMAGES if name in lowered]
    text = next((name for name in texts if name != image and _holds_words(columns[name])), None)
    if image is not None and text is not None:
        raise AmbiguityError(
            f"an image-and-text set: a label belongs to the image in {image!r} and the"
            f" text in {text!r} together (as in visual question answering), and no task of this kit"
            f" reads both; task=image-classification task.image={image} reads the images alone,"
            f" task=text-classification task.text={text} the texts alone"
        )


def _holds_words(values: Sequence[Any]) -> bool:
    """True if most of the known values are texts of several words."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    return bool(texts) and sum(" " in text.strip() for text in texts) > len(texts) / 2
