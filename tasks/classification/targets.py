"""The kinds of label columns: one label per row, any number of labels, or a number.

Each kind defines the target of a cell, the loss and metrics of outputs, and the format of a
prediction. Shared by text and image tasks.

Shapes: B rows, C outputs (classes, labels, or 1 for a number).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from finetune.errors import ConfigError, DataError
from finetune.reports.conformal import (
    Nonconformity,
    coverage_by_label,
    find_sets,
    measure_sets,
    set_limits,
)
from finetune.reports.label_thresholds import USUAL
from finetune.task_parts.samples import Prediction
from finetune.task_parts.views import Outcome
from tasks.cells.counted_cells import CountedCells
from tasks.cells.delimiters import find_delimiter
from tasks.cells.indicators import label_mappings
from tasks.cells.label_values import LabelIndex, label_type, merge_spellings, typed_labels
from tasks.classification import classification_metrics as metrics
from tasks.classification.imbalance import class_weights, log_priors
from tasks.classification.label_config import TargetConfig, kind_faults
from tasks.classification.label_reader import LabelReader, list_items
from tasks.classification.label_rows import label_cell, make_reader
from tasks.classification.labels import (
    class_label_names,
    find_index,
    learn_labels,
    parse_number,
    refuse_many_labels,
    sort_labels,
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
        if len(set(self.names)) < len(self.names):
            raise ValueError("a label occurs twice in the names of the classes")
        self.values = typed_labels(self.names, state.get("type", "text"))
        """The labels in the type of the data, as predictions have them."""
        self.index = LabelIndex(self.names)
        self.reader = make_reader(config, self.state)

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

    @abstractmethod
    def outcomes(self, scores: Tensor, targets: Tensor) -> list[Outcome]:
        """Return the outcome of each row of a split, from scores [N, C]."""

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

    def __init__(self, config: TargetConfig, state: Mapping[str, Any]) -> None:
        super().__init__(config, state)
        self.set_limits = self._set_limits()
        """Largest score of a label in a prediction set [C]; None without task.coverage."""

    def _set_limits(self) -> np.ndarray | None:
        coverage, decisions = self.config.coverage, self.state.get("decisions", {})
        if coverage is None:
            return None
        if "conformal" not in decisions:
            raise ConfigError(
                f"coverage={coverage:g}: this model has no scores of held-out rows to make sets "
                "from, since it was trained without a validation split or by an earlier version; "
                "`finetune calibrate RUN DATA` adds them"
            )
        known = Nonconformity.from_state(decisions["conformal"])
        by_class = self.config.class_conditional
        return set_limits(known, coverage, len(self.names), by_class=by_class)

    def target(self, value: Any) -> int:
        return find_index(self.reader.one(value), self.names, self.index)

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
        results = metrics.classification_metrics(scores, targets, self.names)
        if self.set_limits is not None:
            sets, truth = find_sets(scores, self.set_limits), targets[:, None] == self._indices
            facts = measure_sets(sets, truth)
            results |= {"coverage": facts.coverage.value, "set_size": facts.size.value}
            by_label = coverage_by_label(sets, truth, self.names)
            results |= {f"coverage/{name}": value for name, value in by_label.items()}
        return results

    @property
    def _indices(self) -> np.ndarray:
        return np.arange(len(self.names))

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"label": name, "score": probability}, the format of transformers pipelines.

        With task.coverage, "set" holds the labels of the prediction set, the likeliest first.
        """
        best = scores.argmax(dim=1).tolist()
        predictions: list[Prediction] = [
            {"label": self.values[index], "score": row[index], **self.all_scores(row)}
            for index, row in zip(best, scores.tolist(), strict=True)
        ]
        if self.set_limits is not None:
            members = find_sets(scores.numpy(), self.set_limits)
            for prediction, row, chosen in zip(predictions, scores, members, strict=True):
                order = row.argsort(descending=True, stable=True).tolist()
                prediction["set"] = [self.values[index] for index in order if chosen[index]]
        return predictions

    def outcomes(self, scores: Tensor, targets: Tensor) -> list[Outcome]:
        """Return true and predicted label; confident mistakes first, doubtful hits next."""
        best, predicted = (each.tolist() for each in scores.max(dim=1))
        outcomes = []
        for true, guess, score in zip(targets.tolist(), predicted, best, strict=True):
            columns = {"true": self.values[true], "predicted": self.values[guess]}
            mistake = score if guess != true else -score
            outcomes.append(Outcome({**columns, "probability": score}, mistake))
        return outcomes

    def describe(self, target: int) -> str:
        return self.names[target]

    def unseen(self, value: Any) -> list[str]:
        name = self.reader.one(value)
        return [name] if name is not None and self.index.get(name) is None else []


