"""Benchmarks that no machine of ours can run in full: each part runs, on a CPU and tiny networks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import read_runs
from finetune.io.files import drop_torn_line

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-full", "decoder-lora", "unet"])
def test_gpu_benchmark_trains_tiny_networks_on_a_cpu(name: str) -> None:
    words = [name, "--device", "cpu", "--size", "tiny", "--steps", "4", "--limit", "600"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(
        rf"^{name}: seconds a step ([\d.]+), over a bare loop ([\d.]+), ", done.stdout, re.MULTILINE
    )
    assert found, done.stdout
    assert 0 < float(found[1]) < 10
    assert 0 < float(found[2]) < 10


def test_results_go_on_after_an_interruption(tmp_path: Path) -> None:
    results = tmp_path / "benchmarks.jsonl"
    drop_torn_line(results)
    assert read_runs(results) == []
    results.write_text('{"name": "loop"}\n{"name": "em')
    drop_torn_line(results)
    assert read_runs(results) == [{"name": "loop"}]
    for line in ("garbage", "[1]"):
        results.write_text(f'{{"name": "loop"}}\n{line}\n')
        with pytest.raises(ValueError, match="line 2: .*; remove the line"):
            read_runs(results)
