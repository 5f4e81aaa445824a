"""The page of a report in a real browser: charts, a click on a cell, filters, users' text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.audit.charts import chooser, line_chart, records, write_png
from finetune.audit.report_page import write_report_page
from finetune.audit.sections import (
    Card,
    Cards,
    Chart,
    ColorKey,
    Link,
    Matrix,
    Note,
    ReportSection,
    Table,
)
from finetune.errors import ConfigError
from finetune.task_parts.views import Explanation, Picture
from tests.support.chromium import needs_chromium, visit

HOSTILE = (
    "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- 'Käse'"
)
NAMES = ["sport", HOSTILE]
KINDS = [["hidden"], [], ["other", "hidden"], ["other"]]

VISIT = """
const rows = () => [...$("list").tBodies[0].rows].map((row) => row.cells[0].innerText);
const press = (target) => target.click();
drawn.then(() => {
  const seen = {title: document.title, images: document.images.length, faults};
  seen.charts = [...document.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll("path").length > 3);
  seen.options = [...document.querySelectorAll(".vega-bind option")].map((option) => option.value);
  seen.all = rows();
  seen.shares = [...document.querySelectorAll(".matrix")[1].querySelectorAll("td button")].map((cell) => cell.innerText);
  seen.legend = document.querySelector(".legend").innerText;
  seen.texts = [...document.querySelectorAll(".card:last-child .text")].slice(-2).map((each) => each.innerText);
  press(document.querySelectorAll(".matrix button")[1]);
  seen.cell = rows();
  seen.focus = document.activeElement.innerText;
  seen.chosen = [...$("filters").querySelectorAll("select")].map((select) => select.value);
  seen.count = $("count").innerText;
  press($("clear"));
  seen.cleared = rows().length;
  const search = $("filters").querySelector("input");
  search.value = "GOAL"; search.oninput();
  seen.found = rows();
  const select = $("filters").querySelector("select");
  search.value = ""; search.oninput();
  select.value = "=sport"; select.onchange();
  seen.filtered = rows();
  press(document.querySelector("button.link"));
  seen.linked = rows();
  seen.content = $("list").tBodies[0].rows[0].querySelector(".text").innerText;
  press(document.querySelectorAll("button.link")[1]);
  seen.hidden = rows();
  seen.heads = [...$("list").tHead.rows[0].cells].map((cell) => cell.textContent);
  const point = document.querySelector("[data-chart=points] .mark-symbol path");
  point.dispatchEvent(new MouseEvent("click", {bubbles: true}));
  seen.pointed = rows();
  seen.words = [...document.querySelectorAll(".words span")].map((word) => [word.innerText, word.className]);
  seen.width = [document.documentElement.scrollWidth, innerWidth];
  seen.unnamed = [...document.querySelectorAll("button, select, input")].filter((each) =>
    !(each.innerText || each.ariaLabel || each.labels?.length || each.closest("label"))).length;
  leave(seen);
}).catch((error) => leave({faults: [String(error)]}));
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    data = records(step=[0, 1, 2], loss=[1.0, 0.5, 0.25], split=[HOSTILE] * 3)
    clicked = {"x": {"field": "step", "type": "quantitative"}}
    points = {
        "data": {"values": [{"step": 1, "row": 3}]},
        "mark": "circle",
        "encoding": {**clicked, "detail": {"field": "row"}},
    }
    chosen = {**line_chart(data, "step", "loss"), "params": [chooser("label", NAMES)]}
    words = Explanation(words=[("goal", 0.5), (HOSTILE, -0.25)], note=HOSTILE)
    picture = Picture(HOSTILE, np.zeros((8, 8, 3), np.uint8))
    blocks: list[Any] = [
        Note(HOSTILE),
        Chart("loss", HOSTILE, line_chart(data, "step", "loss", "split"), HOSTILE),
        Chart("chosen", "By label", chosen),
        Chart("points", "Points", points, links={"row": "row"}),
        Matrix("confusions", "", NAMES, [[2, 1], [0, 1]]),
        Matrix("pixels", "", NAMES, [[999_000, 1000], [0, 0]], unit="pixels"),
        ColorKey({HOSTILE: "#b84a62"}),
        Table(HOSTILE, [HOSTILE], [[Link("4", {"row": 4})], [HOSTILE]]),
        Table("", ["kind"], [[Link("2", {"kind": "hidden"})]]),
        Cards("worst", [Card(HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, [picture], words)]),
        Cards("texts", [Card(HOSTILE, {}, texts={HOSTILE: HOSTILE, "after": ""})]),
    ]
    outcomes = [("sport", HOSTILE), ("sport", "sport"), ("sport", "sport"), (HOSTILE, HOSTILE)]
    texts = ["shares", "the goal", "a match", HOSTILE]
    rows = {
        "columns": ["true", "predicted", "probability", "kind"],
        "unlisted": ["kind"],
        "rows": [
            {"row": n, "values": [*outcome, 0.5 + n / 10, KINDS[n - 1]], "text": text}
            for n, (outcome, text) in enumerate(zip(outcomes, texts, strict=True), start=1)
        ],
        "pictures": False,
    }
    section = ReportSection("metrics", HOSTILE, blocks, HOSTILE)
    return write_report_page(tmp_path, HOSTILE, {"data": HOSTILE}, [section], rows)


@needs_chromium
def test_page_draws_charts_and_shows_the_rows_of_a_cell(page: Path) -> None:
    seen = visit(page, VISIT, width=500)
    assert seen["faults"] == []
    assert seen["title"] == HOSTILE  # as text: nothing of it was run
    assert seen["images"] == 1
    assert seen["charts"] == [True, True, True]
    assert seen["options"] == NAMES
    assert seen["all"] == ["1", "2", "3", "4"]
    assert seen["cell"] == ["1"]
    assert seen["shares"] == [">99%", "<1%"]
    assert seen["legend"] == HOSTILE
    assert seen["texts"] == [HOSTILE, "(empty)"]
    assert seen["focus"] == "Rows"
    assert seen["chosen"] == ["=sport", f"={HOSTILE}", ""]
    assert seen["count"] == "1 of 4 rows"
    assert seen["cleared"] == 4
    assert seen["found"] == ["2"]
    assert seen["filtered"] == ["1", "2", "3"]
    assert seen["linked"] == ["4"]
    assert seen["content"] == HOSTILE
    assert seen["hidden"] == ["1", "3"]  # found by a column that is not listed
    assert seen["heads"] == ["row", "true", "predicted", "probability", "content"]
    assert seen["pointed"] == ["3"]
    assert seen["words"] == [["goal", "for"], [HOSTILE, "against"]]
    assert seen["unnamed"] == 0
    assert seen["width"][0] <= seen["width"][1]  # a phone shows it without moving it sideways


def test_page_holds_all_that_it_needs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert 'src="http' not in text
    assert 'href="http' not in text
    assert "sourceMappingURL" not in text
    assert HOSTILE not in text
    assert len(text) < 1_000_000


def test_a_limit_of_address_space_is_said_before_the_engine_of_figures_aborts(
    tmp_path: Path,
) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (60 * 2**30, hard))
    try:
        with pytest.raises(ConfigError, match="64 GiB of address space.*limited to 60 GiB"):
            write_png({"data": {"values": []}, "mark": "bar"}, tmp_path / "bar.png")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert not list(tmp_path.iterdir())
