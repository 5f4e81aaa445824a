"""Locate a fine-tuned model on disk or on a hub and restore its task, without loading weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.loading import section_faults
from finetune.config.retired import stored_section
from finetune.config.schema import READING_KEYS, TaskConfig
from finetune.errors import ModelError, nearest, raise_for_faults
from finetune.inference.stored_code import check_stored_task
from finetune.io.hub_retry import redact, retry_hub_errors
from finetune.io.integrity import check_files, read_json, restoring
from finetune.registry import find_task
from finetune.reporting.console import Console

if TYPE_CHECKING:
    from finetune.task import Task

# Formats that may contain pickled code. No model of this kit has them, so they are not downloaded.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.msgpack")


def load_task(
    folder: Path,
    keys: Mapping[str, Any] | None = None,
    *,
    embeds: bool = False,
    trust_code: bool = False,
) -> Task:
    """Restore the task of a final model with its learned state; the network is not loaded.

    `keys` override keys of the task's config. Raises ConfigError for keys that do not affect
    predictions; with `embeds`, every key may be overridden, such as the column to read. Code that
    the model names or brings runs only with `trust_code`.
    """
    from finetune.model import saved_model  # imports torch, which the functions below do without

    saved = read_task(folder)
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        raise ModelError(
            f"{folder}: no safetensors weights in this folder, and other formats are not loaded; "
            f"{restoring(folder)}"
        )
    check_files(folder, weights.union(saved.get("files", [])))
    check_stored_task(str(saved["name"]), folder / "task.json", trust_code=trust_code)
    task_class = find_task(saved["name"])
    config = stored_section(task_class.Config, saved["config"])
    allowed = type(config).model_fields if embeds else config.prediction_keys
    task = task_class(changed_config(config, keys or {}, allowed))
    task.restore(saved["state"], saved_model(folder, trust_remote_code=trust_code))
    return task


def changed_config(
    config: TaskConfig, keys: Mapping[str, Any], allowed: Collection[str]
) -> TaskConfig:
    """Return the config of a trained task with `keys` overridden.

    Raises ConfigError for keys that are not `allowed` and for invalid values.
    """
    faults = [
        f"{key}: this key does not affect predictions of {config.name}; "
        f"{nearest(key, {*allowed, *READING_KEYS})}"
        for key in keys
        if key not in allowed
    ]
    values = {**config.model_dump(), **keys}
    faults = faults or section_faults("task", type(config), values, "for predictions")
    raise_for_faults("this override of task keys", faults)
    changed = type(config).model_validate(values)
    raise_for_faults("this override of task keys", list(config.change_faults(changed)))
    return changed


def model_folder(
    reference: str | Path, revision: str | None = None, token: str | None = None
) -> Path:
    """Return the folder of a model: `final/` of a run, the folder itself, or a hub download."""
    path = Path(reference)
    if path.is_dir():
        if (path / "final" / "task.json").is_file():
            return path / "final"
        if (path / "run.json").is_file():
            raise ModelError(
                f"{path}: this run has no final model yet; run its training command again"
            )
        return _check_origin(path, str(path))
    if path.exists():
        raise ModelError(
            f"{reference}: this is a file; give a run folder, its final/, or a hub id OWNER/NAME"
        )
    if str(reference).startswith((".", "/", "~")) or str(reference).count("/") != 1:
        raise ModelError(
            f"{reference}: no such folder; give a run folder, its final/, or a hub id OWNER/NAME"
        )
    return _check_origin(_download(str(reference), revision, token), str(reference))


def _download(reference: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = retry_hub_errors(
            lambda: snapshot_download(
                reference, revision=revision, token=token, ignore_patterns=list(PICKLED)
            ),
            Console(stderr=True).print,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # A hub may echo the request with its token, so chained exceptions are not shown.
        cause = "" if isinstance(error, HfHubHTTPError) else error.__cause__ or ""
        message = redact(" ".join(f"{error} {cause}".split()), token)
        raise ModelError(
            f"{reference}: no such folder, and not available on the hub ({message.rstrip('.')}); "
            "give a run folder, its final/, or a hub id OWNER/NAME"
        ) from None
    return Path(folder)


def _check_origin(folder: Path, reference: str) -> Path:
    """Return the folder. Raises ModelError if this kit did not write it."""
    if (folder / "task.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{reference}: contains an adapter without its base network; load it with peft as "
            "shown on its card, or push the run with --what both"
        )
    raise ModelError(
        f"{reference}: not a model of this kit (no task.json); give a run folder or its final/"
    )


def read_task(folder: Path) -> dict[str, Any]:
    """Read task.json: the task's name, config and state. Raises ModelError if they are missing."""
    saved = read_json(folder / "task.json")
    if not isinstance(saved, dict) or not {"name", "config", "state"} <= saved.keys():
        raise ModelError(
            f"{folder / 'task.json'}: name, config or state is missing; "
            "the folder was not written by this kit"
        )
    return saved
