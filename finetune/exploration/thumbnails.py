"""Small pictures of rows, and mosaics of the pictures of each cluster."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.batching.data_loader import encode_batch
from finetune.io.files import atomic
from finetune.task import Task
from finetune.task_parts import Row

SIDE = 56  # pixels
_COLUMNS, _ROWS = 8, 4  # of a mosaic


def draw_thumbnails(task: Task, rows: Sequence[Row]) -> list[Image.Image]:
    """Draw rows as the network sees them, without augmentation; [] if the task has no pictures."""
    thumbnails = []
    for row in rows:
        pictures = task.views.pictures(encode_batch(task, [row]))
        if not pictures:
            return []
        thumbnail = Image.fromarray(pictures[0].pixels)
        thumbnail.thumbnail((SIDE, SIDE))
        thumbnails.append(thumbnail)
    return thumbnails


def as_data_url(picture: Image.Image) -> str:
    """Return a picture as a URL that holds it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def choose_typical(
    points: np.ndarray, clusters: np.ndarray, centers: np.ndarray
) -> list[list[int]]:
    """Return the rows of each cluster that are nearest to its center, as many as a mosaic shows."""
    chosen = []
    for number, center in enumerate(centers):
        (members,) = np.nonzero(clusters == number)
        distances = np.linalg.norm(points[members] - center, axis=1)
        order = np.argsort(distances, kind="stable")[: _COLUMNS * _ROWS]
        chosen.append(members[order].tolist())
    return chosen


def save_mosaic(pictures: Sequence[Image.Image], path: Path) -> None:
    """Write pictures side by side to a PNG file."""
    rows = -(-len(pictures) // _COLUMNS)
    mosaic = Image.new("RGB", (_COLUMNS * SIDE, rows * SIDE), "white")
    for number, picture in enumerate(pictures):
        mosaic.paste(picture, (number % _COLUMNS * SIDE, number // _COLUMNS * SIDE))
    with atomic(path) as partial:
        mosaic.save(partial, "PNG")
