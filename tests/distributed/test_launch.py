"""Settings of a process: memory that glibc keeps, and only when it is told to."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
import resource
import torch
from finetune.distributed import launch

launch.{asked}()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))
"""


def pages_asked_for(asked: str) -> int:
    """Pages that the system must give for a tensor of 16384 pages that was freed before."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["ACCELERATE_USE_CPU"] = "true"
    found = subprocess.run(
        [sys.executable, "-c", PAGES.format(asked=asked)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_keep_freed_memory_takes_memory_again_without_asking_the_system() -> None:
    # Where a process's heap begins is random, and now and then something stands in its way.
    assert any(pages_asked_for("keep_freed_memory") < 1000 for _ in range(3))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_this_process_leaves_the_allocator_of_a_notebook_alone() -> None:
    assert pages_asked_for("this_process") > 1000
