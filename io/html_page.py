"""Which pieces is a page made of that needs no network? HTML and SVG as text, pictures inside."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}img{max-width:100%}table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;
vertical-align:top;overflow-wrap:anywhere}td.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}.look{position:relative;display:inline-block}.look img{max-width:100%;display:block}
.look img+img{position:absolute;inset:0;width:100%;height:100%;opacity:0;image-rendering:pixelated}i.c{display:inline-block;width:1em;height:1em;border:1px solid #888;vertical-align:-.15em}
table.facts td:first-child{overflow-wrap:normal}.bars{width:100%;max-width:44rem}.bars td{padding:.1rem .6rem .1rem 0}.bars td:first-child{white-space:nowrap}.bars td+td{width:100%}.bars td.n{width:auto}
.bars i{display:block;height:1.2em;background:#7a4d9b}.chart{display:grid;grid-template-columns:max-content 1fr;column-gap:.4rem;max-width:44rem;font-size:.85rem}
.chart svg{width:100%;height:11rem;overflow:visible;border:solid;border-width:0 0 1px 1px}.chart polyline,.chart path{vector-effect:non-scaling-stroke;fill:none}
.y,.x{display:flex;justify-content:space-between}.y{flex-direction:column;text-align:right}.y :only-child,.x :only-child{margin:auto}.x,.key{grid-column:2}.key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}
pre{background:#f4f4f4;padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere}.warn{background:#fff3cd;padding:.5rem .7rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}pre{background:#282828}.warn{background:#4a3d10}.chart svg,.bars i,.key i{filter:brightness(1.5)}}"""

COLOURS = ("#7a4d9b", "#c2703d", "#2f7f86", "#9a8c2c", "#b04a6f", "#4c6fb1")


def head(title: str, heading: str) -> str:
    """Begin a page."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{text(title)}</title><style>{STYLE}</style><h1>{text(heading)}</h1>"
    )


def bars(values: dict[str, float], unit: str) -> str:
    """Draw numbers by name as a chart, the largest first."""
    rows = sorted(values.items(), key=lambda item: -item[1])
    most = max((value for _, value in rows), default=0) or 1
    return (
        "<table class=bars>"
        + "".join(
            f"<tr><td>{text(name)}<td><i style='width:{100 * value / most:.1f}%'></i><td class=n>{value:.4g} {unit}"
            for name, value in rows
        )
        + "</table>"
    )


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """Draw curves, with a logarithmic axis where all values are positive, and a dot where there is one point.

    SVG with its numbers beside it, so that they have one size on any screen.

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

    def place(x: float, y: float) -> str:
        bottom, top, value = (math.log(v) for v in (low, high, y)) if is_log else (low, high, y)
        return f"{620 * _share(x, left, right):.1f},{170 - 170 * _share(value, bottom, top):.1f}"

    drawings, keys = [], []
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        drawn = [place(x, y) for x, y in line if math.isfinite(y)]
        drawings.append(f"<polyline points='{' '.join(drawn)}' stroke='{colour}' stroke-width=1.6 />")
        if len(drawn) == 1:  # a line needs two ends
            drawings.append(
                f"<path d='M{drawn[0]}h0' stroke='{colour}' stroke-width=9 stroke-linecap=round />"
            )
        keys.append(f"<span><i class=c style='background:{colour}'></i> {text(name)}</span>")
    high_low = "".join(f"<span>{value:.3g}</span>" for value in sorted({low, high}, reverse=True))
    along = "".join(f"<span>{value:g} {text(unit)}</span>" for value in sorted({left, right}))
    return (
        f"<div class=chart><div class=y>{high_low}</div><svg viewBox='0 0 620 170' preserveAspectRatio=none role=img>"
        f"{''.join(drawings)}</svg><div class=x>{along}</div><div class=key>{''.join(keys)}</div></div>"
    )


def _share(value: float, low: float, high: float) -> float:
    """Say how far a value lies between two, 0 to 1; in the middle where they are one."""
    return (value - low) / (high - low) if high > low else 0.5


def image(data: bytes | bytearray, kind: str, name: str) -> str:
    """Put a picture into the page."""
    return f"<img alt='{name}' src='data:image/{kind};base64,{base64.b64encode(data).decode()}'>"


def table(rows: Iterable[tuple[str, Any]]) -> str:
    """Make a table of names and values."""
    return (
        "<table class=facts>"
        + "".join(f"<tr><td>{text(name)}<td>{text(value)}" for name, value in rows)
        + "</table>"
    )


def text(value: object) -> str:
    """Write a value so that a page shows it as it is."""
    return html.escape(str(value))
