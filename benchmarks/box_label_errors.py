"""Planted annotation errors of boxes: how many of them the report of a detector lists.

A trained detector is evaluated once; for each seed, a share of the true boxes is then given another
class, moved, or left out, and as many boxes are put where no object is.

    python examples/make_scenes.py --train 200 --test 60
    finetune train configs/object-detection/scenes.yaml
    python examples/make_scenes.py --train 1 --test 120 --seed 5 --folder data/other-scenes
    python -m benchmarks.box_label_errors RUN data/other-scenes

Prints recall for each kind of planted error, and precision over all that is listed and over as many
as were planted.
"""

from __future__ import annotations

import argparse
from collections import Counter
from statistics import mean

import numpy as np
import torch
from torch import Tensor

KINDS = ("class", "place", "left out", "added")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--split", default="test")
    parser.add_argument(
        "--share", type=float, default=0.1, help="of true boxes, all kinds together"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    return parser.parse_args()


def evaluate(run: str, data: str, split: str) -> tuple[dict[str, Tensor], int]:
    """Return the statistics of a detector on a split, and its number of classes."""
    from finetune.data.source import make_source
    from finetune.inference.evaluate import evaluate_source
    from finetune.reporting.console import Console

    source = make_source(data, {"split": split}, "call", takes_options=True, keywords=())
    measured = evaluate_source(run, source, Console(enabled=False), 32)
    return dict(measured.evaluation.stats), len(measured.task.state()["labels"])


def plant(
    stats: dict[str, Tensor], classes: int, share: float, rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[tuple[int, str, int], np.ndarray]]:
    """Return statistics with planted errors, and these: {(number, kind, image): box}."""
    planted = dict[tuple[int, str, int], np.ndarray]()
    changed = {name: stats[name].clone() for name in stats}
    room = 1 + int(stats["present"].max())
    for name in ("true_boxes", "true_labels", "true_areas", "crowds"):
        shape = (len(stats["present"]), room, *stats[name].shape[2:])
        changed[name] = torch.zeros(shape, dtype=stats[name].dtype)
        changed[name][:, : stats[name].shape[1]] = stats[name]
    boxes = [
        (image, n) for image, count in enumerate(stats["present"].tolist()) for n in range(count)
    ]
    wanted = max(len(KINDS), round(share * len(boxes)))
    chosen = [boxes[index] for index in rng.choice(len(boxes), wanted, replace=False)]
    drop = []
    for order, (image, n) in enumerate(chosen):
        kind, box = KINDS[order % len(KINDS)], stats["true_boxes"][image, n].numpy()
        sides = box[2:] - box[:2]
        if kind == "class":
            label = int(stats["true_labels"][image, n])
            changed["true_labels"][image, n] = (label + int(rng.integers(1, classes))) % classes
        elif kind == "place":
            box = box + np.tile(rng.choice([-0.5, 0.5], 2) * sides, 2).astype(np.float32)
            changed["true_boxes"][image, n] = torch.from_numpy(box)
        elif kind == "left out":
            drop.append((image, n))
        else:
            place, last = empty_place(stats, image, sides, rng), int(changed["present"][image])
            if place is None or last >= room:
                continue
            box = place
            changed["true_boxes"][image, last] = torch.from_numpy(box)
            changed["true_labels"][image, last] = int(rng.integers(classes))
            changed["true_areas"][image, last] = float(sides.prod())
            changed["present"][image] += 1
        planted[len(planted), kind, image] = box
    for image, n in drop:  # an ignored one of no size is as good as none
        changed["crowds"][image, n] = True
        changed["true_boxes"][image, n] = torch.tensor([-9.0, -9.0, -8.0, -8.0])
    return changed, planted


def empty_place(
    stats: dict[str, Tensor], image: int, sides: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Return a box of this size that touches no object; None if there hardly is one."""
    true = stats["true_boxes"][image, : int(stats["present"][image])].numpy()
    extent = stats["true_boxes"].numpy().max((0, 1))[2:]
    for _ in range(50):
        corner = rng.uniform(0, np.maximum(extent - sides, 1))
        box = np.concatenate([corner, corner + sides]).astype(np.float32)
        apart = (true[:, 2:] < box[:2]) | (true[:, :2] > box[2:])
        if apart.any(1).all():
            return box
    return None


def measure(stats: dict[str, Tensor], classes: int, share: float, seed: int) -> Counter[str]:
    from tasks.box_audits.doubtful_boxes import find_doubts
    from tasks.box_audits.judged_boxes import NONE, judge_boxes, overlaps_of

    changed, planted = plant(stats, classes, share, np.random.default_rng(seed))
    judged = judge_boxes(changed)
    doubts, found, counts = (
        find_doubts(judged, classes),
        set[tuple[int, str, int]](),
        Counter[str](),
    )
    for rank, doubt in enumerate(doubts):
        known = doubt.true != NONE
        box = judged.true_boxes[doubt.true] if known else judged.boxes[doubt.detection]
        hits = {
            key
            for key, place in planted.items()
            if key[2] == doubt.image and overlaps_of(box[None], place[None])[0, 0] >= 0.5
        }
        counts["listed"] += 1
        counts["right"] += bool(hits - found)
        counts["right of first"] += bool(hits - found) and rank < len(planted)
        found |= hits
    counts["planted"] = len(planted)
    for kind in KINDS:
        counts[f"planted {kind}"] = sum(key[1] == kind for key in planted)
        counts[f"found {kind}"] = sum(key[1] == kind for key in found)
    return counts


def main() -> None:
    wanted = parse_arguments()
    stats, classes = evaluate(wanted.run, wanted.data, wanted.split)
    report(stats, classes, wanted.share, wanted.seeds)


def report(stats: dict[str, Tensor], classes: int, share: float, seeds: list[int]) -> None:
    results = [measure(stats, classes, share, seed) for seed in seeds]
    for kind in KINDS:
        shares = [r[f"found {kind}"] / max(r[f"planted {kind}"], 1) for r in results]
        print(f"recall, {kind}: {mean(shares):.2f}")
    recall = mean(sum(r[f"found {kind}"] for kind in KINDS) / r["planted"] for r in results)
    precision = mean(r["right"] / max(r["listed"], 1) for r in results)
    first = mean(r["right of first"] / r["planted"] for r in results)
    listed = mean(r["listed"] for r in results)
    print(f"recall {recall:.2f}, precision {precision:.2f} of {listed:.0f} listed,", end=" ")
    print(f"{first:.2f} of as many as were planted ({results[0]['planted']})")


if __name__ == "__main__":
    main()
