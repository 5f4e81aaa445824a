"""Rows as people see them: their text, and small pictures of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from finetune.batching.data_loader import encode_batch
from finetune.task import Task
from finetune.task_parts.samples import Row

SIDE = 56  # pixels of a thumbnail


def text_of(row: Row, inputs: Sequence[str]) -> str:
    """Return the texts of a row, or the name of the file that it lies in; "" without either."""
    parts = [row[name] for name in inputs if isinstance(row.get(name), str)]
    if not parts:
        cells = [row.get(name) for name in inputs]
        parts = [str(cell["path"]) for cell in cells if isinstance(cell, dict) and cell.get("path")]
    if not parts and isinstance(row.get("file"), str):
        parts = [row["file"]]
    return "\n".join(parts)


def draw_thumbnails(task: Task, rows: Sequence[Row], side: int = SIDE) -> list[Image.Image]:
    """Draw rows as the network sees them, without augmentation; [] if the task has no pictures."""
    thumbnails = []
    for row in rows:
        pictures = task.views.pictures(encode_batch(task, [row]))
        if not pictures:
            return []
        thumbnail = Image.fromarray(pictures[0].pixels)
        thumbnail.thumbnail((side, side))
        thumbnails.append(thumbnail)
    return thumbnails


def as_data_url(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
