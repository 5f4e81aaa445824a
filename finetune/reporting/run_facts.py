"""Facts about a run, in sentences: the header on the screen, and part of the model card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.task_parts import Length


@dataclass(frozen=True)
class RunFacts:
    """Sentences about a run before its first step; "" or () where there is nothing to say.

    Attributes:
        choices: what was settled while the task, the network and the method were set up.
        defaults: "key=value: reason" for each key that was left open.
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
        """{name of a fact: its lines} in the order of reading, without those that are empty."""
        found = {
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
        return {name: text for name, text in found.items() if text}


def cut_note(lengths: Sequence[Length], unit: str) -> str:
    """How many rows are cut, and how much of all of them that loses; "" if none is.

    `unit` is what lengths count, in the plural.
    """
    cut = [length for length in lengths if length.cut]
    if not cut:
        return ""
    longest = max(length.used - length.repeated for length in cut)
    lost = sum(length.cut for length in cut)
    whole = sum(length.used - length.repeated + length.cut for length in lengths)
    share = f"{lost / whole:.0%}" if lost / whole >= 0.005 else "under 1%"
    rows = f"{len(cut)} of {len(lengths)} rows are cut to {longest} {unit}"
    return f"{rows}, which loses {share} of all {unit}"
