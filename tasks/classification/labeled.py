"""Targets, loss, metrics and predictions of tasks with a label column.

Outputs are logits [B, C]; `tasks.classification.targets` defines the kinds of labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from finetune.model import Batch, TransferModel
from finetune.task import Score, Task
from finetune.task_parts import Prediction, Row, Sample, Stats
from tasks.classification import classification_metrics as metrics
from tasks.classification.label_config import TargetConfig
from tasks.classification.label_reader import (
    are_folders,
    confirm_blanks,
    confirm_kind,
    label_mappings,
    mapping_columns,
)
from tasks.classification.label_rows import has_label, label_cell
from tasks.classification.label_views import label_remarks
from tasks.classification.labels import class_label_names
from tasks.classification.targets import TARGET_KINDS, Targets, label_values, learn_targets


class LabeledTask(Task):
    """A task with a label column; subclasses define the inputs and the network."""

    config: TargetConfig
    resolved_: TargetConfig
    targets_: Targets | None = None

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return TARGET_KINDS[self.resolved_.kind or "single"].metric

    @property
    def targets(self) -> Targets:
        """Targets that `setup` learned from the label column."""
        assert self.targets_ is not None, "call setup or restore first: it sets the labels"
        return self.targets_

    def unseen(self, row: Row) -> Iterator[str]:
        if not has_label(self.resolved_, row):
            return
        for name in self.targets.unseen(label_cell(self.resolved_, row)):
            yield f"{self.resolved_.label} is {name!r}, a label that does not occur in train"

    # ---- targets, loss, metrics

    def learn(self, train: Any) -> list[str]:
        """Learn the targets from the training rows; return notes on the labels."""
        config, label = self.resolved_, self.resolved_.label
        is_detected = self.config.kind is None and config.kind == "single"
        if is_detected and isinstance(label, str) and class_label_names(train, label) is None:
            files = train["file"] if "file" in train.column_names else ()
            if not are_folders(train[label], files):
                confirm_kind(config, label, label_values(config, train))
        if config.blank_is_no and self.config.blank_is_no is None:
            mappings = [] if isinstance(label, list) else label_mappings(train[label])
            confirm_blanks(mapping_columns(mappings) or [train[name] for name in label or ()])
        self.targets_ = learn_targets(config, train)
        return label_remarks(config, self.targets_, train)

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
        return self.targets.summarize(stats["scores"].numpy(), stats["target"].numpy())

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return self.targets.predictions(self.targets.scores(model(batch).float()).cpu())

    # ---- evaluate modules

    @property
    def score(self) -> Score | None:
        return self._score if self.resolved_.metrics else None

    def _score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        references = [self.targets.target(label_cell(self.resolved_, row)) for row in rows]
        answers: list[Any] = [each.get("label", each["score"]) for each in predictions]
        predicted = [self.targets.target(answer) for answer in answers]
        classes, results = len(self.targets.names), dict[str, float]()
        for name in self.resolved_.metrics:
            results |= metrics.evaluate_module(name, predicted, references, classes=classes)
        return results
