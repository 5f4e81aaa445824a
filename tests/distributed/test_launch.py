"""What a process settles for itself before it trains."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

AGAIN = """
import resource
import torch
from finetune.distributed.launch import this_process

this_process()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_that_was_freed_is_taken_again_without_asking_the_system() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["ACCELERATE_USE_CPU"] = "true"
    found = subprocess.run(
        [sys.executable, "-c", AGAIN], env=environment, capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 1000, "of 16384 pages of 4 KiB"
