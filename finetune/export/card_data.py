"""All that a run has to tell of itself on its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.config.schema import RunConfig
from finetune.reporting.run_facts import RunFacts
from finetune.task_parts import CardFacts, Length


@dataclass(frozen=True)
class CardData:
    """All that a run has to tell of itself.

    Attributes:
        adapter: what the method's adapter is called, "" if it keeps none apart.
        lengths: of every row, by split, in `length_unit`.
        labels: {label: {split: rows}}; {} for a task without them.
        notes: what was settled about the data, and how many rows were left out.
        results: {split: {metric: value}} of step `step`.
        selected: the split that selected the checkpoint.
        difference: of the outputs of the saved and reloaded model, as a share of the largest.
    """

    config: RunConfig
    about: CardFacts
    adapter: str
    lengths: Mapping[str, Sequence[Length]]
    length_unit: str
    labels: Mapping[str, Mapping[str, int]]
    notes: Sequence[str]
    facts: RunFacts
    results: Mapping[str, Mapping[str, float]]
    selected: str | None
    step: int
    difference: float = 0.0
    versions: Mapping[str, Any] = field(default_factory=dict)
