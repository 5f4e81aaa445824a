"""The network that embeds rows, and the task that reads them for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from finetune.config.loading import section_faults
from finetune.config.schema import ModelConfig
from finetune.data.opening import FIRST_VALUES
from finetune.errors import (
    ConfigError,
    DataError,
    FinetuneError,
    ModelError,
    nearest,
    raise_for_faults,
)
from finetune.inference.model_loading import (
    load_final_network,
    load_task,
    model_folder,
    read_task,
)
from finetune.inference.predictor import check_columns
from finetune.listing.image_paths import is_image_path
from finetune.model import TransferModel, check_finite
from finetune.registry import find_task, find_task_config, task_names
from finetune.task import Task

VALUE = "value"
"""Column of bare values, such as texts, whose column in the data of a run is unknown."""


def find_network(
    reference: str,
    table: Dataset,
    keys: Mapping[str, Any],
    notes: list[str],
    *,
    trust_code: bool,
) -> tuple[Task, TransferModel, Dataset]:
    """Load a run's task and network, or a pretrained network and the task that fits the columns.

    Also returns the table, in which a column of bare values has the name that the task reads.
    """
    folder = model_folder(reference) if is_fine_tuned(reference) else None
    if folder is not None and not is_backbone(folder):
        task_keys = {key: keys[key] for key in keys if key != "name"}
        task = load_task(folder, task_keys, embeds=True, trust_code=trust_code)
        network = load_final_network(task, folder, trust_code=trust_code)
        if table.column_names == [VALUE] and len(task.rows.inputs) == 1:
            table = table.rename_column(VALUE, task.rows.inputs[0])
    else:
        if table.column_names == [VALUE] and VALUE not in keys.values():
            table = table.rename_column(VALUE, _usual_column(table[0][VALUE]))
        task = _find_task(table[:FIRST_VALUES], keys, notes)
        assert task.embedder is not None, "_find_task returns only tasks that embed"
        network = task.embedder.build(ModelConfig(name=str(folder or reference)))
        check_finite(network, reference, "copy it here again from an intact source")
    check_columns("the rows", table.column_names, task)
    if not network.cacheable:
        raise ModelError(
            f"{reference}: the head of this network does not read a single vector per row; train "
            "with a pooled head (task.head=pooled), or embed with the pretrained network"
        )
    return task, network, table


def is_fine_tuned(reference: str) -> bool:
    """True if this kit fine-tuned the model; for a hub id, only task.json is downloaded."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    path = Path(reference)
    if path.is_dir():
        names = ("task.json", "run.json", "final/task.json")
        return any((path / name).is_file() for name in names)
    if "://" in reference or reference.count("/") != 1:
        return False
    try:
        hf_hub_download(reference, "task.json")
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return False
    return True


def is_backbone(folder: Path) -> bool:
    """True for the final model of an installed task that adapts backbones."""
    name = read_task(folder)["name"]
    return name in task_names() and find_task_config(name).adapts_backbone


def _usual_column(value: Any) -> str:
    """Return the usual name of a column with values such as this one."""
    is_text = isinstance(value, str) and not is_image_path(value)
    return "text" if is_text else "image"


def _find_task(columns: Any, keys: Mapping[str, Any], notes: list[str]) -> Task:
    """Return the one task that can read these columns and embed rows."""
    candidates: list[tuple[Task, list[str]]] = []
    faults: list[str] = []
    names = [str(keys["name"])] if "name" in keys else _embedding_tasks(keys)
    for name, task_class in zip(names, map(find_task, names), strict=True):
        values = {"name": name, **keys}
        try:
            config_faults = section_faults("task", task_class.Config, values, "command line")
            raise_for_faults("task", config_faults)
            task = task_class(task_class.Config(**values))
            if task.embedder is None:
                raise ModelError("this task does not embed rows")
            resolved = task.rows.resolve(columns, with_targets=False)
            task.settle(resolved.keys)
            candidates.append((task, resolved.notes))
        except FinetuneError as error:
            faults.append(f"{name}: {error}")
    if not candidates:
        raise DataError("\n".join(["embed: no task can read these columns:", *faults]))
    if len(candidates) > 1:
        task_list = " or ".join(task.name for task, _ in candidates)
        raise DataError(f"embed: {task_list} could read these columns; choose with task=NAME")
    task, task_notes = candidates[0]
    notes += task_notes
    return task


def _embedding_tasks(keys: Collection[str]) -> list[str]:
    """List the tasks that have all of these keys. Raises ConfigError if there are none."""
    configs = {name: find_task_config(name) for name in sorted(task_names())}
    fields = {
        n: each.model_fields.keys() for n, each in configs.items() if not each.adapts_backbone
    }
    names = [name for name, known in fields.items() if known >= {*keys}]
    if not names:
        known = set[str]().union(*fields.values())
        unknown = {key: nearest(key, known) for key in keys if key not in known}
        raise_for_faults(
            "embed",
            [f"task.{key}: no task has this key; {hint}" for key, hint in unknown.items()],
        )
        raise ConfigError(
            f"embed: no task has all of the keys {', '.join(keys)}; choose a task with task=NAME"
        )
    return names
