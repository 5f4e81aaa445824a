"""The exact solver, compared with scikit-learn."""

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
    """Ends a run once it is set up."""


def prepared(folder: Path, model: Path, data: Path, **keys: Any) -> Any:
    """Return the `Live` of a run whose head is about to be solved."""
    captured = []

    def fit(live: Any, *_: Any) -> None:
        captured.append(live)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "fit", fit)
        with pytest.raises(Stopped):
            live(load(folder, model, data, {**EXACT, **keys}))
    return captured[0]


def solve(live: Any, strength: float) -> nn.Linear:
    """Solve with this strength as the only candidate and return the head."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver, "STRENGTHS", (strength,))
        solution = solve_head(live.model, live.task, live.train, seed=0)
    assert solution["l2"] == strength
    return live.model.network.head  # type: ignore[no-any-return]


def features(live: Any) -> tuple[np.ndarray, list[Any]]:
    """Return the cached features [N, H] of the training rows and their targets."""
    places = list(range(len(live.train)))
    (values,) = live.train.features.take(places).values()
    return values.double().numpy(), [s["target"] for s in live.train.features.samples(places)]


def test_solve_head_gives_classes_the_same_weight(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """Last-layer reweighting, if the classes are groups of rows."""
    live = prepared(tmp_path, bert_folder, news_csv)
    inputs, targets = features(live)
    classes, strength = np.array(targets), 1e-2
    rare = np.flatnonzero(classes == 0)[3:]
    classes[rare] = 3  # a group of its own, with the label of the first one
    solve_head(live.model, live.task, live.train, seed=0, strength=strength, classes=classes)
    weights = len(targets) / 4 / np.bincount(classes)[classes]
    theirs = LogisticRegression(C=1 / (strength * len(targets)), max_iter=100_000, tol=1e-10)
    theirs.fit(inputs, targets, sample_weight=weights)
    with torch.no_grad():
        head = live.model.network.head
        ours = head(torch.tensor(inputs, dtype=torch.float32)).softmax(1).numpy()
    assert np.abs(ours - theirs.predict_proba(inputs)).max() < 1e-4


@pytest.mark.parametrize("strength", [1e-1, 1e-3, 1e-5])
def test_solve_head_equals_logistic_regression_for_labels(
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
    # Class biases are only determined up to a constant; weights under L2 are unique.
    assert np.abs(head.weight.detach().numpy() - theirs.coef_).max() < 1e-3 * max(
        1, np.abs(theirs.coef_).max()
    )


def test_solve_head_equals_ridge_regression_for_numbers(bert_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "numbers.csv"
    lines = [f"{row['text']},{len(row['text']) * 1.5 + 7}" for row in text_rows()]
    data.write_text("text,label\n" + "\n".join(lines))
    live = prepared(tmp_path / "run", bert_folder, data, **{"task.kind": "number"})
    strength = 1e-3
    head = solve(live, strength)
    inputs, targets = features(live)
    numbers = np.array(targets)
    scaled = (numbers - numbers.mean()) / numbers.std()
    # Our objective: mean square + l2 / 2 |w|^2. scikit-learn's: sum of squares + alpha |w|^2.
    theirs = Ridge(alpha=strength * len(numbers) / 2).fit(inputs, scaled)
    assert np.abs(head.weight.detach().numpy() - theirs.coef_).max() < 1e-4
    with torch.no_grad():
        ours = head(torch.tensor(inputs, dtype=torch.float32)).squeeze(1).numpy()
    assert np.abs(ours - theirs.predict(inputs)).max() < 1e-4


def test_solve_head_ends_where_the_gradient_vanishes(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    solution = solve_head(live.model, live.task, live.train, seed=0)
    head = live.model.network.head.double()
    batch = solver._batch(live.task, live.train, np.arange(len(live.train)), torch.device("cpu"))
    head.zero_grad()
    loss = solver._mean_loss(live.model, live.task, [batch])
    (loss + solution["l2"] / 2 * head.weight.square().sum()).backward()
    assert float(head.weight.grad.abs().max()) < 1e-6
    assert float(head.bias.grad.abs().max()) < 1e-6


def test_solve_head_chooses_the_strength_by_cross_validation(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    solution = solve_head(live.model, live.task, live.train, seed=0)
    assert solution["l2"] in STRENGTHS
    inputs, targets = features(live)
    order = np.random.default_rng(0).permutation(len(targets))
    losses = []
    for strength in STRENGTHS:
        total = 0.0
        for fold in np.array_split(order, 5):
            rest = np.setdiff1d(order, fold)
            theirs = LogisticRegression(C=1 / (strength * len(rest)), max_iter=100_000, tol=1e-8)
            theirs.fit(inputs[rest], np.array(targets)[rest])
            probabilities = theirs.predict_proba(inputs[fold])
            total -= np.log(probabilities[np.arange(len(fold)), np.array(targets)[fold]]).mean()
        losses.append(total / 5)
    assert STRENGTHS[int(np.argmin(losses))] == solution["l2"]
    assert solution["cross_validation_loss"] == pytest.approx(min(losses), rel=1e-3)


def test_exact_solver_run_resumes_bit_for_bit(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    unstopped = live(load(tmp_path / "once", bert_folder, news_csv, EXACT))
    loaded = load(tmp_path / "often", bert_folder, news_csv, EXACT)
    for stop in (Stop(1, "save"), Stop(1, "saved"), Stop(1, "finish")):
        assert live(loaded, stop=stop) is None
    seen = Seen()
    resumed = live(loaded, seen=seen)
    assert seen.steps == {}
    assert unstopped is not None
    assert resumed is not None
    assert left_behind(resumed) == left_behind(unstopped)


def test_solve_head_rejects_a_head_of_several_layers(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    live = prepared(tmp_path, bert_folder, news_csv)
    live.model.network.head = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))
    with pytest.raises(
        ModelError, match=r"one linear layer, but this head \(head\) .* method\.solver=loop"
    ):
        solve_head(live.model, live.task, live.train, seed=0)


def test_solve_head_uses_a_given_strength(
    bert_folder: Path, news_csv: Path, tmp_path: Path
) -> None:
    """As after contrastive tuning on the same rows, which biases cross-validation."""
    live = prepared(tmp_path, bert_folder, news_csv)
    solve(live, 1e-2)
    expected = live.model.network.head.weight.detach().clone()
    solution = solve_head(live.model, live.task, live.train, seed=0, strength=1e-2)
    assert solution.keys() == {"l2", "loss"}
    assert torch.allclose(live.model.network.head.weight, expected, atol=1e-5)
