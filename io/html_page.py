"""Which pieces is a page made of that needs no network? HTML and SVG as text, pictures inside."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}p>img{max-width:100%}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;
vertical-align:top;overflow-wrap:anywhere}td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.look{position:relative;display:inline-block}.look img{max-width:100%;display:block}
.look img+img{position:absolute;inset:0;width:100%;height:100%;opacity:0;image-rendering:pixelated}i.c{display:inline-block;width:1em;height:1em;border:1px solid #888;vertical-align:-.15em}
.chart{overflow-x:auto}.chart svg{display:block;width:100%;min-width:34rem;max-width:44rem}
pre{background:#f4f4f4;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere}.warn{background:#fff3cd;padding:.5rem .7rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#282828}.warn{background:#4a3d10}}"""

COLOURS = ("#7a4d9b", "#c2703d", "#2f7f86", "#9a8c2c", "#b04a6f", "#4c6fb1")


def head(title: str, heading: str) -> str:
    """Begin a page."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{text(title)}</title><style>{STYLE}</style><h1>{text(heading)}</h1>"
    )


def bars(values: dict[str, float], unit: str) -> str:
    """Draw numbers by name as a chart: SVG."""
    rows = sorted(values.items(), key=lambda item: -item[1])
    most = max((value for _, value in rows), default=0) or 1
    parts = [f"<div class=chart><svg viewBox='0 0 700 {24 * len(rows) + 4}' role=img>"]
    for row, (name, value) in enumerate(rows):
        y, wide = 24 * row + 2, 400 * value / most
        parts.append(
            f"<text x=0 y={y + 15} font-size=14 fill=currentColor>{text(name)}</text>"
            f"<rect x=180 y={y} width={wide:.1f} height=19 fill='#7a4d9b'/>"
            f"<text x={wide + 188:.1f} y={y + 15} font-size=14 fill=currentColor>{value:.4g} {unit}</text>"
        )
    return "".join(parts) + "</svg></div>"


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """Draw curves with a logarithmic axis where all values are positive, and a dot where there is one point: SVG.

    Parameters
    ----------
    lines
        Points (x, y) by name, each in the order of x.
    unit
        Of the x axis, in words.
    """
    points = [point for line in lines.values() for point in line if math.isfinite(point[1])]
    if not points:
        return "<p>nothing to draw</p>"
    is_log = min(y for _, y in points) > 0
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)

    def place(x: float, y: float) -> tuple[float, float]:
        bottom, top, value = (math.log(v) for v in (low, high, y)) if is_log else (low, high, y)
        return 60 + 620 * _share(x, left, right), 190 - 170 * _share(value, bottom, top)

    parts = ["<div class=chart><svg viewBox='0 0 700 225' role=img>"]
    parts.append("<path d='M60 15V190H685' fill=none stroke=currentColor />")
    for value in sorted({low, high}):
        y = place(left, value)[1]
        parts.append(
            f"<text x=54 y={y + 5:.0f} font-size=12 text-anchor=end fill=currentColor>{value:.3g}</text>"
        )
    for value in sorted({left, right}):
        x = place(value, low)[0]
        anchor = "middle" if left == right else "start" if value == left else "end"
        parts.append(
            f"<text x={x:.0f} y=206 font-size=12 text-anchor={anchor} fill=currentColor>{value:g} {text(unit)}</text>"
        )
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn = [place(x, y) for x, y in line if math.isfinite(y)]
        along = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        parts.append(f"<polyline points='{along}' fill=none stroke='{colour}' stroke-width=1.6 />")
        if len(drawn) == 1:  # a line needs two ends
            x, y = drawn[0]
            parts.append(f"<circle cx={x:.1f} cy={y:.1f} r=4 fill='{colour}'/>")
        parts.append(f"<text x={200 + 160 * number} y=222 font-size=13 fill='{colour}'>{text(name)}</text>")
    return "".join(parts) + "</svg></div>"


def _share(value: float, low: float, high: float) -> float:
    """Say how far a value lies between two, 0 to 1; in the middle where they are one."""
    return (value - low) / (high - low) if high > low else 0.5


def image(data: bytes | bytearray, kind: str, name: str) -> str:
    """Put a picture into the page."""
    return f"<img alt='{name}' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Make a table of names and values."""
    return "<table>" + "".join(f"<tr><td>{text(name)}<td>{text(value)}" for name, value in rows) + "</table>"


def text(value: object) -> str:
    """Write a value so that a page shows it as it is."""
    return html.escape(str(value))
