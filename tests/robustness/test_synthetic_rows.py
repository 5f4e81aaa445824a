"""Synthetic features of rare classes: where they lie, what they extend, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import finetune
from finetune.batching.data_loader import Split
from finetune.batching.row_cache import StoredFeatures
from finetune.errors import ConfigError
from finetune.robustness import feature_gan
from finetune.robustness.feature_gan import generate_rows
from finetune.robustness.smote import interpolate_rows
from finetune.robustness.synthetic_rows import extend_split
from tests.support.tiny_models import LABELS, text_rows


def vectors(sizes: tuple[int, ...], width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Clusters that vary along the first axis, [N, H], and their classes."""
    rng, classes = np.random.default_rng(0), np.repeat(np.arange(len(sizes)), sizes)
    values = rng.normal(size=(len(classes), width)) * ([2.0] + [0.3] * (width - 1))
    values[np.arange(len(classes)), 1 + classes] += 4
    return values.astype(np.float32), classes


def test_smote_interpolates_between_rows_of_a_class() -> None:
    values, classes = vectors((40, 4))
    made = interpolate_rows(values, classes, {1: 36}, seed=0)[1]
    own = values[classes == 1]
    assert made.shape == (36, 6)
    assert (made >= own.min(0) - 1e-5).all()
    assert (made <= own.max(0) + 1e-5).all()
    with pytest.raises(ConfigError, match="single row"):
        interpolate_rows(values[:41], classes[:41], {1: 5}, seed=0)


@pytest.mark.slow
def test_gan_makes_rows_about_their_class_that_vary_like_those_of_others() -> None:
    values, classes = vectors((200, 200, 8))
    made = generate_rows(values, classes, {2: 150}, seed=0)[2]
    again = generate_rows(values, classes, {2: 150}, seed=0)[2]
    assert (made == again).all()
    means = np.stack([values[classes == each].mean(0) for each in range(3)])
    nearest = np.linalg.norm(made[:, None] - means, axis=2).argmin(1)
    assert (nearest == 2).mean() > 0.9
    assert made.std(0)[0] > 2 * made.std(0)[1:].mean()


@pytest.mark.parametrize("kind", ["smote", "gan"])
def test_extend_split_brings_classes_to_one_size(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_gan, "STEPS", 5)
    values, classes = vectors((20, 5, 3))
    targets = [{"target": int(each)} for each in classes]
    features = StoredFeatures([{"vector": torch.from_numpy(values)}], targets)
    rows = text_table(len(classes))
    split = Split("train", rows, np.ones(len(classes), dtype=np.int64), features)
    extended, note = extend_split(split, classes, kind, seed=3)
    assert len(extended) == 60
    assert "32 by" in note
    assert extended.features is not None
    labels = [sample["target"] for sample in extended.features.samples(range(60))]
    assert np.bincount(labels).tolist() == [20, 20, 20]
    assert torch.equal(
        extended.features.take(range(28))["vector"], features.take(range(28))["vector"]
    )
    mixed = extended.features.take([59, 0, 30])["vector"]
    assert torch.equal(mixed[1], features.take([0])["vector"][0])
    assert torch.isfinite(mixed).all()


def text_table(count: int) -> Any:
    from datasets import Dataset

    return Dataset.from_list(text_rows(count))


def rare(count: int) -> list[dict[str, str]]:
    rows = text_rows(count)
    return [row for n, row in enumerate(rows) if row["label"] != LABELS[0] or n < 12]


def test_run_trains_on_synthetic_rows(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"model": str(bert_folder), "method": "frozen", "epochs": 2, "validation": 0.3}
    runs = [
        finetune.train(
            "text-classification",
            data=rare(60),
            synthetic="smote",
            output=str(tmp_path / name),
            **keys,
        )
        for name in ("one", "two")
    ]
    assert "synthetic rows: " in capsys.readouterr().out
    assert runs[0].metrics == runs[1].metrics
    card = (runs[0].path / "final" / "README.md").read_text(encoding="utf-8")
    made = re.search(r"- (\d+) synthetic rows \(train.synthetic=smote\): (\w+) (\d+)", card)
    assert made is not None
    assert (made[1], made[2]) == (made[3], LABELS[0])

    task = {"name": "text-classification"}
    seen = finetune.inspect(task, data=rare(60), train={"synthetic": "smote"}, **keys)
    assert seen.run["added rows"].startswith(f"{made[1]} synthetic rows (train.synthetic=smote)")


@pytest.mark.parametrize("kind", ["smote", "gan"])
def test_classes_of_the_same_size_get_no_synthetic_rows(
    kind: str, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_label = [[row for row in text_rows(60) if row["label"] == label] for label in LABELS]
    even = [row for rows in by_label for row in rows[:4]]
    keys = {"model": str(bert_folder), "method": "frozen", "epochs": 1, "validation": 0}
    output = str(tmp_path / "run")
    finetune.train("text-classification", data=even, synthetic=kind, output=output, **keys)
    assert "synthetic rows: none, all classes have the same size" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": "lora"}, "train.synthetic=gan: makes features of a frozen backbone"),
        ({"method": "frozen", "sampling": "balanced"}, "train.synthetic=gan: evens out"),
        ({"method": {"name": "frozen", "cache": "off"}}, "train.synthetic=gan: extends cached"),
    ],
)
def test_run_refuses_synthetic_rows_without_cached_features(
    keys: dict[str, Any], words: str, bert_folder: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        finetune.train(
            "text-classification",
            data=text_rows(20),
            model=str(bert_folder),
            synthetic="gan",
            output=output,
            **keys,
        )
