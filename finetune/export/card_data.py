"""Contents of a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.config.schema import RunConfig
from finetune.export.reproduction import Reproduction
from finetune.reporting.run_facts import AddedRows, RunFacts
from finetune.task_parts.samples import Length
from finetune.task_parts.views import CardFacts


@dataclass(frozen=True)
class CardData:
    """Everything that the model card states about a run.

    Attributes:
        adapter: name of the method's adapter, "" if the method has no separate adapter.
        lengths: length of every row, by split, in `length_unit`.
        labels: {label: {split: count}}, {} for a task without labels.
        label_unit: what the counts of labels count: rows or objects.
        added: rows that were trained on and are in no split: pseudo-labeled or synthetic ones.
        notes: sentences on how the data was read and how many rows were skipped.
        results: {split: {metric: value}} of the checkpoint of `step`.
        selected: the split that selected the checkpoint; None if none did.
        difference: max difference between the outputs of the saved and the reloaded model, relative
            to the largest output.
        calibration: what results.json holds of it; {} for a task without probabilities of labels.
        intervals: {split: {metric: [value, low, high]}} of the metrics that were resampled.
        reproduction: what another run needs to repeat this one.
        slices: what results.json holds of slices and groups.
        decisions: the same of thresholds and prediction sets.
    """

    config: RunConfig
    about: CardFacts
    adapter: str
    lengths: Mapping[str, Sequence[Length]]
    length_unit: str
    labels: Mapping[str, Mapping[str, int]]
    label_unit: str
    notes: Sequence[str]
    facts: RunFacts
    results: Mapping[str, Mapping[str, float]]
    selected: str | None
    step: int
    difference: float = 0.0
    versions: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)
    decisions: Mapping[str, Any] = field(default_factory=dict)
    slices: Mapping[str, Any] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    reproduction: Reproduction | None = None
    added: Sequence[AddedRows] = ()
