"""What tasks with a label column share: finding it, loss, metrics, the confusion matrix.

Outputs are logits [B, C]; what a label means is `tasks.classification.targets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from finetune.model import Batch, TransferModel
from finetune.task import Prediction, Row, Sample, Stats, Task
from tasks.classification import classification_metrics as metrics
from tasks.classification.confusion import write_confusion
from tasks.classification.label_columns import LABEL_NAMES, counts_rows, find_column
from tasks.classification.label_config import TargetConfig
from tasks.classification.labels import label_text, parse_number, split_labels
from tasks.classification.targets import KINDS, SingleLabel, Targets, kind_of_values


class LabelledTask(Task):
    """A task with a label column. What is read, and by which network, the adapter says."""

    config: TargetConfig
    prediction_keys = frozenset({"threshold", "scores"})
    targets_: Targets

    # ---- what is known before a network is loaded

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        notes = self.choose_inputs(columns)
        return [*notes, *self.choose_label(columns, {*self.input_columns(), "file"})]

    def choose_label(self, columns: Mapping[str, Sequence[Any]], taken: set[str]) -> list[str]:
        """Settle the label's column, none of `taken`, and its kind; a sentence for each choice."""
        config, notes = self.config, []
        rest = {k: v for k, v in columns.items() if k not in taken or k == config.label}
        others = [name for name, values in rest.items() if not counts_rows(values)]
        label, note = find_column(config.label, "label", rest, LABEL_NAMES, others)
        notes += [note] if note else []
        kind = config.kind or kind_of_values(columns[label])
        if config.kind is None and kind != "single":
            notes.append(f"kind: {kind}, by the values of column {label!r}")
        self.config = config.model_copy(update={"label": label, "kind": kind})
        return notes

    def label_faults(self, row: Row) -> Iterator[str]:
        """What is wrong with a row's label; a row without the column is one to predict."""
        if self.config.label not in row:
            return
        label = row[self.config.label]
        if self.config.kind == "number":
            if parse_number(label) is None:
                yield f"{self.config.label} is {label!r}, not a number"
        elif self.config.kind == "single" and (label is None or not str(label).strip()):
            yield f"{self.config.label} is missing"
        elif hasattr(self, "targets_"):  # after setup the labels are known
            for name in self.targets_.unseen(label):
                yield f"{self.config.label} is {name!r}, which no row of train has"

    def stratum(self, row: Row) -> Any:
        value = row[self.config.label or ""]
        if self.config.kind == "number":
            return None
        # After setup the numbers of a ClassLabel have names.
        state = self.targets_.state if hasattr(self, "targets_") else {}
        names = state.get("class_names")
        if self.config.kind == "several":
            delimiter = state.get("delimiter", self.config.delimiter)
            return tuple(split_labels(value, delimiter, names))
        return label_text(value, names) if state else str(value).strip()

    def class_of(self, row: Row) -> int | None:
        if not isinstance(self.targets_, SingleLabel):
            return None
        return self.targets_.target(row[self.config.label or ""])

    def truth(self, row: Row) -> Any:
        return row[self.config.label or ""]

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return KINDS[self.config.kind or "single"].metric

    # ---- targets, loss, metrics

    def with_target(self, sample: Sample, row: Row) -> Sample:
        """The sample with its target, if the row has a label."""
        label = row.get(self.config.label or "")
        if label is not None and label != "":
            sample["target"] = self.targets_.target(label)
        return sample

    def with_targets(self, batch: Batch, samples: Sequence[Sample]) -> Batch:
        """The batch with its targets and their count, if every sample has one."""
        if all("target" in sample for sample in samples):
            batch["targets"], count = self.targets_.stack([sample["target"] for sample in samples])
            batch["count"] = {"loss": count}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.targets_.loss(outputs, batch["targets"])}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        return {"scores": self.targets_.scores(outputs), "target": batch["targets"]}

    def summarize(self, stats: Stats) -> dict[str, float]:
        return self.targets_.summarize(stats["scores"].numpy(), stats["target"].numpy())

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return self.targets_.predictions(self.targets_.scores(model(batch).float()).cpu())

    # ---- evaluate modules, the confusion matrix

    @property
    def scores_predictions(self) -> bool:
        return bool(self.config.metrics)

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        references = [self.targets_.target(row[self.config.label or ""]) for row in rows]
        answers = [said.get("label", said["score"]) for said in predictions]
        predicted = [self.targets_.target(answer) for answer in answers]
        classes, found = len(self.targets_.names), dict[str, float]()
        for name in self.config.metrics:
            found |= metrics.evaluate_module(name, predicted, references, classes=classes)
        return found

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        if not isinstance(self.targets_, SingleLabel):
            return []
        names, predicted = self.targets_.names, stats["scores"].argmax(1).numpy()
        matrix = metrics.confusion_matrix(predicted, stats["target"].numpy(), len(names))
        return write_confusion(matrix, names, folder)
