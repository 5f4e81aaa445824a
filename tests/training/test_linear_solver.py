"""The exact solver ends at the optimum that scikit-learn finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn

from finetune.errors import ModelError
from finetune.training import linear_solver as solver
from finetune.training import run
from finetune.training.linear_solver import STRENGTHS, solve_head
from tests.support.lives import Seen, Stop, left_behind, live, load
from tests.support.tiny_models import text_rows

EXACT = {"method": "frozen", "method.solver": "exact", "task.pooling": "mean"}


class Stopped(BaseException):
    """The run has given what was wanted."""


def prepared(folder: Path, model: Path, data: Path, **keys: Any) -> Any:
    """The `Live` of a run whose head is to be solved."""
    found = []

    def fit(live: Any, *_: Any) -> None:
        found.append(live)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", fit)
        with pytest.raises(Stopped):
            live(load(folder, model, data, {**EXACT, **keys}))
    return found[0]


def solve(live: Any, strength: float) -> nn.Linear:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "STRENGTHS", (strength,))
        found = solve_head(live.model, live.task, live.train, seed=0)
    assert found["l2"] == strength
    return live.model.network.head  # type: ignore[no-any-return]


def features(live: Any) -> tuple[np.ndarray, list[Any]]:
    places = list(range(len(live.train)))
    (values,) = live.train.features.take(places).values()
    return values.double().numpy(), [s["target"] for s in live.train.features.samples(places)]


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_labels_are_solved_as_by_logistic_regression(
    strength: float, bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    head = solve(live, strength)
    inputs, targets = features(live)
    theirs = LogisticRegression(C=1 / (strength * len(targets)), max_iter=100_000, tol=1e-10)
    theirs.fit(inputs, targets)
    with torch.no_grad():
        ours = head(torch.tensor(inputs, dtype=torch.float32)).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(inputs)).max() < 1e-4
    # Biases of classes may differ by a constant; weights under L2 may not.
    assert np.abs(head.weight.detach().numpy() - theirs.coef_).max() < 1e-3 * max(
        1, np.abs(theirs.coef_).max()
    )


def test_numbers_are_solved_as_by_ridge_regression(bert_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "numbers.csv"
    lines = [f"{row['text']},{len(row['text']) * 1.5 + 7}" for row in text_rows()]
    data.write_text("text,label\n" + "\n".join(lines))
    live = prepared(tmp_path / "run", bert_folder, data, **{"task.kind": "number"})
    strength = 1e-3
    head = solve(live, strength)
    inputs, targets = features(live)
    numbers = np.array(targets)
    scaled = (numbers - numbers.mean()) / numbers.std()
    # Ours is the mean square plus l2 / 2 |w|^2; theirs the sum of squares plus alpha |w|^2.
    theirs = Ridge(alpha=strength * len(numbers) / 2).fit(inputs, scaled)
    assert np.abs(head.weight.detach().numpy() - theirs.coef_).max() < 1e-4
    with torch.no_grad():
        ours = head(torch.tensor(inputs, dtype=torch.float32)).squeeze(1).numpy()
    assert np.abs(ours - theirs.predict(inputs)).max() < 1e-4


def test_head_ends_at_the_optimum(bert_folder: Path, news_csv: Path, tmp_path: Path) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    found = solve_head(live.model, live.task, live.train, seed=0)
    head = live.model.network.head.double()
    batch = solver._batch(live.task, live.train, range(len(live.train)), torch.device("cpu"))
    head.zero_grad()
    loss = solver._mean_loss(live.model, live.task, batch)
    (loss + found["l2"] / 2 * head.weight.square().sum()).backward()
    assert float(head.weight.grad.abs().max()) < 1e-6
    assert float(head.bias.grad.abs().max()) < 1e-6


def test_strength_is_the_one_that_cross_validation_prefers(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    found = solve_head(live.model, live.task, live.train, seed=0)
    assert found["l2"] in STRENGTHS
    inputs, targets = features(live)
    order = np.random.default_rng(0).permutation(len(targets))
    losses = []
    for strength in STRENGTHS:
        total = 0.0
        for held in np.array_split(order, 5):
            rest = np.setdiff1d(order, held)
            theirs = LogisticRegression(C=1 / (strength * len(rest)), max_iter=100_000, tol=1e-8)
            theirs.fit(inputs[rest], np.array(targets)[rest])
            probabilities = theirs.predict_proba(inputs[held])
            total -= np.log(probabilities[np.arange(len(held)), np.array(targets)[held]]).mean()
        losses.append(total / 5)
    assert STRENGTHS[int(np.argmin(losses))] == found["l2"]
    assert found["cross_validation_loss"] == pytest.approx(min(losses), rel=1e-3)


def test_solved_run_that_was_killed_ends_with_the_same_bits(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    once = live(load(tmp_path / "once", bert_folder, news_csv, EXACT))
    loaded = load(tmp_path / "often", bert_folder, news_csv, EXACT)
    for stop in (Stop(1, "save"), Stop(1, "saved"), Stop(1, "finish")):
        assert live(loaded, stop=stop) is None
    seen = Seen()
    often = live(loaded, seen=seen)
    assert seen.steps == {}
    assert once is not None
    assert often is not None
    assert left_behind(often) == left_behind(once)


def test_head_of_several_layers_is_refused(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    live.model.network.head = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))
    with pytest.raises(
        ModelError, match=r"one linear layer, and the head \(head\) has .* method\.solver=loop"
    ):
        solve_head(live.model, live.task, live.train, seed=0)


def test_strength_that_is_given_is_taken(bert_folder: Path, news_csv: Path, tmp_path: Path) -> None:
    """The head of a backbone that was tuned on the same rows, which no cross-validation judges."""
    live = prepared(tmp_path, bert_folder, news_csv)
    solve(live, 1e-2)
    expected = live.model.network.head.weight.detach().clone()
    found = solve_head(live.model, live.task, live.train, seed=0, strength=1e-2)
    assert found.keys() == {"l2", "loss"}
    assert torch.allclose(live.model.network.head.weight, expected, atol=1e-5)
