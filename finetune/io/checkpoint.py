"""Checkpoints that are whole or not there: written beside, hashed, synced, then renamed.

    checkpoints/step-000400/  model.safetensors  optimizer.safetensors  state.json  manifest.json
                              ema.safetensors, of a run that averages its weights

The manifest is written last and names every file with its size and SHA-256; a folder without a
manifest that agrees is no checkpoint. No pickle is written or read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from finetune.distributed.fsdp import share_of
from finetune.errors import CheckpointError
from finetune.io.files import atomic

MANIFEST = "manifest.json"
TENSORS = ("model", "optimizer")


@dataclass(frozen=True)
class Checkpoint:
    """A good checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """One of its files of tensors: "model", "optimizer" or "ema"."""
        try:
            return load_file(self.folder / _file_name(name))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder}: its {name} cannot be read: {error}") from error


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `root`/step-NNNNNN, all of it or nothing.

    A good one of this step is left as it is: a step has one state, and a run that is stopped right
    after it was saved must not lose it for a moment. Raises CheckpointError if the disk does not
    take it.
    """
    final = root / step_name(step)
    with contextlib.suppress(CheckpointError):
        return read_checkpoint(final).folder
    try:
        with atomic(final) as beside:
            beside.mkdir(parents=True)
            for name, named in tensors.items():
                held = {key: value.detach().cpu().contiguous() for key, value in named.items()}
                save_file(held, beside / _file_name(name))
            text = json.dumps({"step": step, **state})
            (beside / "state.json").write_text(text, encoding="utf-8")
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                for path in sorted(beside.iterdir())
            }
            manifest = json.dumps({"step": step, "files": files}, indent=1)
            (beside / MANIFEST).write_text(manifest, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{final}: the checkpoint could not be written ({error}); the older ones are unharmed. "
            "Free some space or set output.dir to another disk, and run the same command again"
        ) from error
    return final


def step_name(step: int) -> str:
    """What the folder of a step's checkpoint is called."""
    return f"step-{step:06d}"


def newest_good(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The good checkpoint of the highest step, and what is wrong with the others."""
    found: list[Checkpoint] = []
    faults = []
    for folder in sorted(root.glob("step-*")):
        try:
            found.append(read_checkpoint(folder))
        except CheckpointError as error:
            faults.append(str(error))
    return max(found, key=lambda checkpoint: checkpoint.step, default=None), faults


def read_checkpoint(folder: Path) -> Checkpoint:
    """A checkpoint that agrees with its manifest.

    Raises CheckpointError with the first disagreement.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, facts in manifest["files"].items():
            path = folder / name
            is_whole = path.parent == folder and path.stat().st_size == facts["bytes"]
            if not is_whole or _sha256(path) != facts["sha256"]:
                raise CheckpointError(
                    f"{path}: differs from the manifest; this damaged checkpoint is passed over"
                )
        missing = {"state.json", *map(_file_name, TENSORS)} - manifest["files"].keys()
        if missing:
            raise CheckpointError(f"{folder}: holds no {min(missing)}; it is passed over")
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return Checkpoint(folder, int(manifest["step"]), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: is no whole checkpoint ({type(error).__name__}: {error}) and is passed over"
        ) from error


def remove_old(root: Path, keep: int, *, step: int, best: int | None) -> None:
    """Keep the `keep` newest checkpoints up to `step`, which was just written, and `best`.

    One of a later step is damaged, or the run would have gone on from it.
    """
    by_step = {int(path.name[5:]): path for path in root.glob("step-*") if path.name[5:].isdigit()}
    kept = {*sorted(place for place in by_step if place <= step)[-keep:], best}
    unfinished = root.glob(".step-*.partial")
    for folder in (*unfinished, *(path for place, path in by_step.items() if place not in kept)):
        shutil.rmtree(folder)


# ---- tensors of a run by name


def changed_tensors(network: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """What training changes: parameters that are trained, each once, and the saved buffers."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    named: dict[str, Tensor] = dict(network.named_parameters())
    held = network.state_dict()
    buffers = [key for key in held if key not in parameters and isinstance(held[key], Tensor)]
    changed = {name: tensor for name, tensor in named.items() if name in trained}
    return changed | {name: held[name] for name in buffers}


def load_changed(
    network: nn.Module, trained: Collection[str], tensors: Mapping[str, Tensor], place: Path
) -> None:
    """Copy tensors of `changed_tensors` back into a network of the same build.

    Raises CheckpointError for other names or shapes.
    """
    expected = changed_tensors(network, trained)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    odd = {name: tensor.shape for name, tensor in expected.items()}.items() ^ shapes.items()
    if odd:
        names = sorted({name for name, _ in odd})
        raise CheckpointError(
            f"{place}: holds other tensors than this run trains, {names[0]!r} among "
            f"{len(names)}; use --fresh"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(share_of(tensor, expected[name]))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer: tensors by "parameter|key", and the rest as JSON.

    Its groups name their parameters under "names".
    """
    state = {}
    for place, group in enumerate(optimizer.param_groups):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"{name}|{key}"] = value
        if "step" in group:  # some count the steps of a group, not of its parameters
            state[f"{place}|step"] = group["step"]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Take back what `optimizer_tensors` gave."""
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for full_name, value in (*tensors.items(), *rest.items()):
        name, _, key = full_name.rpartition("|")
        if name.isdigit():
            optimizer.param_groups[int(name)][key] = value
            continue
        parameter = parameters[name]
        # Only a fused kernel wants its count of steps beside the parameters.
        if isinstance(value, Tensor) and (key != "step" or optimizer.defaults.get("fused")):
            value = share_of(value.to(parameter.device), parameter)
        optimizer.state[parameter][key] = value


def _file_name(name: str) -> str:
    return f"{name}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
