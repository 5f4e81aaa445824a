"""The page of a report: one HTML file that needs no network, and its charts as PNG files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from finetune.audit.charts import CONFIG, INSTALL, heat_map, write_png
from finetune.audit.sections import Cards, Chart, Matrix, ReportSection
from finetune.audit.shown_rows import as_data_url
from finetune.errors import ConfigError
from finetune.io.files import atomic, write_text
from finetune.reporting.console import format_value

PAGE, FIGURES = "index.html", "figures"
LIBRARIES = ("vega.min.js", "vega-lite.min.js", "vega-embed.min.js")
_STATIC = files("finetune.audit").joinpath("static")


def load_template() -> Any:
    """Load the template of the page. Raises ConfigError if jinja2 is not installed."""
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise ConfigError(f"report: jinja2 is not installed; {INSTALL}") from error
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(_read("page.html"))


def write_report_page(
    folder: Path,
    title: str,
    facts: Mapping[str, str],
    sections: Sequence[ReportSection],
    rows: Mapping[str, Any],
    left_out: str = "",
) -> Path:
    """Write the page into a folder; return its path. `rows` are those of `rows_of_page`."""
    charts = {
        block.name: {"spec": block.spec, "links": block.links}
        for section in sections
        for block in section.blocks
        if isinstance(block, Chart)
    }
    page = load_template().render(
        title=title,
        facts=facts,
        sections=sections,
        findings=[section for section in sections if section.finding],
        has_rows=bool(rows["rows"]),
        left_out=left_out,
        data=_as_script({**rows, "charts": charts, "config": CONFIG}),
        css=_read("page.css"),
        script=_read("page.js"),
        libraries=[_read(name).partition("//# sourceMappingURL")[0] for name in LIBRARIES],
        show=format_value,
        data_url=_data_url,
        shares=_shares,
    )
    path = folder / PAGE
    write_text(path, page)
    return path


def write_figures(folder: Path, sections: Sequence[ReportSection]) -> list[Path]:
    """Write charts and pictures as PNG files into a folder; return their paths.

    Raises ConfigError if vl-convert is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Chart):
                paths.append(folder / f"{block.name}.png")
                write_png(block.spec, paths[-1])
            elif isinstance(block, Matrix):
                side = max(200, 46 * len(block.names))
                paths.append(folder / f"{block.name}.png")
                write_png(heat_map(block.names, block.cells), paths[-1], (side, side))
            elif isinstance(block, Cards):
                paths += _write_pictures(folder, block)
    return paths


def _write_pictures(folder: Path, block: Cards) -> Iterator[Path]:
    for number, card in enumerate(block.cards, start=1):
        if not card.pictures:
            continue
        whole = np.concatenate([picture.pixels for picture in card.pictures], axis=1)
        path = folder / f"{block.name}-{number}.png"
        with atomic(path) as partial:
            Image.fromarray(whole).save(partial, "PNG")
        yield path


def _read(name: str) -> str:
    return _STATIC.joinpath(name).read_text(encoding="utf-8")


def _as_script(value: Any) -> str:
    """Return JSON in which no text reads as the end of a script or as the start of a comment."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _data_url(pixels: np.ndarray) -> str:
    return as_data_url(Image.fromarray(pixels))


def _shares(words: Sequence[tuple[str, float]]) -> list[tuple[str, float, float]]:
    """Return words with their weights, and these as shares of the largest."""
    largest = max((abs(weight) for _, weight in words), default=0.0) or 1.0
    return [(word, weight, weight / largest) for word, weight in words]
