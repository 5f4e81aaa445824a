"""Networks that the tests of methods share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["bert", "gpt2"])
def folder(request: pytest.FixtureRequest, bert_folder: Path, gpt2_folder: Path) -> Path:
    return {"bert": bert_folder, "gpt2": gpt2_folder}[request.param]
