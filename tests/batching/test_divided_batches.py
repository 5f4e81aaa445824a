"""Random batches that are divided by length: the default on a CPU, and what it leaves unchanged."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from finetune.batching import plan
from finetune.io.run_folder import RunFolder
from tests.support.lives import Seen, live, load
from tests.support.two_processes import gradients

WHOLE: dict[str, Any] = {"train.epochs": 1, "train.micro_batch": None}
FULL = {**WHOLE, "method": "full", "optim": "sgd"}


@pytest.fixture(scope="module")
def uneven_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of 1 to 60 words."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("data") / "uneven.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["text", "label"])
        for number in range(48):
            words = rng.choices(["ball", "film", "goal", "song"], k=rng.choice([1, 2, 30, 60]))
            lines.writerow([" ".join([*words, str(number)]), "sport" if number % 3 else "film"])
    return path


def sizes(seen: Seen) -> list[list[int]]:
    return [[len(rows) for rows, _ in step] for _, step in sorted(seen.steps.items())]


def test_division_by_length_changes_no_gradient(
    bert_folder: Path, uneven_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, divided = [], []
    for cheap in (0, 10**9):
        monkeypatch.setattr(plan, "PASS_COST", cheap)
        seen = Seen()
        with gradients() as accumulated:
            loaded = load(tmp_path / str(cheap), bert_folder, uneven_csv, FULL)
            assert live(loaded, seen=seen) is not None
        found.append(dict(accumulated))
        divided.append(sizes(seen))
    assert any(len(step) > 2 for step in divided[0])
    assert all(len(step) == 1 for step in divided[1])
    assert list(map(sum, divided[0])) == list(map(sum, divided[1]))
    assert max(float((found[0][k] - found[1][k]).abs().max()) for k in found[1]) < 1e-6


@pytest.mark.parametrize(
    ("keys", "batching"),
    [
        (FULL, "random"),
        ({**FULL, "train.dropout": "by-batch"}, "length"),
        ({**FULL, "train.batching": "length"}, "length"),
        ({"method": "frozen"}, "length"),
    ],
    ids=str,
)
def test_batches_are_random_where_they_can_be_divided(
    keys: dict[str, Any],
    batching: str,
    bert_folder: Path,
    uneven_csv: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan, "PASS_COST", 0)
    seen = Seen()
    keys = {**WHOLE, **keys}
    assert live(load(tmp_path / "run", bert_folder, uneven_csv, keys), seen=seen) is not None
    assert RunFolder(tmp_path / "run").read_config()["train"]["batching"] == batching
    assert (max(map(len, sizes(seen))) > 1) is (batching == "random")
