"""Integrity check of the files of a final model, without reading the weights.

The header of a safetensors file states its size, and truncated JSON does not parse, which is enough
to detect what an interrupted copy or a full disk leaves behind. Values that no network works with
are found by the library that computes with them, wherever it fails.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from finetune.config.text_files import check_regular, read_json_as
from finetune.errors import FinetuneError, ModelError
from finetune.io.system_errors import is_out_of_memory

_LONGEST = 300
"""Characters of another library's message."""


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Raise ModelError for the first file that is missing or truncated."""
    for path in (folder / name for name in sorted(names)):
        if not path.is_file():
            raise ModelError(f"{path}: is missing; {restoring(folder)}")
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            _check_tensors(path)


def read_json(path: Path, shape: Any = Any) -> Any:
    """Read a JSON file of a final model. Raises ModelError if it is damaged or of another shape."""
    try:
        return read_json_as(shape, path)
    except (OSError, ValueError) as error:
        raise damaged(path, error, path.parent) from error


def check_no_nan(path: Path) -> None:
    """Raise ModelError if a tensor in a safetensors file contains NaN; this reads the weights."""
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - no dict
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and tensor.isnan().any():
                raise ModelError(
                    f"{path}: the tensor {name!r} contains NaN; {restoring(path.parent)}"
                )


def _check_tensors(path: Path) -> None:
    try:
        check_regular(path)  # the library would wait for the writer of a pipe
        with safe_open(path, "np"):
            pass
    except (OSError, SafetensorError) as error:
        raise damaged(path, error, path.parent) from error


@contextlib.contextmanager
def network_faults(place: str, does: str, remedy: str) -> Iterator[None]:
    """Convert the errors of a network to one ModelError: "place: does (reason, file); remedy".

    A config.json with impossible values, or the weights of another network, fail anywhere in a
    library. Running out of memory is a fault of another kind.
    """
    try:
        yield
    except FinetuneError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST].rstrip(": .")
        line = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise ModelError(f"{place}: {does} ({reason}; {line}); {remedy}") from error


def damaged(path: Path, error: Exception, folder: Path) -> ModelError:
    """Return the error that names a damaged part of the final model in `folder`, and its remedy."""
    known = isinstance(error, OSError | ValueError | SafetensorError) and str(error)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    reason = " ".join(text.split())[:_LONGEST].rstrip(": .")
    return ModelError(f"{path}: is damaged ({reason}); {restoring(folder)}")


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
