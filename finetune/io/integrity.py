"""Whether the files of a final model are whole, as far as their heads tell.

A file of tensors says in its head how long it is, and JSON that was cut off does not parse: what an
interrupted copy or a full disk leaves behind is found without reading the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune.errors import ModelError


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError for the first of the files that is missing or cut off, with a remedy."""
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            raise ModelError(f"{path}: is missing; {_remedy(folder)}")
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            _check_tensors(path)


def read_json(path: Path) -> Any:
    """What a JSON file of a final model holds. Raises ModelError with a remedy."""
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
    said = str(error).strip().rstrip(".")
    return ModelError(f"{path}: is damaged ({said}); {_remedy(path.parent)}")


def _remedy(folder: Path) -> str:
    """How the files of a final model are had again."""
    run = folder.parent
    if (run / "run.json").is_file():
        return (
            f"to have {folder.name}/ written anew from the checkpoint, remove "
            f"{run / 'results.json'} and run the training command again"
        )
    if run.name == "snapshots":  # the cache of huggingface_hub
        return f"to fetch it anew, remove {run.parent} and load it again"
    return "copy the model here again from where it was whole"