class SeveralLabels(Targets):
    """Any number of labels per row: binary cross-entropy of each."""

    metric = ("f1_micro", "max")
    problem_type = "multi_label_classification"

    def target(self, value: Any) -> list[float]:
        chosen = {self.index.get(name) for name in self.reader.several(value)}
        return [float(index in chosen) for index in range(len(self.names))]

    def stack(self, targets: Sequence[list[float]]) -> tuple[Tensor, Tensor]:
        stacked = torch.tensor(targets, dtype=torch.float32)  # [B, C]
        return stacked, torch.tensor(float(stacked.numel()))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")

    def scores(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def summarize(self, scores: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        return metrics.multilabel_metrics(scores, targets, self.names, np.array(self.thresholds))

    @property
    def thresholds(self) -> list[float]:
        """Minimum probability of each label [C]; 0.5 until thresholds are learned."""
        threshold = self.config.threshold
        if threshold == "auto":
            learned: list[float] | None = self.state.get("decisions", {}).get("thresholds")
            return learned or [USUAL] * len(self.names)
        return [threshold] * len(self.names)

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"label": [names], "score": [probabilities]} of the labels above their threshold.

        Labels are sorted by decreasing probability.
        """
        predictions, thresholds = [], self.thresholds
        for row in scores.tolist():
            chosen = [index for index, score in enumerate(row) if score >= thresholds[index]]
            chosen.sort(key=lambda index: row[index], reverse=True)
            labels = [self.values[index] for index in chosen]
            prediction = {"label": labels, "score": [row[index] for index in chosen]}
            predictions.append(prediction | self.all_scores(row))
        return predictions

    def outcomes(self, scores: Tensor, targets: Tensor) -> list[Outcome]:
        """Return the true labels, and the predicted ones with their probabilities.

        Rows with a wrong label come first, those with the most confident one on top.
        """
        chosen = scores >= torch.tensor(self.thresholds)
        errors = (scores - targets).abs()
        wrong = (errors * (chosen != targets.bool())).amax(1)
        mistakes = torch.where(wrong > 0, wrong, errors.amax(1) - 1)
        outcomes = []
        for true, row, mistake in zip(
            targets.bool().tolist(), self.predictions(scores), mistakes.tolist(), strict=True
        ):
            names = [value for value, is_true in zip(self.values, true, strict=True) if is_true]
            columns = {"true": names, "predicted": row["label"], "probability": row["score"]}
            outcomes.append(Outcome(columns, mistake))
        return outcomes

    def describe(self, target: Sequence[float]) -> str:
        return ", ".join(name for name, value in zip(self.names, target, strict=True) if value)

    def unseen(self, value: Any) -> list[str]:
        labels = self.reader.several(value)
        return [name for name in labels if self.index.get(name) is None]


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

    def outcomes(self, scores: Tensor, targets: Tensor) -> list[Outcome]:
        """Return true and predicted number and their difference; the largest errors first."""
        columns = {"true": targets, "predicted": scores[:, 0], "error": scores[:, 0] - targets}
        # Through text, so that 0.06 is not 0.05999999865889549.
        numbers = [[float(str(each)) for each in tensor.numpy()] for tensor in columns.values()]
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*numbers, strict=True)]
        return [Outcome(row, abs(row["error"])) for row in rows]

    def predictions(self, scores: Tensor) -> list[Prediction]:
        """Return {"score": number}."""
        return [{"score": value} for value in scores[:, 0].tolist()]


TARGET_KINDS: dict[str, type[Targets]] = {
    "single": SingleLabel,
    "several": SeveralLabels,
    "number": Number,
}


def learn_targets(config: TargetConfig, rows: Any) -> Targets:
    """Learn the targets from all labels of train, a datasets.Dataset."""
    kind, place = config.kind or "single", f"task.label={config.label}"
    for fault in kind_faults(config, kind):
        raise ConfigError(fault)
    if kind == "number":
        values = rows[config.label][:]  # of all rows in order, since a sum depends on its order
        numbers = np.array([parse_number(value) for value in values], dtype=np.float64)
        spread = {"deviation": float(numbers.std()) or 1.0, "mean": float(numbers.mean())}
        return Number(config, {"names": ["score"], **spread})
    cells = label_cells(config, rows)
    values = cells.values
    columns = [name.strip() for name in config.label] if isinstance(config.label, list) else None
    class_names = None if columns else class_label_names(rows, str(config.label))
    state: dict[str, Any] = {"class_names": class_names}
    if kind == "several":
        state["delimiter"] = config.delimiter or find_delimiter(values)
        reader = make_reader(config, state)
        if columns is None:
            reader.check(values, place)
        found = Counter[str]()
        for value, count in zip(values, cells.counts, strict=True):
            found.update(dict.fromkeys(reader.several(value), count))
        if config.labels is None:
            refuse_many_labels(len(found), cells.rows, place)
        keys = list(dict.fromkeys(name for each in label_mappings(values) for name in each))
        columns = columns or [reader.one(name) or name for name in keys] or None
        state["names"] = _several_names(config, found, class_names or columns, place)
        items = [item for value in values for item in list_items(value, state["delimiter"])]
        return SeveralLabels(config, state | _type_of(config, items, class_names or columns))
    names = _single_names(config, cells, class_names, columns, place)
    state |= {"names": names, "weights": None, **_type_of(config, values, class_names or columns)}
    targets = SingleLabel(config, state)
    known = np.repeat([targets.target(value) for value in values], cells.counts)
    targets.state["weights"] = class_weights(config.class_weights, names, known)
    if config.logit_adjustment:
        targets.state["log_priors"] = log_priors(names, known)
    return targets


def label_cells(config: TargetConfig, rows: Any) -> CountedCells:
    """Return the labels of all rows as cells; of one plain column, those that differ."""
    if not isinstance(config.label, list):
        return CountedCells.of_column(rows, str(config.label))
    columns = [rows[name][:] for name in config.label]
    names = config.label
    return CountedCells.of(
        label_cell(config, dict(zip(names, cells, strict=True)))
        for cells in zip(*columns, strict=True)
    )


def _single_names(
    config: TargetConfig,
    cells: CountedCells,
    class_names: Sequence[str] | None,
    columns: Sequence[str] | None,
    place: str,
) -> list[str]:
    """Return the names of single labels: the configured ones, else those of the data."""
    reader, counts = LabelReader(config.labels, class_names), Counter[str | None]()
    try:
        for value, count in zip(cells.values, cells.counts, strict=True):
            counts[reader.one(value)] += count
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    return learn_labels(counts, config.labels or columns, class_names, place)


def _several_names(
    config: TargetConfig, counts: Counter[str], known: Sequence[str] | None, place: str
) -> list[str]:
    """Return the names of several labels: the configured or `known` ones, else those counted."""
    given = config.labels or known or sort_labels(merge_spellings(counts).values())
    if not given:
        raise DataError(f"{place}: no row has a label; choose the column that contains the labels")
    # Passing the names skips the check of single labels: labels of every row are normal here.
    return learn_labels(counts, given, place=place)


def _type_of(config: TargetConfig, values: Iterable[Any], known: Any) -> dict[str, str]:
    """Return {"type": ...} for labels whose type in the data is not text."""
    kind = "text" if known or isinstance(config.labels, Mapping) else label_type(values)
    return {} if kind == "text" else {"type": kind}


def restore_targets(config: TargetConfig, state: Mapping[str, Any]) -> Targets:
    """Rebuild learned targets from their `state`."""
    return TARGET_KINDS[config.kind or "single"](config, state)
