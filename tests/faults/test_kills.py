"""Commands killed at random moments; `random_kills` is the script for hundreds of kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.random_kills import kill_randomly


@pytest.mark.slow
def test_runs_killed_at_random_moments_end_with_equal_results(tmp_path: Path) -> None:
    assert kill_randomly(tmp_path, kills=20).runs > 0


@pytest.mark.slow
def test_runs_of_two_processes_killed_at_random_end_with_equal_results(tmp_path: Path) -> None:
    assert kill_randomly(tmp_path, kills=3, processes=2).runs > 0
