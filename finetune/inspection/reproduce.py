"""Reproduction of a run from its card: the same rows, versions and keys, and then the same model?

On a CPU with the versions of the run, the weights must be equal bit for bit; elsewhere, its metrics
must be within their 95 % intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from finetune.checks.before_training import open_checked_splits
from finetune.config.loading import Layer, Loaded, merge_layers
from finetune.config.schema import RunConfig
from finetune.config.yaml import flatten
from finetune.distributed.launch import environment, make_accelerator, this_process
from finetune.distributed.precision import choose_precision
from finetune.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FinetuneError,
    raise_for_faults,
)
from finetune.export.reproduction import Reproduction, read_reproduction
from finetune.export.upload import ADAPTER, ADAPTER_CONFIG
from finetune.inference.model_loading import model_folder
from finetune.inference.stored_code import check_stored_code, check_stored_config
from finetune.io.manifest import CARD
from finetune.io.references import PACKAGE_SCHEME, locate
from finetune.io.run_folder import RunFolder
from finetune.registry import INSTALLED, make_task
from finetune.reporting.console import Console
from finetune.training.run import digest_splits, run

# Keys that a card has without the folders of the machine that wrote it; a run has them whole.
_PLACES = (
    *("data.source", "data.train", "data.validation", "data.test", "data.images"),
    *("data.drop", "data.relabel", "data.answers", "model.name", "model.weights"),
)
_ESTIMATE = 3  # a value and the ends of its interval


class NotReproduced(FinetuneError):  # noqa: N818 - a result, which the message explains
    """Run that gave another model when it was repeated."""

    exit_code = 1


@dataclass(frozen=True)
class Repetition:
    """A run that was repeated.

    Attributes:
        folder: of the new run.
        equal_weights: True if all weights are equal bit for bit.
        changed: {fact: (then, now)} of the versions and devices that differ.
        metrics: (split, metric, [value, low, high] or [value] then, value now).
    """

    folder: Path
    equal_weights: bool
    changed: Mapping[str, tuple[Any, Any]]
    metrics: list[tuple[str, str, list[float], float]]

    @property
    def must_be_equal(self) -> bool:
        """True if the weights should be equal: on a CPU, in an equal environment."""
        return not self.changed

    @property
    def outside(self) -> list[str]:
        """The metrics that are not within their intervals."""
        return [
            f"{name} of {split}"
            for split, name, then, now in self.judged
            if not _is_within(then, now)
        ]

    @property
    def judged(self) -> list[tuple[str, str, list[float], float]]:
        """The metrics that have intervals."""
        return [each for each in self.metrics if len(each[2]) == _ESTIMATE]


def reproduce_run(
    model: str,
    overrides: Mapping[str, Any],
    output: Path | None,
    console: Console,
    *,
    trust_code: bool = False,
) -> Repetition:
    """Train a model again from its card and compare; `overrides` say where its data lie here.

    Raises DataError if the rows are others, NotReproduced if the new model is another one.
    """
    folder = model_folder(model, adapter_suffices=True)
    facts = read_reproduction(_read_card(folder, model), model)
    named = overrides.get("output.dir", overrides.get("output"))
    target = output or (Path(str(named)) if named is not None else _default_folder(model))
    card = folder / CARD
    check_stored_config(facts.config, card, trust_code=trust_code, given=overrides)
    keys = {key: value for key, value in overrides.items() if key != "output"}
    stored = {**facts.config, **_places(model)}
    # The same network, which lies elsewhere: another name would drop its other keys.
    if (name := keys.get("model.name", keys.get("model"))) is not None:
        stored["model.name"] = name
    layers = [
        Layer("card", list(stored.items())),
        Layer("argument", list({**keys, "output.dir": str(target)}.items())),
    ]
    loaded = merge_layers(layers, INSTALLED)
    for name in loaded.config.task.metric_code:
        check_stored_code("task.metrics", name, card, trust_code=trust_code)
    if RunFolder(target).finished:  # one that was interrupted goes on
        raise ConfigError(f"{target}: holds a run already; name another folder with -o FOLDER")
    _check_places(loaded.config, facts.config, model)
    _check_rows(loaded, facts, model, console)
    changed = _changes(facts, loaded)
    console.facts(
        {
            "rows": "equal to those of the run",
            "versions": "\n".join(
                f"{name}: {now}, then {then}" for name, (then, now) in changed.items()
            )
            or "equal to those of the run",
        }
    )
    done = run(loaded, make_task(loaded.config.task), console=console)
    repetition = Repetition(
        done.path,
        _have_equal_weights(folder, done.final),
        changed,
        _compare(facts.metrics, done.read("results.json")["metrics"]),
    )
    if this_process().is_main_process:
        _show(repetition, console)
    return repetition


def _read_card(folder: Path, model: str) -> str:
    try:
        return (folder / CARD).read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{model}: its card {folder / CARD} cannot be read") from error


def _default_folder(model: str) -> Path:
    """Return the folder beside a run; for a model of a hub, one among the runs.

    A folder with the name of its owner would hide the model from the next command.
    """
    path = Path(model.rstrip("/"))
    beside = path if path.is_dir() else Path("runs", path.name)
    return beside.with_name(f"{beside.name}-reproduced")


def _places(model: str) -> dict[str, Any]:
    """Return the places of the data and the network of a run on this machine; {} for others."""
    folder = RunFolder(Path(model))
    if not folder.exists:
        return {}
    given = folder.read("run.json")["given"]
    return {key: given[key] for key in _PLACES if isinstance(given.get(key), str)}


def _check_places(config: RunConfig, card: Mapping[str, Any], model: str) -> None:
    """Raise ConfigError for files that a card names and that are not on this machine."""
    faults, values = [], flatten(config)
    for key in _PLACES:
        name = card.get(key)
        if not isinstance(name, str) or values.get(key) != name:
            continue
        try:
            locate(name)
        except DataError as error:
            is_package = name.startswith(PACKAGE_SCHEME)
            reason = str(error) if is_package else f"{name!r} is not on this machine"
            faults.append(f"{key}: {reason}; say where it is: {key}=PATH")
    raise_for_faults(f"{model}: what its card names", faults)


def _check_rows(loaded: Loaded, facts: Reproduction, model: str, console: Console) -> None:
    """Raise DataError if the rows are not those of the run."""
    task = make_task(loaded.config.task)
    with console.during("reading and checking the rows"):
        splits = open_checked_splits(loaded.config.data, task)
    digests = digest_splits(splits, task)
    others = sorted(name for name, _ in digests.items() ^ facts.data.items())
    if others:
        raise DataError(
            f"{model}: the rows of {', '.join(dict.fromkeys(others))} are not those of the run "
            f"({splits.sizes}); give its data: data=PATH, and the keys that say how they are read"
        )


def _changes(facts: Reproduction, loaded: Loaded) -> dict[str, tuple[Any, Any]]:
    """Return what differs from the run's environment; an accelerator always counts."""
    precision, _ = choose_precision(loaded.config.train.precision, this_process().device)
    now = environment(make_accelerator(precision))
    names = facts.environment.keys() | now.keys()
    changed = {
        name: (facts.environment.get(name), now.get(name))
        for name in sorted(names)
        if facts.environment.get(name) != now.get(name)
    }
    if now["device"] != "cpu":
        changed.setdefault("device", (facts.environment.get("device"), now["device"]))
    return changed


