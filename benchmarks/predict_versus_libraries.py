"""Predicting and embedding texts: our Predictor beside the libraries that load the same model.

    python -m benchmarks.predict_versus_libraries predict
    python -m benchmarks.predict_versus_libraries embed

`predict`: 256 texts of 10 to 160 words, fp32, by a MiniLM with a classification head; the others
are transformers' pipeline, with batches of 32 and without. `embed`: the same texts by MiniLM, the
other is SentenceTransformer.encode in batches of 32. Loading is not in the figures called clock
and processor; the outputs of all sides are compared: `difference` is the largest to ours.
"""

from __future__ import annotations

import argparse
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import Side, Stopwatch, compare
from benchmarks.versus_trainer import DATA, MODEL

TEXTS = 256
LABELS = ("business", "entertainment", "politics", "sport", "tech")


def read_texts() -> list[str]:
    """Return the beginnings of articles, of 10 to 160 words each."""
    from finetune.config.schema import DataConfig
    from finetune.data.opening import open_rows

    table, _ = open_rows(DATA, DataConfig(encoding=["utf-8", "cp1252"]))
    chance = random.Random(0)
    rows = chance.sample(range(len(table)), TEXTS)
    return [
        " ".join(str(row["text"]).split()[: chance.randint(10, 160)]) for row in table.select(rows)
    ]


def write_model(options: argparse.Namespace) -> None:
    """Train the model that all sides load: one step, since only its speed and outputs matter."""
    import finetune

    rows = [{"text": text, "label": LABELS[i % 5]} for i, text in enumerate(read_texts())]
    finetune.train(
        {"name": "text-classification", "head": "native"},
        data=rows[:40],
        validation=0,
        model=MODEL,
        method="full",
        max_steps=1,
        calibrate="none",
        output=str(options.folder / "run"),
    )


def measured(options: argparse.Namespace, name: str, work: Any) -> dict[str, float]:
    """Time `work(texts)` after one call that warms up; compare its result with the first side's."""
    texts = read_texts()
    work(texts[:32])
    watch = Stopwatch()
    result = np.asarray(work(texts), np.float64)
    times = watch.read()
    reference = options.folder / "reference.npy"
    if name == "ours":
        np.save(reference, result)
    return {**times, "difference": float(np.abs(result - np.load(reference)).max())}


def predict(options: argparse.Namespace, _: Path) -> dict[str, float]:
    """Predict with our Predictor: the score of the likeliest label."""
    import finetune

    predictor = finetune.load(str(options.folder / "run"))

    return measured(options, "ours", lambda texts: [row["score"] for row in predictor(texts)])


def pipeline(options: argparse.Namespace, _: Path, **settings: Any) -> dict[str, float]:
    """Predict with transformers' pipeline."""
    from transformers import pipeline as make_pipeline

    classify = make_pipeline("text-classification", str(options.folder / "run" / "final"))

    def work(texts: list[str]) -> list[float]:
        return [row["score"] for row in classify(texts, truncation=True, **settings)]

    return measured(options, "pipeline", work)


def embed(options: argparse.Namespace, _: Path) -> dict[str, float]:
    """Embed with this kit: mean-pooled vectors, fp32. Each call loads the network."""
    import finetune

    return measured(options, "ours", lambda texts: finetune.embed(MODEL, texts, precision="fp32"))


def sentence_transformer(options: argparse.Namespace, _: Path) -> dict[str, float]:
    """Embed with sentence-transformers, same network and pooling. Each call loads the network."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    from finetune.io.references import resolve_model

    def work(texts: list[str]) -> Any:
        network = modules.Transformer(str(resolve_model(MODEL)), max_seq_length=256)
        pooling = modules.Pooling(network.get_embedding_dimension(), "mean")
        encoder = SentenceTransformer(modules=[network, pooling], device="cpu")
        return encoder.encode(texts, batch_size=32)

    return measured(options, "encode", work)


def main() -> None:
    """Compare the sides of the work that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["predict", "embed"])
    parser.add_argument("--others", choices=["batches", "single", "both"], default="both")
    options, _ = parser.parse_known_args()
    if options.work == "embed":
        compare({"ours": embed, "SentenceTransformer": sentence_transformer}, parser)
        return
    sides: dict[str, Side] = {"ours": predict}
    if options.others != "single":
        sides["pipeline(batch_size=32)"] = partial(pipeline, batch_size=32)
    if options.others != "batches":
        sides["pipeline()"] = pipeline
    compare(sides, parser, write_model)


if __name__ == "__main__":
    main()
