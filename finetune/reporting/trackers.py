"""Trackers of experiments (TensorBoard, W&B, MLflow, Trackio, ...), as Accelerate runs them.

They are told what metrics.jsonl holds, as split/metric, and the config; never an environment
variable or a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from finetune.errors import ConfigError, nearest

PROJECT = "finetune-kit"
# What a name needs installed, where it is not a package of the same name.
PACKAGES = {"comet_ml": "comet-ml"}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that Accelerate does not know, or that is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"output.trackers: {name!r} is no tracker; {nearest(name, LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in installed:
            raise ConfigError(
                f"output.trackers: {name} is not installed; run: pip install "
                f"{PACKAGES.get(name, name)}, or leave it out"
            )


@contextmanager
def tracked(accelerator: Accelerator, folder: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """A record of this run with its config; a run that goes on begins a new one."""
    named = {
        "wandb": {"name": folder.name, "dir": str(folder)},
        "mlflow": {"run_name": folder.name},
        "trackio": {"name": folder.name},
    }
    chosen = {str(name) for name in accelerator.log_with}
    plain = {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in values.items()
    }
    accelerator.init_trackers(
        PROJECT, plain, {name: facts for name, facts in named.items() if name in chosen}
    )
    try:
        yield
    finally:
        # Accelerator.end_training would end the process group too, and a notebook trains again.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def track(accelerator: Accelerator, split: str, step: int, values: Mapping[str, float]) -> None:
    """Tell all trackers of the values of one step."""
    if accelerator.trackers:
        accelerator.log({f"{split}/{name}": value for name, value in values.items()}, step=step)
