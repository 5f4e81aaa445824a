"""Config keys of tasks whose rows have labels or a number as target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator

from finetune.config.schema import NonNegative
from finetune.errors import nearest
from tasks.cells.label_values import check_label_names, configured_labels, label_key
from tasks.metrics.metric_config import ExtraMetricsConfig

LabelKind = Literal["single", "several", "number"]


def _as_name(value: Any) -> Any:
    """Convert a number or a boolean of YAML to the name of a label."""
    return str(value).lower() if isinstance(value, bool | int) else value


def _as_key(value: Any) -> Any:
    return label_key(str(value)) if isinstance(value, bool | int | float | str) else value


LabelName = Annotated[str, BeforeValidator(_as_name)]
LabelValue = Annotated[str, BeforeValidator(_as_key)]


KEYS_OF_KINDS = {
    "class_weights": ("single",),
    "label_smoothing": ("single",),
    "focal_gamma": ("single",),
    "logit_adjustment": ("single",),
    "threshold": ("several",),
    "delimiter": ("several",),
    "blank_is_no": ("several",),
    "labels": ("single", "several"),
}
"""Keys that mean something for some kinds of labels only."""


class TargetConfig(ExtraMetricsConfig):
    """The keys of a task whose rows have labels or a number as target."""

    column_keys: ClassVar[frozenset[str]] = frozenset({"label"})
    may_round: ClassVar[bool] = False
    metric_names: ClassVar[tuple[str, ...]] = (
        *("accuracy", "matthews", "top5_accuracy", "subset_accuracy", "roc_auc"),
        *("f1_macro", "f1_micro"),
        *("precision/<label>", "recall/<label>", "f1/<label>", "support/<label>"),
        *("rmse", "mae", "r2", "pearson", "spearman"),
    )

    prediction_keys: ClassVar[frozenset[str]] = frozenset(
        {"threshold", "scores", "label", "metrics", "coverage", "class_conditional"}
    )

    @property
    def learns_thresholds(self) -> bool:
        return self.threshold == "auto"

    @property
    def may_have_labels(self) -> bool:
        return self.kind != "number"

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        for key in ("coverage", "class_conditional"):
            if getattr(self, key):
                yield (
                    f"task.{key}: for predictions; leave it out of training, and use "
                    "finetune predict RUN DATA --coverage 0.9"
                )
        if self.kind is not None:
            yield from kind_faults(self, self.kind)
        if self.labels is not None and isinstance(self.class_weights, dict):
            yield from weight_faults(self.class_weights, configured_labels(self.labels))

    @field_validator("labels")
    @classmethod
    def _are_distinct(cls, labels: Any) -> Any:
        if labels is not None:
            check_label_names(configured_labels(labels))
        return labels

    def change_faults(self, changed: Self) -> Iterator[str]:
        if changed.threshold != self.threshold and self.kind != "several":
            yield (
                "task.threshold: applies to models of several labels (task.kind=several), and this"
                f" model's task.kind is {self.kind}; remove the key"
            )
        elif changed.threshold == "auto" != self.threshold:
            yield "task.threshold=auto: thresholds are learned in training; give a number"
        if changed.coverage is not None and self.kind in ("several", "number"):
            yield (
                "task.coverage: prediction sets are for models of one label per row, and this "
                f"model's task.kind is {self.kind}; remove the key"
            )
        elif changed.class_conditional and changed.coverage is None:
            yield "task.class_conditional: needs a coverage, such as task.coverage=0.9"

    label: str | Annotated[list[str], Field(min_length=2)] | None = None
    """Column of the label, or a list of columns of zeros and ones, each of which is a label; null:
    detected.
    """
    kind: LabelKind | None = None
    """single: one label per row; several: any number of labels; number: regression.

    null: detected from the values.
    """
    labels: list[LabelName] | dict[LabelValue, LabelName] | None = None
    """Label names in order, which also name the positions of lists of zeros and ones; or the names
    of the values in the data, such as {0: negative, 1: positive}; null: the labels of the training
    split, sorted.
    """
    delimiter: str | None = None
    """Delimiter between the labels of a cell, for kind=several; null: detected."""
    blank_is_no: bool | None = None
    """Meaning of an empty cell in a column per label: true: no; false: missing, a fault; null: no
    if none of the columns holds an explicit no.
    """
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = 0.5
    """Minimum probability of a predicted label, for kind=several; auto: one for each label, learned
    from the validation split when training ends, where that improves the metric on other rows.
    """
    coverage: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Add to each prediction a set of labels that contains the true one with this probability, for
    kind=single. Only for predictions and evaluations; null: no sets.
    """
    class_conditional: bool = False
    """Cover the rows of each label with that probability, not only all rows together."""
    scores: Literal["best", "all"] = "best"
    """Scores in a prediction. best: the probability of its label; all: also that of every label, as
    score/<label>.
    """
    class_weights: Literal["balanced"] | dict[LabelName, PositiveFloat] | None = None
    """Weight of each label in the loss, for kind=single; balanced: inversely proportional to its
    frequency.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability that is spread over all labels, for kind=single.

    Szegedy et al. 2016, arXiv:1512.00567.
    """
    focal_gamma: NonNegative = 0.0
    """Exponent of the focal loss, which down-weights rows that are already classified well (Lin et
    al. 2017, arXiv:1708.02002), for kind=single; 0: cross-entropy.
    """
    logit_adjustment: NonNegative = 0.0
    """Factor by which the log prior of each label, from its share of the training rows, is added to
    its logit in the loss but not in predictions, which favors rare labels (Menon et al. 2021,
    arXiv:2007.07314), for kind=single; 1: all labels matter equally. Combined with balanced weights
    or sampling, which have the same effect, it favors rare labels twice.
    """
    head_hidden: PositiveInt | None = None
    """Width of a hidden layer in the head, which is then saved beside the network; null: none."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Dropout probability in a head with a hidden layer."""


def kind_faults(config: TargetConfig, kind: LabelKind) -> Iterator[str]:
    """Yield the faults of keys that mean something for another kind of label only."""
    for key, kinds in KEYS_OF_KINDS.items():
        is_set = getattr(config, key) != type(config).model_fields[key].default
        if is_set and kind not in kinds:
            yield (
                f"task.{key}: requires task.kind={' or '.join(kinds)}, but task.kind is {kind};"
                " remove the key"
            )


def weight_faults(weights: Mapping[str, float], names: Sequence[str]) -> Iterator[str]:
    """Yield the faults of class weights that do not have exactly the names of the labels."""
    for name in weights:
        if name not in names:
            yield f"task.class_weights: unknown label {name!r}; {nearest(name, names)}"
    if missing := [name for name in names if name not in weights]:
        more = ", ".join(f"{name}: 1" for name in missing)
        yield (f"task.class_weights: no weight for {', '.join(map(repr, missing))}; add {{{more}}}")
