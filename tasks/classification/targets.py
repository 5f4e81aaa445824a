"""The kinds of label columns: one label per row, any number of labels, or a number.

Each kind defines the target of a cell, the loss and metrics of outputs, and the format of a
prediction. Shared by text and image tasks.

Shapes: B rows, C outputs (classes, labels, or 1 for a number).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.errors import ConfigError
from finetune.task_parts import Prediction
from tasks.classification import classification_metrics as metrics
from tasks.classification.imbalance import class_weights, log_priors
from tasks.classification.label_config import LabelKind, TargetConfig
from tasks.classification.labels import (
    class_label_names,
    find_delimiter,
    label_index,
    label_text,
    learn_labels,
    parse_number,
    sort_labels,
    split_labels,
)


class Targets(ABC):
    """One kind of label column, with the state learned from the training split."""

    metric: ClassVar[tuple[str, Literal["max", "min"]]]
    problem_type: ClassVar[str]
    """The kind's name in transformers."""

    def __init__(self, config: TargetConfig, state: Mapping[str, Any]) -> None:
        self.config = config
        self.state = dict(state)
        self.names: list[str] = list(state["names"])

    @abstractmethod
    def target(self, value: Any) -> Any:
        """Return the target of a row from its cell. Raises DataError for an unknown label."""

    @abstractmethod
    def stack(self, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Stack the targets of B rows; also return the divisor of their loss, float32 []."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the summed loss of outputs [B, C]."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor:
        """Convert outputs [B, C] to probabilities, or to a number in the unit of the column."""

    @abstractmethod
    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Compute the metrics of a split from scores [N, C]."""

    @abstractmethod
    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return one prediction for each row of scores [B, C]."""

    def all_scores(self, row: Sequence[float]) -> Prediction:
        """Return {"score/<label>": probability} for every label of a row if task.scores=all."""
        if self.config.scores != "all":
            return {}
        return {f"score/{name}": score for name, score in zip(self.names, row, strict=True)}

    def describe(self, target: Any) -> str:
        """Render a target as text."""
        return f"{target:g}"

    def unseen(self, value: Any) -> list[str]:
        """Return the labels of a cell that do not occur in train."""
        return []


class SingleLabel(Targets):
    """One label per row: cross-entropy."""

    metric = ("accuracy", "max")
    problem_type = "single_label_classification"

    def target(self, value: Any) -> int:
        return label_index(value, self.names, self.state["class_names"])

    def stack(self, targets: Sequence[int]) -> tuple[Tensor, Tensor]:
        stacked = torch.tensor(targets, dtype=torch.long)  # [B]
        weights = self.state["weights"]
        if weights is None:
            return stacked, torch.tensor(float(len(targets)))
        return stacked, torch.tensor(weights)[stacked].sum()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = self.state["weights"]
        if weights is not None:
            weights = torch.tensor(weights, dtype=outputs.dtype, device=outputs.device)
        if self.config.logit_adjustment:
            priors = torch.tensor(self.state["log_priors"], device=outputs.device)
            outputs = outputs + self.config.logit_adjustment * priors.to(outputs.dtype)
        losses = functional.cross_entropy(
            outputs,
            targets,
            weights,
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )  # [B]
        if self.config.focal_gamma:
            confidence = outputs.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)  # [B]
            losses = (1 - confidence) ** self.config.focal_gamma * losses
        return losses.sum()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)

    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return metrics.classification_metrics(scores, targets, self.names)

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"label": name, "score": probability}, the format of transformers pipelines."""
        best = scores.argmax(dim=1).tolist()
        return [
            {"label": self.names[index], "score": row[index], **self.all_scores(row)}
            for index, row in zip(best, scores.tolist(), strict=True)
        ]

    def describe(self, target: int) -> str:
        return self.names[target]

    def unseen(self, value: Any) -> list[str]:
        name = label_text(value, self.state["class_names"])
        return [name] if name is not None and name not in self.names else []


class SeveralLabels(Targets):
    """Any number of labels per row: binary cross-entropy of each."""

    metric = ("f1_micro", "max")
    problem_type = "multi_label_classification"

    def target(self, value: Any) -> list[float]:
        labels = split_labels(value, self.state["delimiter"], self.state["class_names"])
        return [float(name in labels) for name in self.names]

    def stack(self, targets: Sequence[list[float]]) -> tuple[Tensor, Tensor]:
        stacked = torch.tensor(targets, dtype=torch.float32)  # [B, C]
        return stacked, torch.tensor(float(stacked.numel()))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return metrics.multilabel_metrics(scores, targets, self.names, self.config.threshold)

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"label": [names], "score": [probabilities]} of the labels above the threshold.

        Labels are sorted by decreasing probability.
        """
        predictions = []
        for row in scores.tolist():
            chosen = [index for index, score in enumerate(row) if score >= self.config.threshold]
            chosen.sort(key=lambda index: row[index], reverse=True)
            labels = [self.names[index] for index in chosen]
            prediction = {"label": labels, "score": [row[index] for index in chosen]}
            predictions.append(prediction | self.all_scores(row))
        return predictions

    def describe(self, target: Sequence[float]) -> str:
        return ", ".join(name for name, value in zip(self.names, target, strict=True) if value)

    def unseen(self, value: Any) -> list[str]:
        labels = split_labels(value, self.state["delimiter"], self.state["class_names"])
        return [name for name in labels if name not in self.names]


