"""The keys of tasks whose rows have labels or a number."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.config.schema import NonNegative, TaskConfig

LabelKind = Literal["single", "several", "number"]


class TargetConfig(TaskConfig):
    """The keys of a task whose rows have labels or a number."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"metrics"})
    prediction_keys: ClassVar[frozenset[str]] = frozenset({"threshold", "scores"})

    metrics: list[str] = []  # noqa: RUF012 - pydantic copies it
    """`evaluate` modules to compute beside the task's own metrics: hub ids or local paths."""
    label: str | None = None
    """Column of the label; null: found."""
    kind: LabelKind | None = None
    """single: one label of several; several: any number of labels; number: regression.

    null: found in the values.
    """
    labels: list[str] | None = None
    """Names of the labels in their order; null: those of the training split, sorted."""
    delimiter: str | None = None
    """Between the labels of a cell, for kind=several; null: found."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a label is predicted, for kind=several."""
    scores: Literal["best", "all"] = "best"
    """What a prediction holds beside its label. best: the probability of that; all: of every label
    as well, as score/<label>.
    """
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Weight of each label in the loss, for kind=single; balanced: inverse to its frequency."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target that is spread over all labels, for kind=single.

    Szegedy et al. 2016, arXiv:1512.00567.
    """
    focal_gamma: NonNegative = 0.0
    """Exponent by which rows that are already right weigh less (Lin et al. 2017, arXiv:1708.02002),
    for kind=single; 0: cross-entropy.
    """
    logit_adjustment: NonNegative = 0.0
    """How much the logarithm of a label's share of the training rows is added to its logit in the
    loss, and not in predictions, which so favour rare labels (Menon et al. 2021, arXiv:2007.07314),
    for kind=single; 1: to serve all labels alike. Beside balanced weights or sampling, which do
    the same, rare labels are favoured twice.
    """
    head_hidden: PositiveInt | None = None
    """Features of a hidden layer of the head, which is saved beside the network; null: none."""
    head_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of activations that a head with a hidden layer drops in training."""
