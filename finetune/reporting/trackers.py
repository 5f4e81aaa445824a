"""Experiment trackers (TensorBoard, W&B, MLflow, Trackio, ...), run through Accelerate.

They receive the config and the values of metrics.jsonl as split/metric, never environment variables
or tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from finetune.errors import ConfigError, nearest

PROJECT = "finetune-kit"
# Packages to install for trackers whose package has another name.
PACKAGES = {"comet_ml": "comet-ml"}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that Accelerate does not support or that is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ConfigError(
                f"output.trackers: unknown tracker {name!r}; {nearest(name, LOGGER_TYPE_TO_CLASS)}"
            )
        if name not in installed:
            raise ConfigError(
                f"output.trackers: {name} is not installed; run: pip install "
                f"{PACKAGES.get(name, name)}, or remove the tracker"
            )


@contextmanager
def track_run(accelerator: Accelerator, folder: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Track the run in the block, with its config; a resumed run starts a new tracker run."""
    options = {
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
        PROJECT, plain, {name: keys for name, keys in options.items() if name in chosen}
    )
    try:
        yield
    finally:
        # Accelerator.end_training would also destroy the process group, which a notebook reuses.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def track(accelerator: Accelerator, split: str, step: int, values: Mapping[str, float]) -> None:
    """Log the values of one step to all trackers."""
    if accelerator.trackers:
        accelerator.log({f"{split}/{name}": value for name, value in values.items()}, step=step)
