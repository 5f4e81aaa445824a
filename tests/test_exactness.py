"""A run that was stopped and started again ends with the bits of one that never was: tolerance 0, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.lives import Seen, Stop, left_behind, live, load, one_thread

METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full", "optim.layer_decay": 0.9},
    "lora": {"method": "lora"},
    "frozen-cached": {"method": "frozen"},
    "frozen-live": {"method": "frozen", "method.cache": "off"},
    "partial": {"method": "partial", "method.unfreeze_every": 0.5},
}
# A run has 2 epochs of 4 steps. Each life ends where its name says; the next goes on.
LIVES = [
    Stop(0, "loading"),  # before the first update
    Stop(1),  # mid-epoch
    Stop(3, "tick"),  # killed without a checkpoint: goes back to step 1
    Stop(4, "evaluate"),  # the end of an epoch, before its checkpoint
    Stop(4, "save"),
    Stop(4, "saved"),
    Stop(4, "loading"),  # a signal before anything new was done
    Stop(6, "log"),
    Stop(7),
    Stop(8, "save"),  # the last step, before its checkpoint
    Stop(8, "saved"),
    Stop(8, "finish"),  # and after it, before final/
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def everyday(method: str, workers: int, precision: str) -> bool:
    """Whether a combination is of the default run."""
    return (workers, precision) == (0, "fp32") or (method, workers, precision) == ("lora", 2, "bf16")


@pytest.mark.parametrize(
    ("method", "workers", "precision"),
    [
        pytest.param(*case, marks=() if everyday(*case) else pytest.mark.slow)
        for case in product(METHODS, (0, 2), ("fp32", "bf16"))
    ],
)
def test_stopped_run_ends_with_the_bits_of_an_unstopped_one(
    method: str, workers: int, precision: str, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    keys = {**METHODS[method], "train.workers": workers, "train.precision": precision}
    once, often = Seen(), Seen()
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, keys), seen=once)
    loaded = load(tmp_path / "often", bert_folder, news_csv, keys)
    for stop in LIVES:
        assert live(loaded, seen=often, stop=stop) is None, stop
    stopped = live(loaded, seen=often)

    assert unstopped is not None
    assert stopped is not None
    assert len(once.steps) == 8
    assert often.steps == once.steps
    assert left_behind(stopped) == left_behind(unstopped)
