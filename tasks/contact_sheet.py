"""What a network sees: a sheet of pictures as they are, and as training augments them.

Shapes: H, W pixels of an input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from finetune.task import Row
from tasks.image_classification import ImageClassification
from tasks.preprocessing import INPUT

GAP = 6  # pixels between pictures
LINE = 14  # pixels of a line of text


def draw_samples(
    task: ImageClassification, rows: Sequence[Row], path: Path, *, views: int = 6, seed: int = 0
) -> Path:
    """Write a sheet with a line for each row: the plain input, then `views` epochs of it.

    The last line shows a batch of all rows as it is collated, blended where MixUp or CutMix do so.
    The task must have been set up.
    """
    lines: list[tuple[str, list[Tensor]]] = []
    for index, row in enumerate(rows):
        drawn = [
            task.encode(row, np.random.default_rng([seed, epoch, index])) for epoch in range(views)
        ]
        samples = [task.encode(row), *drawn]
        label = str(row.get(task.config.label or "", ""))
        lines.append((label, [sample["inputs"][INPUT] for sample in samples]))
    batch = [task.encode(row, np.random.default_rng([seed, 0, n])) for n, row in enumerate(rows)]
    mixed = task.collate(batch, np.random.default_rng(seed))["inputs"][INPUT]
    starts = range(0, len(rows), views + 1)
    lines += [("a batch", list(mixed[start : start + views + 1])) for start in starts]
    _paste(task, lines).save(path)
    return path


def _paste(task: ImageClassification, lines: Sequence[tuple[str, list[Tensor]]]) -> Image.Image:
    height, width = task.preprocessing_.size
    scale = max(1, math.ceil(96 / max(height, width)))  # small inputs are shown larger
    step = (height * scale + GAP + LINE, width * scale + GAP)
    most = max(len(pictures) for _, pictures in lines)
    sheet = Image.new("RGB", (step[1] * most + GAP, step[0] * len(lines) + GAP), "white")
    for number, (label, pictures) in enumerate(lines):
        top = GAP + number * step[0]
        ImageDraw.Draw(sheet).text((GAP, top), label, fill="black")
        for place, picture in enumerate(pictures):
            pixels = task.preprocessing_.restore(picture).permute(1, 2, 0).numpy()  # [H, W, 3]
            image = Image.fromarray(pixels).resize(
                (width * scale, height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(image, (GAP + place * step[1], top + LINE))
    return sheet
