"""Names of optimizers that are refused before torch is imported."""

from __future__ import annotations

import pytest
from timm.optim import list_optimizers

from finetune.errors import ConfigError
from finetune.optim.optimizer_names import check_optimizer_name
from finetune.optim.optimizers import OPTIMIZERS


def test_names_of_timm_and_of_the_kit_pass() -> None:
    for name in (*list_optimizers(), *OPTIMIZERS):
        check_optimizer_name(name)


@pytest.mark.parametrize("name", ["adamm", "AdamW", "a" * 300, "("])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^optim.name: unknown optimizer"):
        check_optimizer_name(name)


def test_the_near_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        check_optimizer_name("adamww")
