"""What a label column means: one label of several, any number of labels, or a number.

Each kind says what a cell is as a target, how outputs are judged against it, and what a prediction
looks like. Shared by text and images.

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
    """One meaning of a label column, with what it learned from the training split."""

    metric: ClassVar[tuple[str, Literal["max", "min"]]]
    problem_type: ClassVar[str]
    """What transformers calls it."""

    def __init__(self, config: TargetConfig, state: Mapping[str, Any]) -> None:
        self.config = config
        self.state = dict(state)
        self.names: list[str] = list(state["names"])

    @abstractmethod
    def target(self, value: Any) -> Any:
        """The target of one row from its cell. Raises DataError for a label that is unknown."""

    @abstractmethod
    def stack(self, targets: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Targets of B rows as a tensor, and what their loss is divided by, float32 []."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs [B, C], summed."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs [B, C] as what a person reads."""

    @abstractmethod
    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Metrics of a split from scores [N, C]."""

    @abstractmethod
    def predictions(self, scores: Tensor) -> list[Prediction]:
        """One prediction for each row of scores [B, C]."""

    def all_scores(self, row: Sequence[float]) -> Prediction:
        """{"score/<label>": probability} of every label of a row, if task.scores asks for it."""
        if self.config.scores != "all":
            return {}
        return {f"score/{name}": score for name, score in zip(self.names, row, strict=True)}

    def describe(self, target: Any) -> str:
        """A target in words."""
        return f"{target:g}"

    def unseen(self, value: Any) -> list[str]:
        """The labels of a cell that training did not see."""
        return []


class SingleLabel(Targets):
    """One label of several: cross-entropy."""

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
            right = outputs.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
            losses = (1 - right) ** self.config.focal_gamma * losses
        return losses.sum()

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(dim=1)

    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return metrics.classification_metrics(scores, targets, self.names)

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """{"label": name, "score": probability}, as the pipelines of transformers give it."""
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
    """Any number of labels: binary cross-entropy of each."""

    metric = ("f1_micro", "max")
    problem_type = "multi_label_classification"

    def target(self, value: Any) -> list[float]:
        found = split_labels(value, self.state["delimiter"], self.state["class_names"])
        return [float(name in found) for name in self.names]

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
        """{"label": [names], "score": [probabilities]} of the labels that reach the threshold.

        The likeliest is first.
        """
        found = []
        for row in scores.tolist():
            chosen = [index for index, score in enumerate(row) if score >= self.config.threshold]
            chosen.sort(key=lambda place: row[place], reverse=True)
            labels = [self.names[index] for index in chosen]
            told = {"label": labels, "score": [row[index] for index in chosen]}
            found.append(told | self.all_scores(row))
        return found

    def describe(self, target: Sequence[float]) -> str:
        return ", ".join(name for name, held in zip(self.names, target, strict=True) if held)

    def unseen(self, value: Any) -> list[str]:
        found = split_labels(value, self.state["delimiter"], self.state["class_names"])
        return [name for name in found if name not in self.names]


class Number(Targets):
    """A number: squared error, in standard deviations of the training split.

    So a number in any unit trains alike.
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
        """{"score": number}."""
        return [{"score": value} for value in scores[:, 0].tolist()]


TARGET_KINDS: dict[str, type[Targets]] = {
    "single": SingleLabel,
    "several": SeveralLabels,
    "number": Number,
}


def kind_of_values(values: Sequence[Any]) -> LabelKind:
    """What the first values of a label column are: lists: several labels, fractions: numbers."""
    known = [value for value in values if value is not None]
    if any(isinstance(value, list | tuple) for value in known):
        return "several"
    numbers = [parse_number(value) for value in known]
    fractions = any(number is not None and not number.is_integer() for number in numbers)
    return "number" if fractions and None not in numbers else "single"


def learn_targets(config: TargetConfig, rows: Any) -> Targets:
    """The targets of a training split, a datasets.Dataset, from all cells of its label column."""
    values, kind = list(rows[config.label]), config.kind or "single"
    place = f"task.label={config.label}"
    for key in ("class_weights", "logit_adjustment"):
        if getattr(config, key) and kind != "single":
            raise ConfigError(
                f"task.{key}: is for single labels, but task.kind is {kind}; remove it"
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
        # Rare labels are normal here, so the column is not doubted as one of single labels is.
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
    """What a person should know of the labels of a run before it is trained."""
    notes, seen = [], dict[str, str]()
    if config.class_weights == "balanced" and config.logit_adjustment:
        notes.append(
            "task.logit_adjustment and task.class_weights=balanced do the same, so rare labels are "
            "favoured twice; one of them is enough"
        )
    for name in names:
        other = seen.setdefault(" ".join(name.casefold().split()), name)
        if other != name:
            notes.append(f"labels: {other!r} and {name!r} are two, though they look alike")
    return notes


def restore_targets(config: TargetConfig, state: Mapping[str, Any]) -> Targets:
    """Targets from the `state` of targets that were learned."""
    return TARGET_KINDS[config.kind or "single"](config, state)
