"""The formats that `export --to` writes, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

from finetune.data.source import Source
from finetune.errors import ConfigError, nearest

Exporter = Callable[[str, Source | None, Path | None], float]
"""(run, rows to compare on or None, folder or None) -> the largest difference of the outputs."""

EXPORTERS = {"onnx": "finetune.export.onnx:export_onnx"}
"""Where the exporter of each format is; it is imported when used."""


def find_exporter(name: str) -> Exporter:
    """The exporter of a format. Raises ConfigError if there is none."""
    if name not in EXPORTERS:
        raise ConfigError(f"--to: unknown format {name!r}; {nearest(name, EXPORTERS)}")
    module, _, function = EXPORTERS[name].partition(":")
    found: Exporter = getattr(importlib.import_module(module), function)
    return found
