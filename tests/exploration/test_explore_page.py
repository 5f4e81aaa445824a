"""The page of an exploration in a real browser: hovering, zooming, coloring, searching, escaping."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.exploration.explore_page import MapColor, write_page
from tests.support.chromium import needs_chromium, visit

HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)> <!-- Käse"
TEXTS = [HOSTILE, "the goal of the team", "shares of the bank"]

# Sends the events of a visitor, and returns what is then shown.
VISIT = """
const seen = {title: document.title, images: [...document.images].filter((each) => !each.src.startsWith("data:")).length};
const at = (row) => { const [x, y] = onScreen(row); return {clientX: x, clientY: y, bubbles: true, cancelable: true}; };
const point = (row) => { canvas.dispatchEvent(new MouseEvent("mousemove", at(row))); return $("tip").style.display === "none" ? "" : $("tip").innerText; };
const pixels = () => [...pen.getImageData(0, 0, canvas.width, canvas.height).data].filter((v, n) => n % 4 === 3 && v > 0).length;
seen.drawn = pixels() > 0;
seen.hover = [0, 1, 2].map(point);
seen.typical = document.querySelectorAll("#legend img").length;
seen.picture = (point(2), document.querySelectorAll("#tip img").length);
const before = onScreen(1);
canvas.dispatchEvent(new WheelEvent("wheel", {...at(1), deltaY: -400}));
seen.zoom = view.scale;
seen.fixed = Math.hypot(onScreen(1)[0] - before[0], onScreen(1)[1] - before[1]);
canvas.dispatchEvent(new MouseEvent("dblclick"));
seen.reset = view.scale;
seen.maps = [...$("maps").options].map((each) => each.value);
seen.colors = [...$("colors").options].map((each) => each.value);
$("colors").value = "length"; $("colors").onchange();
seen.legend = $("legend").innerText;
seen.fills = new Set(fills).size;
$("maps").value = "pca"; $("maps").onchange();
seen.moved = onScreen(1)[0] !== before[0];
$("search").value = "BANK"; $("search").oninput();
seen.matches = $("matches").innerText;
seen.found = $("found").innerText;
seen.unmatched = point(1);
$("search").value = ""; $("search").oninput();
$("colors").selectedIndex = 0; $("colors").onchange();
document.querySelector("#legend .item").click();
seen.hidden = point(1);
leave(seen);
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "index.html"
    maps = {
        "tsne": np.array([[0, 0], [1, 0], [1, 1]], dtype=np.float32),
        "pca": np.array([[1, 0], [0, 0], [0, 1]], dtype=np.float32),
    }
    colors = [
        MapColor("cluster", [1, 0, 0], ["0 team, bank", "1 <b>bold</b>"], [[2], []]),
        MapColor.of_column("length", [90, 20, None]),
    ]
    pixel = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    write_page(path, f"news {HOSTILE}", [0, 5, 9], TEXTS, maps, colors, ["2 clusters"], {2: pixel})
    return path


# Two fingers on the map move apart about a point; then one moves right.
PINCH = """
const seen = {stage: $("stage").getBoundingClientRect().width, below: document.querySelector("aside").getBoundingClientRect().top >= $("stage").getBoundingClientRect().bottom - 1, wide: document.documentElement.scrollWidth <= innerWidth, width: document.documentElement.clientWidth};
const touch = (kind, ...places) => canvas.dispatchEvent(new TouchEvent(kind, {cancelable: true, touches: places.map(([x, y], n) => new Touch({identifier: n, target: canvas, clientX: x, clientY: y}))}));
touch("touchstart", [100, 200], [140, 200]);
touch("touchmove", [80, 200], [160, 200]);
seen.zoom = view.scale;
touch("touchend", [80, 200]);
const before = onScreen(1)[0];
touch("touchmove", [110, 200]);
seen.moved = onScreen(1)[0] - before;
leave(seen);
"""


@needs_chromium
def test_page_fits_a_narrow_screen_and_its_fingers(page: Path) -> None:
    seen = visit(page, PINCH, width=500)  # no window is narrower in headless mode
    assert seen["stage"] == seen["width"]
    assert seen["below"]
    assert seen["wide"]
    assert seen["zoom"] == 2
    assert abs(seen["moved"] - 30) < 1e-6


@needs_chromium
def test_page_shows_a_map_to_hover_zoom_color_and_search(page: Path) -> None:
    seen = visit(page, VISIT)
    assert seen["title"] == f"news {HOSTILE}"  # as text: nothing of it was run
    assert seen["images"] == 0
    assert seen["drawn"]
    assert [text.splitlines()[0] for text in seen["hover"]] == ["row 1", "row 6", "row 10"]
    assert HOSTILE in seen["hover"][0]
    assert "cluster: 1 <b>bold</b>" in seen["hover"][0]
    assert seen["picture"] == 1
    assert seen["typical"] == 1
    assert seen["zoom"] > 2
    assert seen["fixed"] < 1  # what is under the pointer stays there
    assert seen["reset"] == 1
    assert seen["maps"] == ["tsne", "pca"]
    assert seen["colors"] == ["cluster", "length"]
    assert "20 to 90" in seen["legend"]
    assert seen["fills"] == 3
    assert seen["moved"]
    assert seen["matches"] == "1 of 3 rows"
    assert seen["found"] == "row 10: shares of the bank"
    assert seen["unmatched"] == ""
    assert seen["hidden"] == ""


def test_page_names_no_address_outside_of_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text
    assert HOSTILE not in text
    assert text.count("</script>") == 2
