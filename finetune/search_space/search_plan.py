"""From the entries of a config to the plan of a search: what is fixed, what is tried, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from pydantic import ValidationError

from finetune.cluster.cluster_config import idle_keys
from finetune.config.loading import (
    ConfigRegistry,
    Layer,
    Loaded,
    merge_layers,
    section_faults,
)
from finetune.config.schema import DEFAULT_METHOD
from finetune.errors import ConfigError, raise_for_faults
from finetune.search_space.search_config import SearchConfig
from finetune.search_space.search_draft import SearchDraft
from finetune.search_space.space import Choice, Values

METHOD = "method.name"
DEFAULT_TRIALS = 16
_ORIGIN = "search space"
# Trials are ranked by one metric on the same rows, and have folders of their own.
_NEVER_SEARCHED = {"task.name", "train.best", "train.seed"}
_NEVER_SEARCHED |= {f"data.{key}" for key in ("source", "validation", "test", "split_seed")}
_NEVER_SEARCHED |= {f"data.{key}" for key in ("group", "limit")}


@dataclass(frozen=True)
class SearchPlan:
    """A search that is known to be valid.

    Attributes:
        fixed: entries that all trials have.
        space: {key as written: values to try}.
        names: {key as written: its full name, such as optim.lr}.
    """

    fixed: Sequence[Layer]
    space: Mapping[str, Values]
    names: Mapping[str, str]
    settings: SearchConfig
    registry: ConfigRegistry

    @property
    def methods(self) -> list[str]:
        """The methods that are tried; the fixed one if the space has none."""
        for key, values in self.space.items():
            if self.names[key] == METHOD and isinstance(values, Choice):
                return list(map(str, values.values))
        named = [value for name, value in self.fixed_entries() if name == METHOD]
        return [str(named[-1]) if named else DEFAULT_METHOD]

    def asked(self, method: str) -> dict[str, Values]:
        """Return the part of the space that a method has, without the method itself."""
        return {
            key: values
            for key, values in self.space.items()
            if self.names[key] != METHOD and self._is_asked(self.names[key], method)
        }

    @property
    def sampler(self) -> str:
        is_listed = all(isinstance(values, Choice) for values in self.space.values())
        return self.settings.sampler or ("grid" if is_listed else "tpe")

    @property
    def combinations(self) -> int | None:
        """Number of different trials; None if they are not countable."""
        sizes = [[each.size for each in self.asked(m).values()] for m in self.methods]
        if any(size is None for row in sizes for size in row):
            return None
        return sum(prod(size or 1 for size in row) for row in sizes)

    @property
    def trials(self) -> float:
        """Number of trials; infinite if only the time limits them."""
        if self.sampler == "grid" and self.combinations is not None:
            return min(self.combinations, self.settings.trials or self.combinations)
        default = DEFAULT_TRIALS if self.settings.time is None else float("inf")
        return self.settings.trials or default

    def load(self, values: Mapping[str, Any], **outputs: Any) -> Loaded:
        """Load the config of the trial with these values; `outputs` are keys of its own.

        Raises ConfigError.
        """
        named = (value for key, value in values.items() if self.names[key] == METHOD)
        method = next(named, self.methods[0])
        layers = [
            Layer(origin, [e for e in entries if self._is_asked(self.names[e[0]], str(method))])
            for origin, entries in self.fixed
        ]
        entries = [*values.items(), *outputs.items()]
        return merge_layers([*layers, Layer(_ORIGIN, entries)], self.registry)

    def probes(self) -> Iterator[dict[str, Any]]:
        """Yield the values of trials that are valid only if all are."""
        method_key = next((key for key, name in self.names.items() if name == METHOD), "method")
        for method in self.methods:
            asked = self.asked(method)
            chosen = {method_key: method} if method_key in self.space else {}
            count = max((len(each.probes) for each in asked.values()), default=1)
            for turn in range(count):
                yield chosen | {
                    key: values.probes[turn % len(values.probes)] for key, values in asked.items()
                }

    def fixed_entries(self) -> Iterator[tuple[str, Any]]:
        """Yield the full names and the values of the fixed entries."""
        for layer in self.fixed:
            for key, value in layer.entries:
                yield self.names[key], value

    def _is_asked(self, name: str, method: str) -> bool:
        """False for a key of other methods of this search, which `method` lacks."""
        section, _, leaf = name.partition(".")
        if section != "method" or name == METHOD or leaf in _fields(self.registry, method):
            return True
        return not any(leaf in _fields(self.registry, other) for other in self.methods)


def plan_search(layers: Sequence[Layer], registry: ConfigRegistry) -> SearchPlan:
    """Plan the search that the entries of a config describe.

    Raises one ConfigError that lists every error, of the space and of the configs of its trials.
    """
    draft = SearchDraft(layers, registry)
    settings, faults = _settings(draft)
    plan = SearchPlan(draft.fixed, draft.space, draft.names, settings, registry)
    faults += _setting_faults(plan)
    for values in plan.probes():
        try:
            plan.load(values)
        except ConfigError as error:
            _, *lines = str(error).split("\n  ")
            faults += lines or [str(error)]
    raise_for_faults("the search", list(dict.fromkeys(faults)))
    return plan


def check_space(layers: Sequence[Layer], registry: ConfigRegistry) -> None:
    """Raise ConfigError for faults of the notation and the settings, whatever the task is."""
    _, faults = _settings(SearchDraft(layers, registry))
    raise_for_faults("the search", faults)


def _settings(draft: SearchDraft) -> tuple[SearchConfig, list[str]]:
    """Return the settings of a search, or the default ones and their faults."""
    try:
        return SearchConfig.model_validate(draft.settings), list(draft.faults)
    except ValidationError:
        faults = section_faults("search", SearchConfig, draft.settings, draft.origin)
        return SearchConfig(), [*draft.faults, *faults]


def _setting_faults(plan: SearchPlan) -> Iterator[str]:
    """Yield the faults of settings that the space, or another setting, rules out."""
    numeric = [values for values in plan.space.values() if not isinstance(values, Choice)]
    endless = [key for key, values in plan.space.items() if values.size is None]
    if plan.sampler == "grid" and endless:
        yield (
            f"search.sampler: a grid needs a list or a range with a step for {endless[0]}, which "
            f"is {plan.space[endless[0]]}; or use another sampler"
        )
    if plan.sampler == "cmaes" and len(numeric) < 2:
        yield "search.sampler: cmaes needs two keys with log or range; use tpe"
    if plan.settings.pruner == "none" and plan.settings.grace is not None:
        yield "search.grace: has no effect with search.pruner=none; leave one of them out"
    yield from idle_keys(plan.settings, "search.", "cpus", "gpus", "storage")
    for name, _ in plan.fixed_entries():
        if name in ("output.dir", "output.hub"):
            instead = "set search.dir" if name == "output.dir" else "push the best trial afterwards"
            yield f"{name}: each trial has a folder in that of the search; {instead}"
    for key in plan.space:
        if plan.names[key] in _NEVER_SEARCHED or plan.names[key].startswith("output."):
            yield f"{key}: cannot be searched, since trials are ranked on equal terms; fix it"


def _fields(registry: ConfigRegistry, method: str) -> Iterable[str]:
    try:
        return registry.method(method).model_fields
    except ConfigError:  # reported with the configs of the trials
        return ()
