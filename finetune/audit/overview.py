"""Sections of any task: its metrics with intervals, and the curves of the training run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.audit.charts import line_chart, records
from finetune.audit.evidence import Evidence
from finetune.audit.sections import CLASSES, Chart, Link, Note, ReportSection, Table
from finetune.errors import format_count
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import format_value
from finetune.reporting.metric_tables import BY_LABEL, MOST_LABELS, by_label, overall
from finetune.reporting.plots import plotted_metrics
from finetune.reports.intervals import Estimate, mean_interval
from finetune.reports.reliability import log_losses


def metric_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """Describe the metrics of the split, and those of each label."""
    intervals, values = dict(evidence.intervals), overall(evidence.metrics)
    if evidence.scores is not None:
        loss = mean_interval(log_losses(evidence.scores))
        # The loss may be weighted, or summed over labels.
        name = "loss" if math.isclose(loss.value, values["loss"], rel_tol=1e-3) else "log_loss"
        values[name], intervals[name] = loss.value, loss
    shown = {name: intervals.get(name, format_value(value)) for name, value in values.items()}
    if any(section.key == CLASSES for section in evidence.own_sections):
        shown = {name: v for name, v in shown.items() if "/" not in name or _is_loss(name)}
    rows = [[name, value] for name, value in shown.items()]
    blocks = [Table("", ["metric", "value"], rows, _basis(evidence, bool(intervals)))]
    if labels := by_label(evidence.metrics):
        blocks.append(_label_table(labels, intervals))
    name, _ = evidence.task.metric
    finding = ""
    if name in shown:
        finding = f"{name} {shown[name]} on {format_count(len(evidence), 'row')}"
    yield ReportSection("metrics", "Metrics", blocks, finding)


def _is_loss(name: str) -> bool:
    return name.startswith("loss/")


def _label_table(labels: Sequence[Sequence[Any]], intervals: Mapping[str, Estimate]) -> Table:
    """Return the metrics of each label; of many, those with the lowest F1."""
    note, shown = "", labels
    if len(labels) > MOST_LABELS:
        shown = sorted(labels, key=lambda line: line[BY_LABEL.index("f1") + 1])[:MOST_LABELS]
        note = f"The {MOST_LABELS} of {len(labels)} labels with the lowest F1."
    lines = [
        [
            Link(str(label), {"true": label}),
            *(
                intervals.get(f"{measure}/{label}", format_value(value))
                for measure, value in zip(BY_LABEL[:-1], measured, strict=True)
            ),
            support,
        ]
        for label, *measured, support in shown
    ]
    return Table("By label", ["label", *BY_LABEL], lines, note)


def _basis(evidence: Evidence, has_intervals: bool) -> str:
    text = f"Measured on {format_count(len(evidence), 'row')}"
    if has_intervals:
        text += "; 95 % bootstrap intervals: the range to expect on other such rows"
    if evidence.selected_checkpoint:
        text += ". Optimistically biased: these rows selected the checkpoint"
    return f"{text}."


def curve_sections(evidence: Evidence) -> Iterator[ReportSection]:
    """Draw what the run logged during training."""
    if evidence.run is None:
        return
    history = evidence.run.history()
    lines = [*history, *_final_lines(evidence.run, history)]
    splits = list(dict.fromkeys(line["split"] for line in lines))
    held_out = [split for split in splits if split != "train"]
    charts = []
    losses = [line for line in lines if "loss" in line]
    if losses:
        columns = {key: [line[key] for line in losses] for key in ("step", "loss", "split")}
        chart = line_chart(records(**columns), "step", "loss", "split", zero=True)
        charts.append(Chart("loss", "Loss", chart))
    values = [
        (line["step"], line[name], f"{split} {name}" if len(held_out) > 1 else name)
        for split in held_out
        for name in plotted_metrics(lines, split)
        for line in lines
        if line["split"] == split and name in line
    ]
    if len(values) > 1:
        step, value, series = zip(*values, strict=True)
        data = records(step=step, value=value, series=series)
        chart = line_chart(data, "step", "value", "series", points=len(data) < 60)
        chart["layer"][0]["encoding"]["y"]["title"] = None
        title = f"Metrics on {held_out[0]}" if len(held_out) == 1 else "Held-out metrics"
        charts.append(Chart("metrics", title, chart))
    rates = [line for line in lines if "lr" in line]
    if len(rates) > 1:
        data = records(**{key: [line[key] for line in rates] for key in ("step", "lr")})
        charts.append(Chart("learning-rate", "Learning rate", line_chart(data, "step", "lr")))
    if charts:
        yield ReportSection("curves", "Learning curves", charts)
    else:
        note = Note("The run has no logged steps: its head was solved for exactly.")
        yield ReportSection("curves", "Learning curves", [note])


def _final_lines(run: RunFolder, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the metrics of the final model on the splits of a history, which may lack its step."""
    results = run.read("results.json")
    known = {line["split"] for line in lines}
    return [
        {"step": results["step"], "split": split, **metrics}
        for split, metrics in results["metrics"].items()
        if split in known
    ]
