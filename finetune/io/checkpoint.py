"""Atomic checkpoints: written to a temporary folder, hashed, synced to disk, then renamed.

    checkpoints/step-000400/  model.safetensors  optimizer.safetensors  state.json  manifest.json
                              ema.safetensors, of a run that averages its weights

The manifest is written last and lists every file with its size and SHA-256. A folder whose files do
not match its manifest is not a checkpoint. No pickle is written or read.
"""

from __future__ import annotations

import contextlib
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

from finetune.config.text_files import check_regular, read_json_as
from finetune.distributed.fsdp import local_shard
from finetune.errors import CheckpointError
from finetune.io.files import atomic, file_facts, has_facts
from finetune.io.run_folder import step_name
from finetune.io.state_shapes import Manifest

MANIFEST = "manifest.json"
TENSORS = ("model", "optimizer")
_LIKE_PARAMETER = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
"""Entries of an optimizer's state that are tensors like the parameter."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Load the tensors of "model", "optimizer" or "ema"."""
        try:
            return load_file(self.folder / _file_name(name))
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.folder}: cannot read its {name}: {error}") from error


def save_checkpoint(
    root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write `root`/step-NNNNNN atomically; return its path.

    A valid checkpoint of this step is not rewritten: the state of a step never changes, and a run
    that is killed right after saving must not lose it. Raises CheckpointError if the disk fails.
    """
    final = root / step_name(step)
    with contextlib.suppress(CheckpointError):
        return read_checkpoint(final).folder
    try:
        with atomic(final) as partial:
            partial.mkdir(parents=True)
            for name, named in tensors.items():
                on_cpu = {key: value.detach().cpu().contiguous() for key, value in named.items()}
                save_file(on_cpu, partial / _file_name(name))
            text = json.dumps({"step": step, **state})
            (partial / "state.json").write_text(text, encoding="utf-8")
            files = {path.name: file_facts(path) for path in sorted(partial.iterdir())}
            manifest = json.dumps({"step": step, "files": files}, indent=1)
            (partial / MANIFEST).write_text(manifest, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{final}: cannot write the checkpoint ({error}); older checkpoints are intact. "
            "Free some space or set output.dir to another disk, and run the same command again"
        ) from error
    return final


def find_latest_checkpoint(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the valid checkpoint of the highest step, and the faults of invalid checkpoints."""
    valid: list[Checkpoint] = []
    faults = []
    for folder in sorted(root.glob("step-*")):
        try:
            valid.append(read_checkpoint(folder))
        except CheckpointError as error:
            faults.append(str(error))
    return max(valid, key=lambda checkpoint: checkpoint.step, default=None), faults


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify its files against its manifest.

    Raises CheckpointError for the first mismatch.
    """
    try:
        manifest = read_json_as(Manifest, folder / MANIFEST)
        for name, facts in manifest["files"].items():
            path = folder / name
            check_regular(path)
            if path.parent != folder or not has_facts(path, facts):
                raise CheckpointError(
                    f"{path}: does not match the manifest; skipping this damaged checkpoint"
                )
        missing = {"state.json", *map(_file_name, TENSORS)} - manifest["files"].keys()
        if missing:
            raise CheckpointError(f"{folder}: has no {min(missing)}; skipping this checkpoint")
        state = read_json_as(dict[str, Any], folder / "state.json")
        return Checkpoint(folder, manifest["step"], state)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: incomplete checkpoint ({type(error).__name__}: {error}); skipping it"
        ) from error


def remove_old_checkpoints(root: Path, keep: int, *, step: int, best: int | None) -> None:
    """Remove all checkpoints but `best` and the `keep` newest ones up to `step`, the last written.

    A checkpoint of a later step is damaged; otherwise the run would have resumed from it.
    """
    by_step = {int(path.name[5:]): path for path in root.glob("step-*") if path.name[5:].isdigit()}
    kept = {*sorted(other for other in by_step if other <= step)[-keep:], best}
    unfinished = root.glob(".step-*.partial")
    for folder in (*unfinished, *(path for other, path in by_step.items() if other not in kept)):
        shutil.rmtree(folder)


# ---- tensors of a run by name


def changed_tensors(network: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """Return the tensors that training changes: trained parameters (each once), saved buffers."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    named: dict[str, Tensor] = dict(network.named_parameters())
    state = network.state_dict()
    buffers = [key for key in state if key not in parameters and isinstance(state[key], Tensor)]
    changed = {name: tensor for name, tensor in named.items() if name in trained}
    return changed | {name: state[name] for name in buffers}


def load_changed_tensors(
    network: nn.Module, trained: Collection[str], tensors: Mapping[str, Tensor], place: Path
) -> None:
    """Copy the tensors of `changed_tensors` back into a network of the same architecture.

    `place` names their origin. Raises CheckpointError if names or shapes differ.
    """
    expected = changed_tensors(network, trained)
    differing = _layout(expected).items() ^ _layout(tensors).items()
    if differing:
        names = sorted({name for name, _ in differing})
        raise CheckpointError(
            f"{place}: {len(names)} tensors differ in name, shape or dtype from those that this "
            f"run trains, such as {names[0]!r}; use --fresh to start over"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(local_shard(tensor, expected[name]))


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of an optimizer: tensors by "parameter|key", and the rest as JSON.

    Its parameter groups must list the names of their parameters under "names".
    """
    state = {}
    for place, group in enumerate(optimizer.param_groups):
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                state[f"{name}|{key}"] = value
        if "step" in group:  # some optimizers count steps per group, not per parameter
            state[f"{place}|step"] = group["step"]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in state.items() if name not in tensors}


def load_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    rest: Mapping[str, Any],
    place: Path | str = "the checkpoint",
) -> None:
    """Restore the state that `optimizer_tensors` returned.

    `place` names its origin. Raises CheckpointError for a state that does not fit the parameters.
    """
    parameters = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for full_name, value in (*tensors.items(), *rest.items()):
        name, _, key = full_name.rpartition("|")
        if name.isdigit() and int(name) < len(optimizer.param_groups):
            optimizer.param_groups[int(name)][key] = value
            continue
        if name not in parameters:
            raise CheckpointError(
                f"{place}: contains {full_name!r}, but the optimizer has no such parameter; use "
                "--fresh to start over"
            )
        parameter = parameters[name]
        # Only fused kernels need the step count on the device of the parameters.
        if isinstance(value, Tensor) and (key != "step" or optimizer.defaults.get("fused")):
            value = local_shard(value.to(parameter.device), parameter)
        optimizer.state[parameter][key] = value
    _check_state(optimizer, parameters, place)


def _check_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], place: Path | str
) -> None:
    """Raise CheckpointError for a state that the optimizer would not write.

    Its kernels do not check what they read: some end the process.
    """
    # Others may keep 16 bits, squares per layer, or another state for each shape.
    is_of_torch = type(optimizer).__module__.startswith("torch.")
    keys = {key for state in optimizer.state.values() for key in state} if is_of_torch else set()
    like_parameter = _LIKE_PARAMETER if is_of_torch else _LIKE_PARAMETER - {"exp_avg_sq"}
    for name, parameter in parameters.items():
        state, faults = optimizer.state.get(parameter, {}), []
        for key in sorted(like_parameter & state.keys()):
            value = state[key]
            if getattr(value, "shape", None) != parameter.shape:
                faults.append(f"{key} has another shape")
            elif is_of_torch and value.dtype != parameter.dtype:
                faults.append(f"{key} has another dtype")
        faults += [f"{key} is missing" for key in sorted(keys - state.keys())]
        if state and faults:
            raise CheckpointError(
                f"{place}: the optimizer's state of {name!r} cannot be used ({faults[0]}); use "
                "--fresh to start over"
            )


def _file_name(name: str) -> str:
    return f"{name}.safetensors"
