"""Vega-Lite specifications of the charts, their common style, and their PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError
from finetune.io.files import atomic

INSTALL = "pip install 'finetune-kit[report]'"
ADDRESS_SPACE = 64 * 2**30
"""Bytes that the engine of vl-convert reserves, most of which it never uses."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
BLUE, ORANGE, GRAY, FAINT = "#3b6fb6", "#d9822b", "#8a8f98", "#8a8f9840"
COLORS = [BLUE, ORANGE, "#3f9c6b", "#b84a62", "#7b62b3", "#8c6d4f", "#c46bac", "#5b6770", "#9aa12e"]
CONFIG: Mapping[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "range": {"category": COLORS},
    "axis": {
        "labelColor": GRAY,
        "titleColor": GRAY,
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "gridColor": FAINT,
        "domain": False,
        "tickColor": FAINT,
        "labelLimit": 140,
    },
    "axisX": {"grid": False, "tickCount": 6},
    "axisY": {"tickCount": 5},
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": GRAY,
        "labelFontSize": 12,
        "labelLimit": 110,
        "columns": 3,
        "symbolType": "circle",
    },
}
SIZE = (620, 300)  # of a PNG, pixels
POINTS = 120  # of a curve; more would not be seen


def records(**columns: Any) -> list[dict[str, Any]]:
    """Return one dict for each place of columns [N], with rounded numbers."""
    lines = zip(*columns.values(), strict=True)
    return [{name: _plain(v) for name, v in zip(columns, line, strict=True)} for line in lines]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.5g}") if isinstance(value, float) else value


def line_chart(
    data: Sequence[Mapping[str, Any]],
    x: str,
    y: str,
    series: str | None = None,
    *,
    zero: bool = False,
    unit: bool = False,
    points: bool = False,
) -> dict[str, Any]:
    """Draw y against x, a line for each value of `series`; `unit` sets both ranges to 0..1."""
    scale: dict[str, Any] = {"domain": [0, 1]} if unit else {"zero": zero}
    mark = {"type": "line", "point": points, "strokeWidth": 2, "clip": True, "tooltip": True}
    return layered(data, [{"mark": mark, "encoding": encoding(x, y, series, scale, unit=unit)}])


def encoding(
    x: str, y: str, series: str | None, scale: Mapping[str, Any], *, unit: bool = False
) -> dict[str, Any]:
    """Return the channels of a chart of numbers."""
    channels: dict[str, Any] = {
        "x": {
            "field": x,
            "type": "quantitative",
            "title": x,
            "scale": {"domain": [0, 1]} if unit else {"zero": False, "nice": False},
        },
        "y": {"field": y, "type": "quantitative", "title": y, "scale": dict(scale)},
        "order": {"field": x, "type": "quantitative"},
    }
    if series is not None:
        legend = {"symbolType": "stroke", "symbolStrokeWidth": 3}
        channels["color"] = {"field": series, "type": "nominal", "sort": None, "legend": legend}
    return channels


def layered(data: Sequence[Mapping[str, Any]], layers: Sequence[Any]) -> dict[str, Any]:
    """Return a chart of layers over the same data."""
    return {"$schema": SCHEMA, "data": {"values": list(data)}, "layer": list(layers)}


def diagonal_of(low: float, high: float) -> dict[str, Any]:
    """Return a layer with a dashed line on which x and y are equal."""
    ends = [{"from": low, "to": high}]
    channels = {
        "x": {"field": "from", "type": "quantitative"},
        "y": {"field": "from", "type": "quantitative"},
        "x2": {"field": "to"},
        "y2": {"field": "to"},
    }
    mark = {"type": "rule", "color": GRAY, "strokeDash": [4, 4]}
    return {"data": {"values": ends}, "mark": mark, "encoding": channels}


def chooser(name: str, options: Sequence[str]) -> dict[str, Any]:
    """Return the parameter of a chart that a person sets by choosing one of `options`."""
    bind = {"input": "select", "options": list(options), "name": f"{name} "}
    return {"name": name, "value": options[0], "bind": bind}


def heat_map(names: Sequence[str], cells: Sequence[Sequence[tuple[float, str]]]) -> dict[str, Any]:
    """Draw a confusion matrix, for its PNG file; the page has a table in its place.

    A cell is the share of its true class, and its text.
    """
    data = [
        {"true": true, "predicted": predicted, "share": share, "text": text}
        for true, line in zip(names, cells, strict=True)
        for predicted, (share, text) in zip(names, line, strict=True)
    ]
    place = {
        axis: {"field": axis, "type": "nominal", "sort": list(names)}
        for axis in ("true", "predicted")
    }
    channels = {"x": {**place["predicted"], "axis": {"labelAngle": -40}}, "y": place["true"]}
    shade = {
        "field": "share",
        "type": "quantitative",
        "legend": None,
        "scale": {"range": ["#ffffff", BLUE], "domain": [0, 1], "type": "sqrt"},
    }
    ink = {"condition": {"test": "datum.share > 0.3", "value": "white"}, "value": "#333333"}
    squares = {
        "mark": {"type": "rect", "stroke": "white"},
        "encoding": {**channels, "color": shade},
    }
    text = {"field": "text", "type": "nominal"}
    numbers = {"mark": "text", "encoding": {**channels, "text": text, "color": ink}}
    return layered(data, [squares, numbers])


def write_png(spec: Mapping[str, Any], path: Path, size: tuple[int, int] = SIZE) -> None:
    """Render a chart to a PNG file. Raises ConfigError if vl-convert is missing or cannot start."""
    _check_address_space()
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise ConfigError(f"report: vl-convert-python is not installed; {INSTALL}") from error
    style = {**CONFIG, "background": "white"}
    whole = {**spec, "width": size[0], "height": size[1], "config": style, "padding": 12}
    with atomic(path) as partial:
        partial.write_bytes(vl_convert.vegalite_to_png(whole, scale=2))


def _check_address_space() -> None:
    """Raise ConfigError if there is too little for the engine of vl-convert, which would abort."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows has no such limit
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise ConfigError(
            f"report: vl-convert reserves {ADDRESS_SPACE // 2**30} GiB of address space, and this "
            f"process is limited to {limit / 2**30:.0f} GiB; raise the limit (ulimit -v unlimited)"
        )
