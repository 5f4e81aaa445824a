"""Targets, loss, metrics and predictions of tasks with a label column.

Outputs are logits [B, C]; `tasks.classification.targets` defines the kinds of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetune.errors import nearest
from finetune.model import Batch, TransferModel
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Row, Sample, Stats
from tasks.cells.indicators import label_mappings, mapping_columns
from tasks.classification.label_config import LabelKind, TargetConfig
from tasks.classification.label_reader import (
    are_folders,
    confirm_blanks,
    confirm_kind,
)
from tasks.classification.label_rows import has_label, label_cell
from tasks.classification.label_views import label_remarks
from tasks.classification.labels import class_label_names
from tasks.classification.targets import (
    TARGET_KINDS,
    SeveralLabels,
    Targets,
    label_cells,
    learn_targets,
)
from tasks.metrics.extra_metrics import ExtraMetrics
from tasks.metrics.judged_rows import judge, trial_rows

MOST_TRIED = 50
"""Labels that occur in the rows on which metrics are tried."""


class LabeledTask(Task):
    """A task with a label column; subclasses define the inputs and the network."""

    config: TargetConfig
    resolved_: TargetConfig
    targets_: Targets | None = None
    _extra: tuple[Any, ExtraMetrics] | None = None

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return TARGET_KINDS[self._kind].metric

    @property
    def _kind(self) -> LabelKind:
        return self.resolved_.kind or "single"

    @property
    def targets(self) -> Targets:
        """Targets that `setup` learned from the label column."""
        assert self.targets_ is not None, "call setup or restore first: it sets the labels"
        return self.targets_

    def unseen(self, row: Row) -> Iterator[str]:
        if not has_label(self.resolved_, row):
            return
        for name in self.targets.unseen(label_cell(self.resolved_, row)):
            yield (
                f"{self.resolved_.label} is {name!r}, a label that does not occur in train; "
                f"{nearest(name, self.targets.names)}"
            )

    # ---- targets, loss, metrics

    def learn(self, train: Any) -> list[str]:
        """Learn the targets from the training rows; return notes on the labels."""
        config, label = self.resolved_, self.resolved_.label
        is_detected = self.config.kind is None and config.kind == "single"
        if is_detected and isinstance(label, str) and class_label_names(train, label) is None:
            files = train["file"] if "file" in train.column_names else ()
            if not are_folders(train[label], files):
                confirm_kind(config, label, label_cells(config, train))
        if config.blank_is_no and self.config.blank_is_no is None:
            mappings = [] if isinstance(label, list) else label_mappings(train[label])
            confirm_blanks(mapping_columns(mappings) or [train[name] for name in label or ()])
        self.targets_ = learn_targets(config, train)
        return [*label_remarks(config, self.targets_, train), *self.extra_metrics.notes]

    def with_target(self, sample: Sample, row: Row) -> Sample:
        """Add the target to a sample if the row has a label."""
        if has_label(self.resolved_, row):
            sample["target"] = self.targets.target(label_cell(self.resolved_, row))
        return sample

    def with_targets(self, batch: Batch, samples: Sequence[Sample]) -> Batch:
        """Add the targets and their count to a batch if every sample has a target."""
        if all("target" in sample for sample in samples):
            batch["targets"], count = self.targets.stack([sample["target"] for sample in samples])
            batch["count"] = {"loss": count}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.targets.loss(outputs, batch["targets"])}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        return {"scores": self.targets.scores(outputs), "target": batch["targets"]}

    def summarize(self, stats: Stats) -> dict[str, float]:
        arrays = stats["scores"].numpy(), stats["target"].numpy()
        results = self.targets.summarize(*arrays)
        if self.resolved_.metrics:
            targets = self.targets
            thresholds = targets.thresholds if isinstance(targets, SeveralLabels) else ()
            judged = judge(self._kind, targets.names, *arrays, np.array(thresholds))
            results |= self.extra_metrics.compute(judged)
        return results

    @property
    def extra_metrics(self) -> ExtraMetrics:
        """The metrics of task.metrics, loaded when they are first needed. Raises ConfigError."""
        names = self.targets.names
        key = (self.resolved_.metrics, self._kind, names)
        if self._extra is None or self._extra[0] != key:
            self._extra = key, ExtraMetrics(self.resolved_.extra_metrics, self._kind, names)
        return self._extra[1]

    def metric_names(self) -> list[str]:
        """Return the names of all metrics: those of rows in which every label occurs.

        Of many labels, only the first ones occur; the others have the same metrics.
        """
        names = self.targets.names
        trial = trial_rows(self._kind, names, MOST_TRIED)
        scores = trial.predictions[:, None] if trial.scores is None else trial.scores
        stats = {"scores": torch.tensor(scores), "target": torch.tensor(trial.targets)}
        found = dict.fromkeys(self.summarize(stats))
        if len(names) > MOST_TRIED:
            of_label = [
                name.removesuffix(names[0]) for name in found if name.endswith(f"/{names[0]}")
            ]
            found |= dict.fromkeys(kind + name for kind in of_label for name in names)
        return list(found)

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return self.targets.predictions(self.targets.scores(model(batch).float()).cpu())
