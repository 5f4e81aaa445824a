"""Loading of batches in worker processes."""

from __future__ import annotations

import pytest

from finetune.batching.data_loader import usable_workers


def test_workers_are_limited_by_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.batching.data_loader.core_count", lambda: 2)
    assert [usable_workers(wanted) for wanted in (0, 1, 8, 999)] == [0, 1, 8, 8]
