"""Rows that a command is pointed at: where they are, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.config.schema import DataConfig


@dataclass(frozen=True)
class Source:
    """Rows to predict or to measure on."""

    reference: str
    """A file, a folder, a hub data set or pkg://<package>/<path>; "-" is the standard input."""
    config: DataConfig = field(default_factory=DataConfig)
    """How it is read."""
    split: str | None = None
    """Which of several splits is meant."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the task that replace those it was trained with."""
