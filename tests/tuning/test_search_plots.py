"""The pictures of a search."""

from __future__ import annotations

from finetune.search_space.space import parse_values
from finetune.tuning.measured import RankedBy
from finetune.tuning.search_plots import plot_keys, plot_search
from finetune.tuning.study import TrialRecord

METRIC = RankedBy("accuracy", "max")


def test_each_key_has_a_panel_with_its_values_in_order() -> None:
    values = {"lr": "log(1e-5,1e-3)", "rank": [2, 4, 8], "blocks": "range(1,3)", "dora": [True, 0]}
    space = {key: parse_values(value) for key, value in values.items()}
    records = [
        TrialRecord(0, "complete", {"lr": 1e-4, "rank": 8, "blocks": 2, "dora": 0}, 0.5),
        TrialRecord(1, "pruned", {"lr": 1e-5, "rank": 2, "blocks": 1, "dora": True}, 0.4),
    ]
    figure = plot_keys(records, space, METRIC)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_xlabel() for axes in shown] == [*space]
    figure.draw_without_rendering()
    assert [label.get_text() for label in shown[1].get_xticklabels()] == ["2", "4", "8"]
    assert [label.get_text() for label in shown[3].get_xticklabels()] == ["true", "0"]


def test_trials_have_whole_numbers() -> None:
    records = [TrialRecord(number, "complete", {}, 0.1 * number) for number in range(3)]
    ticks = plot_search(records, METRIC).axes[0].get_xticks()
    assert all(tick == round(tick) for tick in ticks)
