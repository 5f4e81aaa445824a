"""Facts about a run as sentences, for the header on the console and for the model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.errors import format_count, listed
from finetune.task_parts.samples import Length, Lengths

NOT_APPLICABLE = "no effect: this run trains nothing that the key applies to"
"""The reason for a default that changes nothing."""


_MOST_NAMED = 20


@dataclass(frozen=True)
class AddedRows:
    """Rows that a run adds to those of train: nobody has labeled them.

    Attributes:
        kind: "pseudo-labeled" or "synthetic".
        key: the setting that asks for them, such as "train.semi=gan".
        counts: {label: number of rows}.
    """

    kind: str
    key: str
    counts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Number of rows of all labels."""
        return sum(self.counts.values())

    def __str__(self) -> str:
        named = listed((f"{label} {count}" for label, count in self.counts.items()), _MOST_NAMED)
        return f"{format_count(self.total, f'{self.kind} row')} ({self.key}): {named}"


@dataclass(frozen=True)
class RunFacts:
    """Sentences that describe a run before its first step; "" or () for facts that do not apply.

    Attributes:
        choices: choices made while the task, the network and the method were set up.
        defaults: "key=value: reason" for each key that the config left open.
    """

    labels: str
    length: str
    network: str
    parameters: str
    device: str
    steps: str
    batch: str
    choices: tuple[str, ...]
    defaults: tuple[str, ...]

    def lines(self, *, with_defaults: bool = True) -> dict[str, str]:
        """Return {name of a fact: its lines} in display order, without empty facts."""
        facts = {
            "labels": self.labels,
            "length": self.length,
            "network": self.network,
            "parameters": self.parameters,
            "device": self.device,
            "steps": self.steps,
            "batch": self.batch,
            "choices": "\n".join(self.choices),
            "defaults": "\n".join(self.defaults) if with_defaults else "",
        }
        return {name: text for name, text in facts.items() if text}


def cut_note(lengths: Sequence[Length], unit: str) -> str:
    """Summarize how many rows are truncated and the share of all units lost; "" if none are.

    `unit` is the unit of the lengths, in the plural.
    """
    array = Lengths.of(lengths)
    is_cut = array.cut > 0
    if not is_cut.any():
        return ""
    read = array.used - array.repeated
    longest, lost = int(read[is_cut].max()), int(array.cut.sum(dtype=np.int64))
    whole = int(read.sum(dtype=np.int64)) + lost
    share = f"{lost / whole:.0%}" if lost / whole >= 0.005 else "under 1%"
    rows = f"{is_cut.sum()} of {len(array)} rows are truncated to {longest} {unit}"
    if not array.is_estimate.any():
        return f"{rows}, which loses {share} of all {unit}"
    huge = format_count(int(array.is_estimate.sum()), "huge row")
    return f"{rows}, which loses about {share} of all {unit}: those of {huge} are estimated"
