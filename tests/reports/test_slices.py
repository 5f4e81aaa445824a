"""Slices and groups of held-out rows."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
import torch
from datasets import Dataset

from finetune.batching.data_loader import Split
from finetune.config.schema import ReportConfig
from finetune.errors import ConfigError, DataError
from finetune.inference.evaluate import Measured
from finetune.inference.evaluation_loop import Evaluation
from finetune.reporting.slice_tables import group_rows, slice_note, slice_rows
from finetune.reports import slices
from finetune.reports.intervals import Estimate
from finetune.reports.slices import (
    Slice,
    Slices,
    check_report_columns,
    measure_report,
    measure_slices,
)
from finetune.task import Task
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import Stats
from finetune.task_parts.views import LabelScores, Views

NAMES = ["no", "yes"]


class ToyViews(Views):
    def label_scores(self, stats: Stats) -> LabelScores:
        truth = np.eye(2, dtype=bool)[stats["target"].numpy()]
        return LabelScores(NAMES, stats["scores"].numpy(), truth, exclusive=True)


class ToyTask:
    """A task with two labels; `metric` is one of both that it computes."""

    score = None

    def __init__(self, metric: tuple[str, str]) -> None:
        self.metric, self.views, self.rows = metric, ToyViews(), Rows(None)

    def summarize(self, stats: Stats) -> dict[str, float]:
        wrong = stats["scores"].argmax(1) != stats["target"]
        return {"accuracy": 1 - float(wrong.float().mean()), "error": float(wrong.float().mean())}


def measured(metric: tuple[str, str] = ("accuracy", "max"), rows: int = 400) -> Measured:
    """Rows of which those of the source "scan" are wrong in a third of the cases, others never."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 2, rows)
    scan = np.arange(rows) % 4 == 0
    wrong = scan & (rng.random(rows) < 0.33)
    scores = np.full((rows, 2), 0.1)
    scores[np.arange(rows), np.where(wrong, 1 - target, target)] = 0.9
    stats = {"scores": torch.tensor(scores), "target": torch.tensor(target)}
    table = Dataset.from_dict(
        {
            "source": ["scan" if each else "text" for each in scan],
            "sex": [["f", "m", "x"][0 if i < 5 else 1 + i // 4 % 2] for i in range(rows)],
            "id": list(range(rows)),
        }
    )
    task = cast(Task, ToyTask(metric))
    split = Split("test", cast(Any, table), np.ones(rows, dtype=np.int64))
    evaluation = Evaluation({}, stats)
    return Measured(cast(Any, None), task, table, split, range(1, rows + 1), evaluation)


@pytest.mark.parametrize("metric", [("accuracy", "max"), ("error", "min")])
def test_slices_are_ranked_with_intervals_and_gaps(metric: tuple[str, str]) -> None:
    one = measured(metric)
    columns = {"source": one.cells("source"), "sex": one.cells("sex")}
    found = measure_slices(one, columns)
    worst = found.slices[0]
    assert (worst.column, worst.value, worst.rows) == ("source", "scan", 100)
    own = one.metrics_by("source")
    assert worst.result.value == pytest.approx(own["scan"][metric[0]])
    assert worst.gap.value == pytest.approx(own["scan"][metric[0]] - own["text"][metric[0]])
    assert worst.result.low < worst.result.value < worst.result.high
    sign = 1 if metric[1] == "max" else -1
    assert max(sign * worst.gap.low, sign * worst.gap.high) < 0  # worse by more than chance
    assert worst.gap.high - worst.gap.low == pytest.approx(0.19, abs=0.08)
    assert found.too_small == {"sex=f": 5}
    facts = found.facts()
    assert slice_rows(facts)[0][0] == "source=scan"
    assert "1 worse than the rest by more than chance" in slice_note(facts)
    assert "too small to measure: sex=f (5)" in slice_note(facts)


def test_automatic_slices_need_no_key_and_enough_rows() -> None:
    facts = measure_report(measured(), ReportConfig())
    assert {each["column"] for each in facts["slices"]["slices"]} == {"label"}
    assert measure_report(measured(rows=80), ReportConfig()) == {}
    assert "slices" not in measure_report(measured(), ReportConfig(slices="none"))


def test_what_is_not_defined_is_left_out_of_the_files() -> None:
    one = measured(("loss", "min"))  # no metric that any rows have
    assert "slices" not in measure_report(one, ReportConfig(slices=["source"]))
    unknown = Slice("source", "a", 30, Estimate(0.5, -math.inf, math.inf), Estimate(-0.1, 0, 0))
    facts = Slices("test", "map", "max", 0.6, [unknown], {}).facts()
    assert facts["slices"][0]["result"] == [0.5]
    assert slice_rows(facts) == [["source=a", "30", "0.5000", "-0.1000 (+0.0000 to +0.0000)"]]
    facts["slices"][0]["gap"] = [-0.1]
    assert "; 0 worse than the rest" in slice_note(facts)


def test_groups_have_rates_of_each_label() -> None:
    facts = measure_report(measured(), ReportConfig(slices="none", groups=["source", "sex"]))
    worst = facts["groups"][0]
    assert worst["column"] == "source"
    assert worst["rate"] in ("true positive rate", "false positive rate")
    one = measured()
    scores = one.task.views.label_scores(one.evaluation.stats)
    assert scores is not None
    given, source = scores.scores.argmax(1) == 1, np.array(one.cells("source"))
    chosen = next(
        each
        for each in facts["groups"]
        if (each["column"], each["label"], each["rate"]) == ("source", "yes", "true positive rate")
    )
    for name, rate in chosen["rates"].items():
        rows = (source == name) & scores.truth[:, 1]
        assert rate == pytest.approx(given[rows].mean())
    assert all(
        each["too_small"] == {"f": 5}
        for each in facts["groups"]
        if each["column"] == "sex" and each["rate"] == "selection rate"
    )
    assert group_rows(facts["groups"])[0][0] == "source"


def test_columns_that_do_not_serve_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = measured()

    def check(rows: Dataset | None = one.rows, **keys: list[str]) -> None:
        check_report_columns(ReportConfig(**cast(Any, keys)), rows, one.task.rows)

    with pytest.raises(DataError, match=r"report.slices: no column 'sours'; did you mean 'source'"):
        check(slices=["sours"])
    with pytest.raises(DataError, match=r"report.groups: no column 'language'"):
        check(groups=["language"])
    with pytest.raises(DataError, match="column id has 400 values, more than 50"):
        check(slices=["id"])
    with pytest.raises(ConfigError, match="the task reads no texts"):
        check(slices=["language"])
    with pytest.raises(ConfigError, match="report.slices: no rows are held out"):
        check(None, slices=["source"])
    check(slices=["source"], groups=["sex"])
    monkeypatch.setattr(slices, "has_fairlearn", lambda: False)
    with pytest.raises(ConfigError, match=r"fairlearn is not installed; pip install 'finetune-kit"):
        check(slices=["source"])
    assert "slices" not in measure_report(one, ReportConfig())
