"""Config keys of tasks whose rows have labels or a number as target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from finetune.config.schema import NonNegative
from tasks.cells.label_values import label_key
from tasks.metrics.metric_config import ExtraMetricsConfig

LabelKind = Literal["single", "several", "number"]


def _as_name(value: Any) -> Any:
    """Convert a number or a boolean of YAML to the name of a label."""
    return str(value).lower() if isinstance(value, bool | int) else value


def _as_key(value: Any) -> Any:
    return label_key(str(value)) if isinstance(value, bool | int | float | str) else value


LabelName = Annotated[str, BeforeValidator(_as_name)]
LabelValue = Annotated[str, BeforeValidator(_as_key)]


class TargetConfig(ExtraMetricsConfig):
    """The keys of a task whose rows have labels or a number as target."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset(
        {"threshold", "scores", "label", "metrics", "coverage", "class_conditional"}
    )

    @property
    def learns_thresholds(self) -> bool:
        return self.threshold == "auto"

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        for key in ("coverage", "class_conditional"):
            if getattr(self, key):
                yield (
                    f"task.{key}: for predictions; leave it out of training, and use "
                    "finetune predict RUN DATA --coverage 0.9"
                )

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
