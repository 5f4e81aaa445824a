"""Experiment trackers (TensorBoard, W&B, MLflow, Trackio, ...), run through Accelerate.

They receive the config and the values of metrics.jsonl as split/metric, never environment variables
or tokens. A tracker that cannot start is an error before training; one that fails later is dropped
with a note, since metrics.jsonl has all values.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator

PROJECT = "finetune-kit"
# Packages to install for trackers whose package has another name.
PACKAGES = {"comet_ml": "comet-ml"}
ALTERNATIVES = {"tensorboard": ("tensorboardX",)}
"""Modules of other packages with which a tracker works, too."""
MODULES = {"tensorboard": "torch.utils.tensorboard"}
"""Modules to import for trackers whose module has another name."""
ANSWER_SECONDS = 5


def check_packages(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed, without importing any."""
    for name in names:
        if not any(map(_is_importable, (name, *ALTERNATIVES.get(name, ())))):
            raise _fault(name, f"is not installed; run: pip install {PACKAGES.get(name, name)}")


def _is_importable(module: str) -> bool:
    return module in sys.modules or find_spec(module) is not None


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is unknown, not installed, or has no access."""
    check_packages(names)
    for name in names:
        package = PACKAGES.get(name, name)
        try:
            module = importlib.import_module(MODULES.get(name, name))
        except Exception as error:  # third-party code may raise anything
            raise _fault(
                name, f"cannot be imported ({error}); run: pip install --upgrade {package}"
            ) from error
        if fault := ACCESS[name](module) if name in ACCESS else "":
            raise _fault(name, fault)


def _fault(name: str, text: str) -> ConfigError:
    return ConfigError(f"output.trackers: {name} {text}, or remove the tracker")


def _wandb_fault(wandb: Any) -> str:
    """Return why W&B would refuse a run, or ask for a key; "" if it would not."""
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return ""
    if "prompt" in signature(wandb.login).parameters:
        has_key = wandb.login(prompt=False, verify=False)
    else:  # older versions
        has_key = wandb.api.api_key is not None
    return "" if has_key else "is not logged in; run: wandb login, or set WANDB_MODE=offline"


def _mlflow_fault(mlflow: Any) -> str:
    """Return why MLflow's server cannot be reached, which it would retry for minutes."""
    address = str(mlflow.get_tracking_uri())
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or url.hostname is None:
        return ""
    place = (url.hostname, url.port or (443 if url.scheme == "https" else 80))
    try:
        socket.create_connection(place, timeout=ANSWER_SECONDS).close()
    except OSError as error:
        return (
            f"has no server at {place[0]}:{place[1]} ({error}); start it, correct "
            "MLFLOW_TRACKING_URI"
        )
    return ""


ACCESS: Mapping[str, Callable[[Any], str]] = {"wandb": _wandb_fault, "mlflow": _mlflow_fault}
"""{tracker: function of its module that returns why it would not start}."""


@contextmanager
def track_run(accelerator: Accelerator, folder: Path, values: Mapping[str, Any]) -> Iterator[None]:
    """Track the run in the block, with its config; a resumed run starts a new tracker run.

    Raises ConfigError for a tracker that does not start.
    """
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
    try:
        accelerator.init_trackers(
            PROJECT, plain, {name: keys for name, keys in options.items() if name in chosen}
        )
    except Exception as error:  # third-party code may raise anything
        names = " or ".join(sorted(chosen))
        raise _fault(names, f"did not start ({_one_line(error)}); correct its settings") from error
    try:
        yield
    finally:
        # Accelerator.end_training would also destroy the process group, which a notebook reuses.
        for tracker in accelerator.trackers:
            _try(tracker, tracker.finish)
        accelerator.trackers = []


def track(accelerator: Accelerator, split: str, step: int, values: Mapping[str, float]) -> str:
    """Log the values of one step to all trackers; return a note on those that failed, or ""."""
    named = {f"{split}/{name}": value for name, value in values.items()}
    notes = []
    for tracker in list(accelerator.trackers):
        if fault := _try(tracker, partial(tracker.log, named, step=step)):
            accelerator.trackers.remove(tracker)
            notes.append(f"{fault} at step {step}; it gets no more values, metrics.jsonl has all")
    return "\n".join(notes)


def _try(tracker: Any, call: Callable[[], Any]) -> str:
    """Call a tracker; return what went wrong, or ""."""
    try:
        call()
    except Exception as error:  # third-party code may raise anything
        return f"tracker {tracker.name} failed ({_one_line(error)})"
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
