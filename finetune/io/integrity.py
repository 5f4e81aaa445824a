"""Integrity check of the files of a final model, without reading the weights.

The header of a safetensors file states its size, and truncated JSON does not parse, which is enough
to detect what an interrupted copy or a full disk leaves behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune.errors import ModelError


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError for the first file that is missing or truncated."""
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            raise ModelError(f"{path}: is missing; {restoring(folder)}")
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            _check_tensors(path)


def read_json(path: Path) -> Any:
    """Read a JSON file of a final model. Raises ModelError if it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_tensors(path: Path) -> None:
    try:
        with safe_open(path, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = str(error).strip().rstrip(".")
    return ModelError(f"{path}: is damaged ({reason}); {restoring(path.parent)}")


def restoring(folder: Path) -> str:
    """Explain how to restore the files of a final model."""
    run = folder.parent
    if (run / "run.json").is_file():
        return (
            f"to write {folder.name}/ again from the checkpoint, remove {run / 'results.json'} "
            "and run the training command again"
        )
    if run.name == "snapshots":  # the cache of huggingface_hub
        return f"to download it again, remove {run.parent} and load it again"
    return "copy the model here again from an intact source"
