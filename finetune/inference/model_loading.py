"""A fine-tuned model on disk or on a hub: its folder, its task, its keys; no network is loaded."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetune.config.loading import section_faults
from finetune.config.retired import stored_section
from finetune.config.schema import READING, TaskConfig
from finetune.errors import ModelError, nearest, refuse_all
from finetune.io.hub_retry import redact, with_patience
from finetune.io.integrity import check_files, read_json
from finetune.model import saved_model
from finetune.registry import find_task
from finetune.reporting.console import Console
from finetune.task import Task

# Files that may hold code, which no model of this kit has: they are not even fetched.
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.h5", "*.msgpack")


def load_task(
    folder: Path,
    keys: Mapping[str, Any] | None = None,
    *,
    embeds: bool = False,
    trust_remote_code: bool = False,
) -> Task:
    """The task of a final model with what it learned; the network is not loaded.

    Raises ConfigError for `keys` that predictions of the task do not change; to embed rows, any key
    of the task may be another one, such as the column that is read.
    """
    held = read_task(folder)
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        raise ModelError(f"{folder}: holds no weights as safetensors, and no others are read")
    check_files(folder, weights.union(held.get("files", [])))
    task_class = find_task(held["name"])
    config = stored_section(task_class.Config, held["config"])
    allowed = type(config).model_fields if embeds else config.prediction_keys
    task = task_class(changed_config(config, keys or {}, allowed))
    task.restore(held["state"], saved_model(folder, trust_remote_code=trust_remote_code))
    return task


def changed_config(
    config: TaskConfig, keys: Mapping[str, Any], allowed: Collection[str]
) -> TaskConfig:
    """The config of a trained task with other values for some of the keys that are `allowed`.

    Raises ConfigError.
    """
    faults = [
        f"{key}: predictions of {config.name} do not change this key; "
        f"{nearest(key, {*allowed, *READING})}"
        for key in keys
        if key not in allowed
    ]
    values = {**config.model_dump(), **keys}
    faults = faults or section_faults("task", type(config), values, "for predictions")
    refuse_all("predicting with other keys", faults)
    return type(config).model_validate(values)


def model_folder(
    reference: str | Path, revision: str | None = None, token: str | None = None
) -> Path:
    """The folder of a model: `final/` of a run, the folder itself, or a copy from the hub."""
    path = Path(reference)
    if path.is_dir():
        if (path / "final" / "task.json").is_file():
            return path / "final"
        if (path / "run.json").is_file():
            raise ModelError(
                f"{path}: this run has no final model yet; run its training command again"
            )
        return _checked(path, str(path))
    if path.exists():
        raise ModelError(f"{reference}: is a file; give a run, its final/, or a hub id OWNER/NAME")
    if str(reference).startswith((".", "/", "~")) or str(reference).count("/") != 1:
        raise ModelError(
            f"{reference}: there is no such folder; give a run, its final/, or a hub id OWNER/NAME"
        )
    return _checked(_from_hub(str(reference), revision, token), str(reference))


def _from_hub(reference: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = with_patience(
            lambda: snapshot_download(
                reference, revision=revision, token=token, ignore_patterns=list(PICKLED)
            ),
            Console(stderr=True).print,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # A hub may echo what it was sent, so the exceptions behind this one are not shown.
        behind = "" if isinstance(error, HfHubHTTPError) else error.__cause__ or ""
        said = redact(" ".join(f"{error} {behind}".split()), token)
        raise ModelError(
            f"{reference}: neither a folder here nor to be had from the hub: {said}"
        ) from None
    return Path(found)


def _checked(folder: Path, reference: str) -> Path:
    """The folder, if this kit wrote it."""
    if (folder / "task.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{reference}: is an adapter without its network; load it with peft, as its card "
            "shows, or push the run with --what both"
        )
    raise ModelError(
        f"{reference}: holds no model of this kit (no task.json); give a run folder or its final/"
    )


def read_task(folder: Path) -> dict[str, Any]:
    """What `write_task` wrote: the task's name, config and state. Raises ModelError."""
    held = read_json(folder / "task.json")
    if not isinstance(held, dict) or not {"name", "config", "state"} <= held.keys():
        raise ModelError(
            f"{folder / 'task.json'}: names no task, config and state; "
            "the folder holds no model of this kit"
        )
    return held
