"""Contact sheet of what the network will see: rows, their augmentations, and the first batch.

The task renders the images, from the very batches that the training loop will read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from finetune.batching.data_loader import load_batches
from finetune.batching.plan import MicroBatch
from finetune.config.formats import WRITTEN_IMAGES
from finetune.errors import ConfigError, nearest
from finetune.task_parts.views import Picture
from finetune.training.state import Live

ROWS = 6
EPOCHS = 7
GAP = 6  # pixels between images
LINE = 14  # pixels of a line of text
LEAST = 112  # pixels: smaller images are enlarged by an integer factor

Line = tuple[str, list[Picture]]
"""Images side by side with a title above them; "" for no title."""


def check_sheet(path: Path) -> None:
    """Raise ConfigError if no sheet can be written to this path."""
    if path.suffix.lower() not in WRITTEN_IMAGES:
        raise ConfigError(
            f"--draw {path}: unknown image format {path.suffix!r}; "
            f"{nearest(path.suffix, WRITTEN_IMAGES)}"
        )
    if path.is_dir() or not path.absolute().parent.is_dir():
        problem = "is a folder" if path.is_dir() else "its folder does not exist"
        raise ConfigError(f"--draw {path}: {problem}; name a file in an existing folder")


def draw_contact_sheet(live: Live, path: Path) -> None:
    """Write the contact sheet of a run that is ready to train.

    Raises ConfigError if the task has no images.
    """
    lines = list(_lines(live))
    if not all(pictures for _, pictures in lines):
        raise ConfigError(
            f"--draw {path}: {live.config.task.name} has no images to draw; remove the option"
        )
    try:
        _paste(lines).save(path)
    except OSError as error:
        raise ConfigError(f"--draw {path}: cannot be written: {error.strerror or error}") from error


def _lines(live: Live) -> Iterator[Line]:
    """Yield some rows, each next to its augmentations in the first epochs; then the first batch."""
    micro_batch = live.plan.micro_batches(0, live.accelerator.process_index)[0]
    if live.task.augments:
        epochs = (None, *range(EPOCHS))
        for number, index in enumerate(micro_batch.indices[:ROWS]):
            views = _pictures(live, [MicroBatch((index,), epoch=epoch) for epoch in epochs])
            augmented = [
                Picture(f"epoch {n}", view.pixels) for n, view in enumerate(views[1:], start=1)
            ]
            title = "" if number else "rows, and how training augments them"
            yield title, [*views[:1], *augmented]
    cells = _pictures(live, [micro_batch])
    for start in range(0, max(len(cells), 1), EPOCHS + 1):
        yield "" if start else "the first batch", cells[start : start + EPOCHS + 1]


def _pictures(live: Live, micro_batches: Sequence[MicroBatch]) -> list[Picture]:
    """Render all samples of some batches, built as in the training loop."""
    rows = replace(live.train, features=None)
    seed, device = live.config.train.seed, live.accelerator.device
    batches = load_batches(rows, live.task, micro_batches, seed=seed, device=device)
    return [picture for _, batch in batches for picture in live.task.views.pictures(batch)]


def _paste(lines: Sequence[Line]) -> Image.Image:
    shapes = [picture.pixels.shape for _, pictures in lines for picture in pictures]
    height, width = (max(sizes) for sizes in list(zip(*shapes, strict=True))[:2])
    scale = max(1, math.ceil(LEAST / max(height, width)))
    high, wide = height * scale + GAP + LINE, width * scale + GAP
    most = max(len(pictures) for _, pictures in lines)
    titles = sum(bool(title) for title, _ in lines) * LINE
    sheet = Image.new("RGB", (wide * most + GAP, high * len(lines) + titles + GAP), "white")
    pen, top = ImageDraw.Draw(sheet), GAP
    for title, pictures in lines:
        if title:
            pen.text((GAP, top), title, fill="black")
            top += LINE
        for place, picture in enumerate(pictures):
            left, (rows, columns) = GAP + place * wide, picture.pixels.shape[:2]
            fits = int((wide - GAP) // pen.textlength("n"))
            pen.text((left, top), picture.caption[:fits], fill="black")
            size = columns * scale, rows * scale
            shown = Image.fromarray(picture.pixels).resize(size, Image.Resampling.NEAREST)
            sheet.paste(shown, (left, top + LINE))
        top += high
    return sheet