def _have_equal_weights(folder: Path, other: Path) -> bool:
    """True if the other model has all files of weights of this one, with equal tensors.

    A model may have been pushed without its adapter, or as the adapter alone.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        other = other / ADAPTER
    files = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    return bool(files) and all(
        (other / name).is_file() and _are_equal(load_file(folder / name), load_file(other / name))
        for name in files
    )


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _compare(
    then: Mapping[str, Mapping[str, list[float]]], now: Mapping[str, Mapping[str, float]]
) -> list[tuple[str, str, list[float], float]]:
    return [
        (split, name, values, now.get(split, {}).get(name, float("nan")))
        for split, metrics in then.items()
        for name, values in metrics.items()
    ]


def _is_within(then: list[float], now: float) -> bool:
    return then[1] <= now <= then[2]


def _show(repetition: Repetition, console: Console) -> None:
    """Print the comparison. Raises NotReproduced if the new model is another one."""
    rows = [
        [
            f"{split} {name}",
            f"{then[0]:.4f}",
            f"{then[1]:.4f} to {then[2]:.4f}",
            f"{now:.4f}",
            "within" if _is_within(then, now) else "outside",
        ]
        for split, name, then, now in repetition.judged
    ]
    if rows:
        console.table("reproduction", ["metric", "then", "95 % interval", "now", ""], rows)
    if repetition.equal_weights:
        console.print("reproduced: all weights are equal bit for bit")
        return
    if repetition.must_be_equal:
        raise NotReproduced(
            f"{repetition.folder}: not reproduced: the weights differ, although rows, keys, "
            "versions and the number of threads are equal; were they changed after training, as by "
            "`finetune calibrate`?"
        )
    if not repetition.judged:
        raise NotReproduced(
            f"{repetition.folder}: not reproduced: the weights differ, and the card has no "
            "intervals of metrics to compare by"
        )
    if repetition.outside:
        names = ", ".join(repetition.outside)
        raise NotReproduced(f"{repetition.folder}: not reproduced: outside the interval: {names}")
    changes = ", ".join(repetition.changed)
    console.print(
        f"reproduced: all metrics are within their intervals; the weights differ ({changes})"
    )
