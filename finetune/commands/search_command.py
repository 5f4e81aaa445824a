"""From the words of the command `search` to a plan, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.cluster.cluster_config import check_ray
from finetune.commands.arguments import config_and_overrides
from finetune.commands.preflight import check_run
from finetune.config.loading import SECTIONS, Layer, read_layers
from finetune.config.schema import Section
from finetune.config.shipped import find_config
from finetune.config.yaml import split_override
from finetune.errors import ConfigError, closest
from finetune.io.references import locate
from finetune.registry import INSTALLED, find_task_config, task_names
from finetune.search_space.search_config import LEAVES
from finetune.search_space.search_plan import SearchPlan, check_space, plan_search
from finetune.search_space.space import is_notation


def plan_words(words: Sequence[str]) -> SearchPlan:
    """Plan the search of a command line, whose name is a config or a dataset.

    Raises ConfigError with every fault that it has, DataError if no task fits the dataset.
    """
    name, overrides = config_and_overrides(words)
    if name is not None and _is_data(name):
        check_space(read_layers(None, overrides), INSTALLED)  # before any row is read
        chosen = _chosen_keys(name, overrides)
        layers = [Layer(name, chosen), *read_layers(None, overrides)]
    else:
        layers = read_layers(name, overrides)
    plan = plan_search(layers, INSTALLED)
    check_ray(plan.settings)
    for values in plan.probes():
        check_run(plan.load(values).config, fresh=False, extend=False)
    return plan


def _is_data(name: str) -> bool:
    """True for a reference to data rather than to a config. Raises ConfigError if it is neither."""
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return False
    try:
        find_config(name)
    except ConfigError:
        if locate(name) is None:
            raise
        return True
    return False


def _chosen_keys(reference: str, overrides: Sequence[str]) -> list[tuple[str, object]]:
    """Choose the task that fits a dataset and its keys, as the command `init` does."""
    from finetune.commands.init import choose_for

    about_rows = [word for word in overrides if not _is_of_search(*split_override(word))]
    choice = choose_for(reference, about_rows)
    print(f"{choice.task}, {choice.first_row}")
    return [*((f"task.{key}", value) for key, value in choice.keys.items()), ("data", reference)]


def _is_of_search(key: str, value: object) -> bool:
    """True for a key of the section `search`, also misspelled, and for one with values to try."""
    known = {*_leaves(SECTIONS.values()), *_leaves(map(find_task_config, task_names()))}
    meant = key if key in known else closest(key, {*known, *LEAVES})
    is_setting = meant in LEAVES or key.partition(".")[0] == "search"
    return is_setting or isinstance(value, list) or is_notation(value)


def _leaves(schemas: Iterable[type[Section]]) -> set[str]:
    return {key for schema in schemas for key in schema.model_fields}
