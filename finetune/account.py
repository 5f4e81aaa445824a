"""What a run has to tell of itself, gathered for its card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from finetune.assembly import Prepared
from finetune.card import Story
from finetune.data import Splits
from finetune.header import header
from finetune.processes import environment

TOLD = ("length", "network", "parameters", "device", "steps", "batch", "choices")
VERSIONS = ("python", "torch", "transformers", "datasets")


def tell(
    prepared: Prepared,
    splits: Splits,
    results: Mapping[str, Mapping[str, float]],
    selected: str | None,
    step: int,
) -> Story:
    """The story of a run whose model is about to be saved."""
    live = prepared.live
    facts = header(prepared, splits)
    versions = environment(live.accelerator)
    notes = [note for note in splits.notes if not note.startswith("rows: ")]
    return Story(
        config=live.config,
        about=live.task.about(live.model),
        lengths=prepared.lengths,
        labels=_count_labels(splits, live.task),
        notes=notes,
        facts={name: facts[name] for name in TOLD if name in facts},
        results=results,
        selected=selected,
        step=step,
        versions={name: versions[name] for name in VERSIONS},
    )


def _count_labels(splits: Splits, task: Any) -> dict[str, dict[str, int]]:
    """{label: {split: rows}}, the most frequent first; a row may have several labels or none."""
    found: dict[str, dict[str, int]] = {}
    for split, rows in splits.named.items():
        counts: Counter[str] = Counter()
        for stratum in map(task.stratum, rows):
            labels = stratum if isinstance(stratum, tuple) else (stratum,)
            counts.update(str(label) for label in labels if label is not None)
        for label, count in counts.items():
            found.setdefault(label, {})[split] = count
    return dict(sorted(found.items(), key=lambda item: -sum(item[1].values())))
