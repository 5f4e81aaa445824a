"""From the words of the command `search` to a plan, checked before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.cli.arguments import config_and_overrides
from finetune.cli.preflight import check_run
from finetune.config.loading import read_layers
from finetune.registry import INSTALLED
from finetune.tuning.search_plan import SearchPlan, plan_search


def plan_words(words: Sequence[str]) -> SearchPlan:
    """Plan the search of a command line. Raises ConfigError with every fault that it has."""
    config, overrides = config_and_overrides(words)
    plan = plan_search(read_layers(config, overrides), INSTALLED)
    for values in plan.probes():
        check_run(plan.load(values).config, fresh=False, extend=False)
    return plan
