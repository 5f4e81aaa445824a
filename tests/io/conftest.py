"""Shared by the tests of files: a disk that is quickly full, and the folder of a run."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.io.run_folder import RunFolder
from tests.support.run_configs import DIGESTS, config


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB; skips the test if none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run folder with a config in which the precision was filled in."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(config(), DIGESTS, {})
    filled = config(train={"precision": "bf16"})
    folder.write_config(filled)
    return folder
