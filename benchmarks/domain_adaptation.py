"""A backbone before and after masked language modeling on texts of a domain, without labels.

MiniLM and BBC News: texts without their labels adapt the encoder; then a linear head (logistic
regression, C=10) is fitted to mean vectors of length 1 of the backbone before and after, from a few
labeled articles per topic. MiniLM has no
head for masked tokens, so the first row trains a new head alone: its loss is that of the backbone
as it came. Test articles are the same for all, and none of them adapts the backbone.

    python -m benchmarks.domain_adaptation --rows 600 --epochs 2 --per-class 8 16 --seeds 0 1 2 3 4

Prints the loss, perplexity and accuracy of masked tokens, and the mean and standard deviation over
seeds of the accuracy of the frozen head. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas
from sklearn.linear_model import LogisticRegression

from benchmarks.few_examples import MODEL, write_rows

Row = dict[str, str]

TEST_TEXTS = 100  # whose masked tokens are predicted


def parse_arguments() -> argparse.Namespace:
    """Parse sizes and methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=600, help="unlabeled articles")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--methods", nargs="+", default=["frozen", "full"])
    parser.add_argument("--max-length", type=int, default=128, help="in tokens")
    parser.add_argument("--per-class", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--test-rows", type=int, default=80, help="per topic")
    parser.add_argument("--folder", type=Path, default=Path("runs/domain-adaptation"))
    return parser.parse_args()


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_texts(source: Path, target: Path, count: int) -> str:
    """Copy the texts of the first rows without their labels; return the path."""
    lines = source.read_text(encoding="utf-8").splitlines()[:count]
    texts = ({"text": json.loads(line)["text"]} for line in lines)
    target.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
    return str(target)


def adapt(method: str, arguments: argparse.Namespace) -> Any:
    """Return a run that adapts the backbone, trained unless it is there."""
    import finetune

    folder: Path = arguments.folder
    by_topic = (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()
    step = max(1, len(by_topic) // arguments.rows)  # all topics
    (folder / "spread.jsonl").write_text("\n".join(by_topic[::step]), encoding="utf-8")
    test = (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    every = max(1, len(test) // TEST_TEXTS)
    (folder / "spread-test.jsonl").write_text("\n".join(test[::every]), encoding="utf-8")
    return finetune.train(
        {"name": "masked-language-modeling", "max_length": arguments.max_length},
        data={
            "train": write_texts(folder / "spread.jsonl", folder / "texts.jsonl", arguments.rows),
            "test": write_texts(folder / "spread-test.jsonl", folder / "held.jsonl", TEST_TEXTS),
            "validation": 0,
        },
        model=MODEL,
        method=method,
        epochs=arguments.epochs,
        output=str(folder / f"{method}-{arguments.rows}-{arguments.epochs:g}"),
    )


def draw(rows: list[Row], per_class: int, seed: int) -> list[int]:
    """Draw as many rows of each topic; return their indices."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_label[row["label"]].append(index)
    rng = random.Random(seed)
    return [index for members in by_label.values() for index in rng.sample(members, per_class)]


def head_accuracies(model: str, arguments: argparse.Namespace) -> list[list[float]]:
    """Fit a linear head on the mean vectors of a backbone, for each size and seed.

    Returns the accuracies on the test rows by number of labels.
    """
    import finetune

    train, test = (read_rows(arguments.folder / f"{name}.jsonl") for name in ("train", "test"))
    draws = [[draw(train, n, seed) for seed in arguments.seeds] for n in arguments.per_class]
    used = sorted({index for of_size in draws for drawn in of_size for index in drawn})
    rows = [*test, *(train[index] for index in used)]
    file = arguments.folder / "features.parquet"
    finetune.embed(model, rows, file, **{"task.max_length": arguments.max_length})
    vectors = np.stack([*pandas.read_parquet(file)["vector"]]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.array([row["label"] for row in rows])
    places = {index: len(test) + place for place, index in enumerate(used)}

    def accuracy(drawn: list[int]) -> float:
        chosen = [places[index] for index in drawn]
        head = LogisticRegression(C=10, max_iter=1000).fit(vectors[chosen], labels[chosen])
        return float(head.score(vectors[: len(test)], labels[: len(test)]))

    return [[accuracy(drawn) for drawn in of_size] for of_size in draws]


def main() -> None:
    """Adapt, measure, and print two tables."""
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if not (arguments.folder / "train.jsonl").is_file():
        write_rows(arguments.folder, arguments.test_rows)
    runs = {method: adapt(method, arguments) for method in arguments.methods}
    backbones = {"as it came": MODEL}
    backbones |= {f"after {m}": str(run.path) for m, run in runs.items() if m != "frozen"}
    rows = []
    for name, model in backbones.items():
        cells = []
        for found in head_accuracies(model, arguments):
            spread = stdev(found) if len(found) > 1 else 0.0
            cells.append(f"{mean(found):.4f} +- {spread:.4f}")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    print("| trained | masked loss | perplexity | accuracy |\n|---|---|---|---|")
    for method, run in runs.items():
        found = run.metrics["test"]
        cells = [f"{found[name]:.4f}" for name in ("loss", "perplexity", "accuracy")]
        print(f"| {'new head only' if method == 'frozen' else method} | {' | '.join(cells)} |")
    columns = [f"{count} per class" for count in arguments.per_class]
    print(f"\n| backbone | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
