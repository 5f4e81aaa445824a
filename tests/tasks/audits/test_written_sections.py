"""Sections of a report on losses of rows and on generated texts, from numbers and texts alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune.audit.sections import Cards, Chart, Note, Table
from tasks.audits.loss_sections import MOST_POINTS, loss_section
from tasks.audits.written_sections import (
    Answer,
    Written,
    answer_section,
    repeated_share,
    sample_section,
)


def blocks_of(section: Any, kind: type) -> list[Any]:
    return [block for block in section.blocks if isinstance(block, kind)]


def written(text: str, is_ended: bool | None = True) -> Written:
    return Written(text, [ord(letter) for letter in text], is_ended)


def answers(after: list[Written], before: Written | None = None) -> list[Answer]:
    return [
        Answer(number, f"prompt {number}", written(f"reference {number}"), text, before)
        for number, text in enumerate(after, start=1)
    ]


def test_losses_name_the_rows_that_have_most_of_it() -> None:
    tokens = np.full(4000, 10)
    sums = np.where(np.arange(4000) % 10 == 3, 90.0, 10.0)
    section = loss_section(sums, tokens, range(1, 4001))
    assert section.finding == (
        "the 400 worst of 4000 rows have 50% of the loss, and 10% of the tokens"
    )
    assert "Mean loss per token 1.8000" in blocks_of(section, Note)[0].text
    bars, cloud = blocks_of(section, Chart)
    assert sum(each["rows"] for each in bars.spec["data"]["values"]) == 4000
    points = cloud.spec["data"]["values"]
    assert len(points) <= MOST_POINTS
    assert points[1] == {"tokens": 10, "loss": 9.0, "row": 4}
    assert cloud.links == {"row": "row"}
    assert loss_section(sums[:5], tokens[:5], range(5)).finding == ""
    assert (
        "perplexity" in blocks_of(loss_section(np.array([1e6]), np.array([1]), [1]), Note)[0].text
    )


def test_repeated_share_counts_ngrams_that_occurred_before() -> None:
    assert repeated_share([1, 2, 3, 4, 5, 6]) == 0
    assert repeated_share([1] * 13) == pytest.approx(0.9)
    assert repeated_share([1, 2]) == repeated_share([]) == 0


def test_answers_that_repeat_themselves_and_do_not_end_are_found() -> None:
    some = answers([written("ha" * 9, is_ended=False)] * 3 + [written("a good answer")])
    section = answer_section(some, 18, ["a note"], ends=True)
    assert section.finding.startswith(
        "3 of 4 do not end; repeated 4-grams: 65%, in the references 0%; "
    )
    assert section.finding.endswith("3 of 4 are equal: 'hahahahahahahahaha'")
    table = blocks_of(section, Table)[0]
    assert table.columns == ["", "after training", "reference"]
    measures = {name: [value.value for value in values] for name, *values in table.rows}
    assert measures["tokens"] == [16.75, 11.0]
    assert measures["do not end"] == [0.75, 0]
    assert measures["equal to another row's"] == [0.75, 0]
    assert [block.text for block in blocks_of(section, Note)] == ["a note"]
    assert blocks_of(section, Chart)[1].links == {"row": "row"}
    good = answers([written(f"answer {n}") for n in range(4)])
    assert answer_section(good, 18, [], ends=True).finding == ""


def test_running_text_has_no_end_to_reach() -> None:
    some = answers([written("abc", is_ended=False)] * 2, written("old", is_ended=None))
    section = answer_section(some, 3, [], ends=False)
    [table] = blocks_of(section, Table)
    assert "do not end" not in {line[0] for line in table.rows}
    assert "do not end" not in section.finding
    assert blocks_of(section, Chart) == []
    with_ends = answer_section(some, 3, [], ends=True)
    lines = {name: values for name, *values in blocks_of(with_ends, Table)[0].rows}
    assert lines["do not end"][0] == "unknown"  # of stored texts


def test_samples_show_the_end_of_a_prompt_and_all_texts() -> None:
    [answer] = answers([written("new", is_ended=False)], written("old"))
    section = sample_section([answer._replace(prompt="x" * 900 + "?")], ends=True)
    assert section.title == "Samples before and after training"
    [card] = blocks_of(section, Cards)[0].cards
    assert card.texts["prompt"].startswith("... x")
    assert card.texts["prompt"].endswith("x?")
    assert list(card.texts.items())[1:] == [
        ("before training", "old"), ("after training", "new"), ("reference", "reference 1")
    ]  # fmt: skip
    assert card.facts == {"tokens": "3, reference 11", "end": "not reached"}
    [piece] = blocks_of(sample_section([answer], ends=False), Cards)[0].cards
    assert "end" not in piece.facts  # running text has none to reach
    assert sample_section(answers([written("new")]), ends=True).title == "Samples"
