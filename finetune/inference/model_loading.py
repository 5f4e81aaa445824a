"""Locate a fine-tuned model on disk or on a hub, restore its task, and load its network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config.loading import section_faults
from finetune.config.retired import stored_section
from finetune.config.schema import READING_KEYS, TaskConfig
from finetune.errors import ModelError, nearest, raise_for_faults
from finetune.inference.stored_code import check_stored_task
from finetune.io.hub_retry import redact, retry_hub_errors
from finetune.io.integrity import check_files, network_faults, read_json, restoring
from finetune.io.manifest import note_changes
from finetune.io.references import check_run_exists, list_runs, suggest_run
from finetune.io.run_folder import RunFolder
from finetune.io.state_shapes import SavedTask
from finetune.registry import find_task, find_task_config
from finetune.reporting.console import Console

if TYPE_CHECKING:
    from finetune.model import TransferModel
    from finetune.task import Task

# Formats that may contain pickled code. No model of this kit has them, so they are not downloaded.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.msgpack")


def load_task(
    folder: Path,
    keys: Mapping[str, Any] | None = None,
    *,
    embeds: bool = False,
    trust_code: bool = False,
    others: Collection[str] = READING_KEYS,
) -> Task:
    """Restore the task of a final model with its learned state; the network is not loaded.

    `keys` override keys of the task's config. Raises ConfigError for keys that do not affect
    predictions; with `embeds`, every key may be overridden, such as the column to read. `others`
    are the other keys of the caller, which a misspelled one may stand for. Code that the model
    names or brings runs only with `trust_code`.
    """
    from finetune.model import saved_model  # imports torch, which the functions below do without

    saved, keys = read_task(folder), keys or {}
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        raise ModelError(
            f"{folder}: no safetensors weights in this folder, and other formats are not loaded; "
            f"{restoring(folder)}"
        )
    check_files(folder, weights.union(saved.get("files", [])))
    if note := note_changes(folder):
        Console(stderr=True).print(f"note: {note}")
    check_stored_task(saved["name"], folder / "task.json", trust_code=trust_code)
    config = trained_config(saved, keys, embeds=embeds, others=others)
    task = find_task(saved["name"])(config)
    with network_faults(str(folder), "is damaged", restoring(folder)):
        task.restore(saved["state"], saved_model(folder, trust_remote_code=trust_code))
    return task


def load_final_network(task: Task, folder: Path, *, trust_code: bool = False) -> TransferModel:
    """Load the network of a final model.

    Raises ModelError if its files are damaged, or its weights are not finite.
    """
    from finetune.model import check_finite, saved_model  # imports torch

    with (
        Console(stderr=True).during("loading the model"),
        network_faults(str(folder), "is damaged", restoring(folder)),
    ):
        network = task.load_model(saved_model(folder, trust_remote_code=trust_code))
    check_finite(network, str(folder), restoring(folder))
    return network


def computing(place: str) -> AbstractContextManager[None]:
    """Return a context in which a network computes: its errors name the model at `place`."""
    remedy = "correct the values in its config.json, or give another model"
    return network_faults(place, "cannot compute its outputs", remedy)


def trained_config(
    saved: Mapping[str, Any],
    keys: Mapping[str, Any],
    *,
    embeds: bool = False,
    others: Collection[str] = READING_KEYS,
) -> TaskConfig:
    """Return the config in task.json with `keys` overridden; see `load_task`."""
    try:
        config = stored_section(find_task_config(saved["name"]), saved["config"])
    except ValueError as error:
        raise ModelError(
            f"task.json: config.{error}; the file is damaged, or of another version of the kit"
        ) from error
    allowed = type(config).model_fields if embeds else config.prediction_keys
    return changed_config(config, keys, allowed, others)


def changed_config(
    config: TaskConfig,
    keys: Mapping[str, Any],
    allowed: Collection[str],
    others: Collection[str] = READING_KEYS,
) -> TaskConfig:
    """Return the config of a trained task with `keys` overridden.

    Raises ConfigError for keys that are not `allowed` and for invalid values; see `load_task`.
    """
    fields, choices = type(config).model_fields, {*allowed, *others}
    faults = [
        f"{key}: {'does not affect predictions' if key in fields else 'unknown key'} of "
        f"{config.name}; {nearest(key, choices)}"
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
    reference: str | Path,
    revision: str | None = None,
    token: str | None = None,
    *,
    adapter_suffices: bool = False,
) -> Path:
    """Return the folder of a model: `final/` of a run, the folder itself, or a hub download.

    With `adapter_suffices`, a download may be an adapter without its base network.
    """
    if (folder := local_model(reference)) is not None:
        return folder
    folder = _download(str(reference), revision, token)
    if adapter_suffices and (folder / "adapter_config.json").is_file():
        return folder
    return _check_origin(folder, str(reference))


def local_model(reference: str | Path) -> Path | None:
    """Return the folder of a model on this machine, None for a hub id. Raises ModelError."""
    path = Path(reference)
    if path.is_dir():
        if (path / "final" / "task.json").is_file():
            return path / "final"
        if (path / "run.json").is_file():
            raise ModelError(RunFolder(path).describe_unfinished())
        return _check_origin(path, str(path))
    if path.exists():
        raise ModelError(
            f"{reference}: this is a file; give a run folder, its final/, or a hub id OWNER/NAME"
        )
    check_run_exists(reference)
    if str(reference).startswith((".", "/", "~")) or str(reference).count("/") != 1:
        raise ModelError(f"{reference}: no such folder; {suggest_run(reference)}")
    return None


def _download(reference: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = retry_hub_errors(
            lambda: snapshot_download(
                reference, revision=revision, token=token, ignore_patterns=list(PICKLED)
            ),
            Console(stderr=True).print,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        hint = suggest_run(reference)
        if hint.startswith("did you mean"):  # and what the hub says is of no interest
            raise ModelError(
                f"{reference}: no such folder, and not available on the hub; {hint}"
            ) from None
        # A hub may echo the request with its token, so chained exceptions are not shown.
        cause = "" if isinstance(error, HfHubHTTPError) else error.__cause__ or ""
        message = redact(" ".join(f"{error} {cause}".split()), token)
        if isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE:
            message = "HF_HUB_OFFLINE is set, and it was not downloaded before"
        raise ModelError(
            f"{reference}: no such folder, and not available on the hub ({message.rstrip('.')}); "
            f"{hint}"
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
    if runs := list_runs(folder):
        raise ModelError(f"{reference}: a folder of runs; choose one of them: {runs}")
    raise ModelError(
        f"{reference}: not a model of this kit (no task.json); give a run folder or its final/"
    )


def read_task(folder: Path) -> dict[str, Any]:
    """Read task.json: the task's name, config and state. Raises ModelError if it is damaged."""
    saved: dict[str, Any] = read_json(folder / "task.json", SavedTask)
    return saved
