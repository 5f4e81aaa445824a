"""Shared by the tests of files: the folder of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.io.run_folder import RunFolder
from tests.support.run_configs import DIGESTS, config


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with a config in which the precision was filled in."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    filled = config(train={"precision": "bf16"})
    folder.write_config(filled)
    return folder
