"""How is a study drawn? As one SVG picture: a group of bars for each arm, one bar for each test, with whiskers of one deviation."""

from __future__ import annotations

from html import escape
from typing import Any

COLORS = ("#3b6ea5", "#d1495b", "#8d96a3")
LEFT, TOP, PLOT, BOTTOM = 52, 40, 260, 84
BAR, GAP = 16, 22
INK, GRID = "#1b2733", "#d7dde3"


def draw_study(report: dict[str, Any]) -> str:
    """Draw the Dice of every arm on every test.

    Parameters
    ----------
    report
        What `study.run_study` returns.

    Returns
    -------
    str
        SVG; the axis begins at the tenth below the lowest bar.
    """
    arms = report["arms"]
    tests = list(next(iter(arms.values()))["tests"]) if arms else []
    values = [
        arm["tests"][test]["dice"]["mean"] - (arm["tests"][test]["dice"]["sd"] or 0.0)
        for arm in arms.values()
        for test in tests
    ]
    low = max(0.0, int(max(0.0, min(values, default=0.0)) * 10) / 10)
    group = len(tests) * BAR + GAP
    width = LEFT + max(len(arms) * group + GAP, len(tests) * 110) + 10
    height = TOP + PLOT + BOTTOM

    def at(value: float) -> float:
        return TOP + PLOT * (1 - (max(value, low) - low) / (1 - low))

    parts = [_text(LEFT, 16, "Dice on images of held-out slides", size=13)]
    for index, test in enumerate(tests):
        x = LEFT + index * 110
        parts.append(f'<rect x="{x}" y="23" width="10" height="10" fill="{COLORS[index % 3]}"/>')
        parts.append(_text(x + 14, 32, test))
    for tick in range(round(low * 20), 21):
        y = at(tick / 20)
        parts.append(f'<line x1="{LEFT}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 6, y + 4, f"{tick / 20:.2f}", anchor="end"))
    for number, (name, arm) in enumerate(arms.items()):
        x = LEFT + GAP + number * group
        for index, test in enumerate(tests):
            dice = arm["tests"][test]["dice"]
            left, top = x + index * BAR, at(dice["mean"])
            parts.append(
                f'<rect x="{left}" y="{top:.1f}" width="{BAR - 2}" height="{TOP + PLOT - top:.1f}" fill="{COLORS[index % 3]}"/>'
            )
            middle, sd = left + BAR / 2 - 1, dice["sd"] or 0.0
            ends = at(dice["mean"] - sd), at(dice["mean"] + sd)
            parts.append(
                f'<line x1="{middle}" x2="{middle}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}" stroke="{INK}"/>'
            )
        center = x + len(tests) * BAR / 2
        turn = f' transform="rotate(-25 {center} {TOP + PLOT + 16})"'
        parts.append(_text(center, TOP + PLOT + 16, name, anchor="end", more=turn))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", more: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="Helvetica, Arial, sans-serif" font-size="{size}" fill="{INK}" '
        f'text-anchor="{anchor}"{more}>{escape(text)}</text>'
    )
