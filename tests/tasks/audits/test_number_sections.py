"""Residuals of a regression as the page shows them."""

from __future__ import annotations

import numpy as np

from finetune.audit.sections import Chart
from tasks.audits.number_sections import MOST_POINTS, residual_section


def test_residuals_of_predictions_that_lean_to_one_side() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(50.0, 10.0, 4000)
    predicted = true + 2.0 + rng.normal(0.0, 1.0, 4000)
    section = residual_section(true, predicted, range(1, 4001))
    assert section.finding.startswith("predictions are too high by 2.0")
    charts = {block.name: block for block in section.blocks if isinstance(block, Chart)}
    points = charts["predicted"].spec["data"]["values"]
    assert len(points) <= MOST_POINTS
    assert [point["row"] for point in points[:2]] == [1, 4]
    assert "1 of 3 rows" in charts["predicted"].note
    bins = charts["errors"].spec["data"]["values"]
    assert sum(each["rows"] for each in bins) == 4000
    assert residual_section(true, true[::-1], range(4000)).finding == ""
