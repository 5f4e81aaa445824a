"""Names of optimizers and architectures that are refused before torch is imported."""

from __future__ import annotations

import sys

import pytest
from timm import list_models
from timm.optim import list_optimizers

from finetune.errors import ConfigError, ModelError
from finetune.optim.optimizers import OPTIMIZERS
from finetune.optim.timm_names import check_architecture_name, check_optimizer_name


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


def test_architectures_of_timm_pass_and_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*list_models()[::100], "resnet50.a1_in1k"]
    check_architecture_name("timm/resnet5")  # timm is imported, where code may register others
    monkeypatch.delitem(sys.modules, "timm")
    for name in names:
        check_architecture_name(f"timm/{name}")
    for name in ("resnet5", "resnet5.a1_in1k"):
        with pytest.raises(ModelError, match="timm has no architecture 'resnet5'; did you mean"):
            check_architecture_name(f"timm/{name}")
