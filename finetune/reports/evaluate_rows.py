"""Evaluation in Python: the metrics of a fine-tuned model on labeled rows, and of parts of them.

metrics = finetune.evaluate("runs/news-bert-base-uncased-lora", "test.csv", slices=["source"])
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from finetune.data.source import make_source, take_report_keys
from finetune.inference.evaluate import evaluate_source
from finetune.reporting.console import Console
from finetune.reporting.metric_tables import Metrics, overall
from finetune.reporting.slice_tables import show_slices
from finetune.reports.slices import check_report_columns, measure_report

if TYPE_CHECKING:
    import pandas

_ENDS = ("", "_low", "_high")


class GroupedMetrics(dict[str, float]):
    """Metrics of labeled rows, {metric: value}.

    Attributes:
        groups: {value of a column: {"rows": their number, metric: value}}; {} unless `by` named it.
        facts: what `slices` and `groups` asked for, as metrics.json holds it; {} without them.
    """

    def __init__(
        self, metrics: Mapping[str, float], groups: Metrics, facts: Mapping[str, Any]
    ) -> None:
        super().__init__(metrics)
        self.groups, self.facts = groups, facts

    @property
    def slices(self) -> pandas.DataFrame:
        """The slices that were measured, the worst first.

        Their metric is in `result`, its difference to that of all other rows in `gap`, both with
        the ends of their 95 % intervals, such as `gap_low`.
        """
        import pandas

        measured = self.facts.get("slices", {}).get("slices", [])
        columns = ["column", "value", "rows"]
        columns += [f"{name}{end}" for name in ("result", "gap") for end in _ENDS]
        lines = [
            {
                **{name: each[name] for name in ("column", "value", "rows")},
                **_ends("result", each["result"]),
                **_ends("gap", each["gap"]),
            }
            for each in measured
        ]
        return pandas.DataFrame(lines, columns=columns)

    @property
    def differences(self) -> pandas.DataFrame:
        """The differences between `groups` in the rates of each label, the largest first.

        `rates` is {group: rate}.
        """
        import pandas

        columns = ["column", "label", "rate", "difference", "rates"]
        return pandas.DataFrame(self.facts.get("groups", []), columns=columns)

    def _repr_html_(self) -> str:
        """Render the overall metrics, and those of the groups, as an HTML table for notebooks."""
        import pandas

        columns = {"all": self, **self.groups}
        table = pandas.DataFrame({name: overall(split) for name, split in columns.items()})
        html: str = table.T.to_html(float_format="{:.4f}".format)
        for part in (self.slices, self.differences):
            html += part.to_html(float_format="{:.4f}".format, index=False) if len(part) else ""
        return html


def _ends(name: str, values: Sequence[float]) -> dict[str, float]:
    return dict(zip((f"{name}{end}" for end in _ENDS), values, strict=False))


def evaluate(
    model: str | os.PathLike[str],
    data: Any,
    *,
    by: str | None = None,
    slices: Sequence[str] | Literal["auto"] | None = None,
    groups: Sequence[str] | None = None,
    batch_size: int = 32,
    trust_code: bool = False,
    **keys: Any,
) -> GroupedMetrics:
    """Evaluate a fine-tuned model on labeled rows; return {metric: value}.

    `model` is a run, its folder, its `final/`, or a model on the hub. `data` is anything that
    `finetune.train` takes: a reference, a Dataset, a DataFrame, a list of dicts. `keys` set how it
    is read (split="test", delimiter=";"), or override task keys that affect predictions only
    (score_threshold=0.5). With `trust_code`, code that the model names runs: its own task,
    modules of `evaluate` in task.metrics. Raises FinetuneError.

    `by` names a column: `.groups` of the result has the metrics of the rows with each of its
    values. `slices` names columns: `.slices` compares the rows with each value with all other rows;
    "auto" takes those that any data have, such as the length. `groups` names columns of groups of
    people: `.differences` has the rates at which they get each label.
    """
    own = ("by", "slices", "groups", "batch_size", "trust_code")
    asked = {"slices": slices, "groups": groups}
    _, report = take_report_keys({k: v for k, v in asked.items() if v is not None}, "call")
    source = make_source(data, keys, "call", takes_options=True, keywords=own)
    console = Console()
    measured = evaluate_source(
        os.fspath(model), source, console, batch_size, by, trust_code=trust_code
    )
    facts = dict[str, Any]()
    if report is not None:
        check_report_columns(report, measured.rows, measured.task.rows)
        with console.during("measuring slices"):
            facts = measure_report(measured, report)
        show_slices(facts, console)
    return GroupedMetrics(
        measured.metrics, measured.metrics_by(by) if by is not None else {}, facts
    )
