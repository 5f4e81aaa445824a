"""Views of classification: remarks on the labels, outcomes of rows, plots of a split."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from finetune.errors import format_count, listed
from finetune.task_parts.samples import Prediction, Row, Stats
from finetune.task_parts.views import LabelScores, Outcome, Views
from tasks.audits.number_sections import residual_section
from tasks.cells.counted_cells import CountedCells
from tasks.cells.label_values import is_missing, label_key
from tasks.classification.classification_metrics import confusion_matrix
from tasks.classification.label_config import TargetConfig
from tasks.classification.label_plots import (
    MOST_CLASSES_CROSSED,
    write_confused_pairs,
    write_confusion,
    write_scatter,
)
from tasks.classification.targets import (
    Number,
    SeveralLabels,
    SingleLabel,
    Targets,
    label_cells,
)

if TYPE_CHECKING:
    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection

MANY_CLASSES = 1000
MANY_ROWS = 20  # from which the ratio of labels to rows means something
MAJORITY = 4  # times the rows that other labels have on average: from here on, accuracy misleads
NAMED = 10  # labels that a remark names
PLACEHOLDERS = frozenset({"nan", "none", "null", "n/a", "na", "?", "-", "<na>"})


class LabelViews(Views):
    """Views of a task with learned `targets`."""

    def __init__(self, targets: Targets | None) -> None:
        self.targets = targets

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        assert self.targets is not None, "targets are set by setup or restore"
        return self.targets.outcomes(stats["scores"], stats["target"])

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        """Name the labels that occur in the split and are never predicted."""
        if isinstance(self.targets, SingleLabel):
            predicted, true = stats["scores"].argmax(1), stats["target"]
            size = len(self.targets.names)
            counts = [each.bincount(minlength=size) for each in (predicted, true)]
        elif isinstance(self.targets, SeveralLabels):
            chosen = stats["scores"] >= torch.tensor(self.targets.thresholds)
            counts = [chosen.sum(0), stats["target"].long().sum(0)]
        else:
            return ""
        table = zip(self.targets.names, *(each.tolist() for each in counts), strict=True)
        missing = [
            f"{name!r} ({format_count(support, 'row')})"
            for name, hits, support in table
            if support and not hits
        ]
        return f"labels never predicted: {listed(missing, NAMED)}" if missing else ""

    def label_scores(self, stats: Stats) -> LabelScores | None:
        if not isinstance(self.targets, SingleLabel | SeveralLabels):
            return None
        names, scores, target = self.targets.names, stats["scores"].numpy(), stats["target"].numpy()
        exclusive = isinstance(self.targets, SingleLabel)
        truth = target[:, None] == np.arange(len(names)) if exclusive else target.astype(bool)
        return LabelScores(names, scores, truth, exclusive)

    def keep_decisions(self, state: Mapping[str, Any]) -> None:
        assert self.targets is not None, "targets are set by setup or restore"
        self.targets.state["decisions"] = dict(state)

    def caveat(self, prediction: Prediction) -> str:
        """Return why a prediction set does not decide for one label; "" if it does."""
        labels = prediction.get("set")
        if labels is None or len(labels) == 1:
            return ""
        return "several labels in the set" if labels else "no label in the set"

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        if not isinstance(self.targets, Number):
            return []
        true, predicted = evidence.stats["target"].numpy(), evidence.stats["scores"][:, 0].numpy()
        return [residual_section(true, predicted, evidence.numbers)]

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        if isinstance(self.targets, Number):
            true, predicted = stats["target"].numpy(), stats["scores"][:, 0].numpy()
            return write_scatter(true, predicted, folder)
        if not isinstance(self.targets, SingleLabel):
            return []
        names, predicted = self.targets.names, stats["scores"].argmax(1).numpy()
        true = stats["target"].numpy()
        if len(names) > MOST_CLASSES_CROSSED:
            return write_confused_pairs(true, predicted, names, folder)
        return write_confusion(confusion_matrix(predicted, true, len(names)), names, folder)


def label_remarks(config: TargetConfig, targets: Targets, train: Any) -> list[str]:
    """Return warnings about the labels of the training split, shown before training."""
    notes = []
    if config.class_weights == "balanced" and config.logit_adjustment:
        notes.append(
            "task.logit_adjustment and task.class_weights=balanced have the same effect, so rare "
            "labels are favored twice; use one of them"
        )
    if not isinstance(targets, SingleLabel | SeveralLabels):
        return notes
    cells = label_cells(config, train)
    return [*notes, *similar_names(targets.names), *_cell_remarks(targets, cells)]


def similar_names(names: Sequence[str]) -> list[str]:
    """Return notes on names that look alike, or that mean a missing value."""
    notes, seen = [], dict[str, str]()
    for name in names:
        visible = "".join(char for char in name if unicodedata.category(char) != "Cf")
        plain = unicodedata.normalize("NFKC", visible).casefold()
        other = seen.setdefault(" ".join(plain.split()), name)
        if other != name:
            notes.append(
                f"labels: {other!r} and {name!r} are different labels, but differ only in case, "
                "spacing or invisible characters"
            )
    notes += [
        f"labels: {name!r} is a label like any other; if it means that the label is missing, "
        "remove these rows"
        for name in names
        if name.casefold() in PLACEHOLDERS or (name == "-1" and _are_counts(names))
    ]
    return notes


def _are_counts(names: Sequence[str]) -> bool:
    """True if the names are -1, 0, 1, 2, ..., where -1 often means a missing label."""
    numbers = {int(name) for name in names if name.isdecimal()} | {-1}
    return len(numbers) == len(names) and numbers == set(range(-1, len(names) - 1))


def _majority_remarks(targets: SingleLabel, cells: CountedCells) -> list[str]:
    """Return a note if one label has most of the rows, so that accuracy hides the others."""
    counts = Counter[str | None]()
    for cell, number in zip(cells.values, cells.counts, strict=True):
        counts[targets.reader.one(cell)] += number
    name, count = counts.most_common(1)[0]
    rows = cells.rows
    others = (rows - count) / max(len(targets.names) - 1, 1)  # rows, on average
    if rows < MANY_ROWS or not rows / 2 < count < rows or count < MAJORITY * others:
        return []
    return [
        f"labels: {name!r} has {count / rows:.0%} of the training rows, so always predicting it is "
        "as accurate; train.best=f1_macro selects the checkpoint by a metric that counts all "
        "labels alike"
    ]


def _cell_remarks(targets: Targets, cells: CountedCells) -> list[str]:
    """Return notes on the cells: spacing, types, empty ones, and how many labels there are."""
    notes = []
    texts = {cell for cell in cells.values if isinstance(cell, str) and not is_missing(cell)}
    padded = cells.having(lambda cell: isinstance(cell, str) and cell != cell.strip()).rows
    if padded:
        notes.append(f"labels: blanks around the label ignored in {format_count(padded, 'row')}")
    count, rows = len(targets.names), cells.rows
    if isinstance(targets, SeveralLabels):
        empty = cells.having(lambda cell: not targets.reader.several(cell)).rows
        return [*notes, f"labels: {empty} of {rows} rows have no label"] if empty else notes
    if isinstance(targets, SingleLabel):
        notes += _majority_remarks(targets, cells)
    spelled = {text.strip() for text in texts} - {*targets.names}
    merged = [text for text in sorted(spelled) if label_key(text) != text]
    if merged and targets.state["class_names"] is None:
        names = [
            targets.names[index] for t in merged if (index := targets.index.get(t)) is not None
        ]
        pairs = [f"{text!r} as {name!r}" for text, name in zip(merged, names, strict=False)]
        notes += [f"labels: read {', '.join(pairs[:5])}"] if pairs else []
    if count > MANY_CLASSES or (rows >= MANY_ROWS and count > rows / 2):
        notes.append(
            f"labels: {count} distinct labels in {rows} rows, {rows / count:.1f} rows per label; "
            "if they are not classes, choose another column with task.label"
        )
    return notes
