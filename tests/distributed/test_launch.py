"""Allocator settings of a process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from finetune.distributed import launch

launch.{function}()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))
"""


def page_faults_after(function: str) -> int:
    """Count the page faults for a tensor of 16384 pages that was allocated and freed before."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["ACCELERATE_USE_CPU"] = "true"
    completed = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(function=function)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(completed.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_keep_freed_memory_reuses_memory_without_page_faults() -> None:
    # The heap starts at a random address and cannot always grow, so allow for retries.
    assert any(page_faults_after("keep_freed_memory") < 1000 for _ in range(3))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_this_process_leaves_the_allocator_unchanged() -> None:
    assert page_faults_after("this_process") > 1000