class Number(Targets):
    """A number: squared error in standard deviations of the training split.

    The loss is therefore independent of the unit.
    """

    metric = ("rmse", "min")
    problem_type = "regression"

    def target(self, value: Any) -> float | None:
        return parse_number(value)

    def stack(self, targets: Sequence[float]) -> tuple[Tensor, Tensor]:
        return torch.tensor(targets, dtype=torch.float32), torch.tensor(float(len(targets)))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        deviation = self.state["deviation"]
        values = outputs.squeeze(1)  # [B]
        return functional.mse_loss(values / deviation, targets / deviation, reduction="sum")

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs

    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return metrics.regression_metrics(scores[:, 0], targets)

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"score": number}."""
        return [{"score": value} for value in scores[:, 0].tolist()]


TARGET_KINDS: dict[str, type[Targets]] = {
    "single": SingleLabel,
    "several": SeveralLabels,
    "number": Number,
}


def kind_of_values(values: Sequence[Any]) -> LabelKind:
    """Detect the kind of a label column by its first values: lists: several, fractions: number."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, list | tuple) for value in known):
        return "several"
    numbers = [parse_number(value) for value in known]
    fractions = any(number is not None and not number.is_integer() for number in numbers)
    return "number" if fractions and None not in numbers else "single"


def learn_targets(config: TargetConfig, rows: Any) -> Targets:
    """Learn the targets from all cells of the label column of train, a datasets.Dataset."""
    values, kind = list(rows[config.label]), config.kind or "single"
    place = f"task.label={config.label}"
    for key in ("class_weights", "logit_adjustment"):
        if getattr(config, key) and kind != "single":
            raise ConfigError(
                f"task.{key}: requires task.kind=single, but task.kind is {kind}; remove the key"
            )
    if kind == "number":
        numbers = np.array([parse_number(value) for value in values], dtype=np.float64)
        spread = {"deviation": float(numbers.std()) or 1.0, "mean": float(numbers.mean())}
        return Number(config, {"names": ["score"], **spread})
    class_names = class_label_names(rows, config.label or "")
    state = {"class_names": class_names}
    if kind == "several":
        delimiter = config.delimiter or find_delimiter(values)
        cells = [name for value in values for name in split_labels(value, delimiter, class_names)]
        # Passing the names skips the check for too many distinct labels: rare ones are normal here.
        names = learn_labels(cells, config.labels or class_names or sort_labels(cells), place=place)
        return SeveralLabels(config, state | {"names": names, "delimiter": delimiter})
    names = learn_labels(values, config.labels, class_names, place)
    targets = SingleLabel(config, state | {"names": names, "weights": None})
    known = [targets.target(value) for value in values]
    targets.state["weights"] = class_weights(config.class_weights, names, known)
    if config.logit_adjustment:
        targets.state["log_priors"] = log_priors(names, known)
    return targets


def label_remarks(config: TargetConfig, names: Sequence[str]) -> list[str]:
    """Return warnings about the labels of a run, shown before training."""
    notes, seen = [], dict[str, str]()
    if config.class_weights == "balanced" and config.logit_adjustment:
        notes.append(
            "task.logit_adjustment and task.class_weights=balanced have the same effect, so rare "
            "labels are favored twice; use one of them"
        )
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            notes.append(
                f"labels: {other!r} and {name!r} are different labels, but differ only in case or "
                "spacing"
            )
    return notes


def restore_targets(config: TargetConfig, state: Mapping[str, Any]) -> Targets:
    """Rebuild learned targets from their `state`."""
    return TARGET_KINDS[config.kind or "single"](config, state)
