"""Rows that a command is pointed at: where they are, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.config.loading import section_faults
from finetune.config.schema import READING, DataConfig
from finetune.errors import nearest, refuse_all

SPLIT = "split"


@dataclass(frozen=True)
class Source:
    """Rows to predict or to evaluate on."""

    reference: Any
    """A file, a folder, a hub data set or pkg://<package>/<path>; "-" is the standard input. From
    Python it may also be the rows themselves.
    """
    config: DataConfig = field(default_factory=DataConfig)
    """How it is read."""
    split: str | None = None
    """Which of several splits is meant."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the task that replace those it was trained with."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.reference if isinstance(self.reference, str) else "data"


def make_source(
    reference: Any, keys: Mapping[str, Any], place: str, *, takes_options: bool = False
) -> Source:
    """The source that `reference` and keys such as "data.delimiter" or "split" describe.

    Where a task `takes_options`, keys that do not say how rows are read are left to it. `reference`
    None is a missing one. Raises ConfigError with every unknown key and every wrong value, which
    came from `place`.
    """
    keys = {key.removeprefix("data."): value for key, value in keys.items()}
    choices = (*READING, SPLIT)
    others = {key.removeprefix("task."): keys[key] for key in keys if key not in choices}
    options = others if takes_options else {}
    faults = [
        f"{key}: is no key of reading rows; {nearest(key, choices)} ({place})"
        for key in others
        if key not in options
    ]
    if reference is None:
        faults.append("DATA: none is named; give a file, a folder, a hub data set or pkg://...")
    values = {key: keys[key] for key in READING if key in keys}
    faults += section_faults("data", DataConfig, values, place)
    refuse_all(f"the {place}", faults)
    split = keys.get(SPLIT)
    return Source(reference, DataConfig(**values), None if split is None else str(split), options)
