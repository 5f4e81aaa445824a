"""Exporters of `export --to`, by format."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from finetune.data.source import Source
from finetune.errors import ConfigError, nearest

Exporter = Callable[[str, Source | None, Path | None, bool], float]
"""(run, rows to compare on or None, folder or None, whether code that the run names may run) -> max
relative difference of the outputs.
"""

EXPORTERS = {"onnx": "finetune.export.onnx:export_onnx"}
"""{format: "module:function" of its exporter}; the module is imported on use."""


def check_format(name: str) -> None:
    """Raise ConfigError if there is no exporter of this format."""
    if name not in EXPORTERS:
        raise ConfigError(f"--to: unknown format {name!r}; {nearest(name, EXPORTERS)}")


def find_exporter(name: str) -> Exporter:
    """Import the exporter of a format. Raises ConfigError if the format is unknown."""
    check_format(name)
    module, _, function = EXPORTERS[name].partition(":")
    exporter: Exporter = getattr(importlib.import_module(module), function)
    return exporter
