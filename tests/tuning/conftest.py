"""Plans of searches on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.config.loading import read_layers
from finetune.registry import INSTALLED
from finetune.search_space.search_plan import SearchPlan, plan_search

BASE = ("task=text-classification", "data=news.csv", "model=bert")


def planned(*words: str, base: tuple[str, ...] = BASE, config: Path | None = None) -> SearchPlan:
    """Plan the search of a command line."""
    return plan_search(read_layers(config, [*base, *words]), INSTALLED)


@pytest.fixture
def plan() -> Callable[..., SearchPlan]:
    return planned
