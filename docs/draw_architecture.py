"""What does the inside of SAFRON look like? Draws the two pictures of docs/architecture.md.

    python docs/draw_architecture.py

writes docs/images/architecture.svg (the rooms, from the table in tests/architecture.py and their docstrings) and
docs/images/data-flow.svg (a mask window's way to a patch, a block's way to tiles on disk).
"""

from __future__ import annotations

import ast
import sys
from html import escape
from pathlib import Path
from textwrap import wrap

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from architecture import FLOORS, NOT_FOR, floor_of  # noqa: E402

WIDTH = 800
INK, LINE = "#1b2733", "#51677d"
FILLS = {"floor": "#e8f0f8", "beside": "#fdf1dd", "other": "#e9f3e6", "data": "#ffffff"}
# Mean width of a letter of the font below, in shares of its size; generous, since viewers use fonts of their own.
LETTER = 0.56

# Title, text and kind of each stop; "data" is what is handed on, "floor" who does it.
TO_A_PATCH = (
    ("Mask on disk or in a bucket", "Zarr, OME-Zarr or image", "data"),
    ("io.masks", "decodes chunks once, keeps some; checks that every value is a label", "other"),
    ("Label window", "uint8 [T + 2c, T + 2c]: the patch and its context", "data"),
    ("generator", "noise from seed and position; windows of background are filled, not generated", "floor"),
    ("execution", "CPU: a patch per core. GPU: all blocks in flight share batches", "floor"),
    ("ONNX Runtime", "the network; on a CPU one thread per patch", "other"),
    ("Patch", "float or uint8 [T, T, 3], RGB 0..255", "data"),
)
TO_THE_DISK = (
    ("Patches of a block", "its inner patches, and boundary patches that neighbours left in scratch", "data"),
    ("blending", "sums patches times blend weights in whole numbers, so that order does not matter", "floor"),
    ("Block", "uint8 [block, block, 3]: divided by the weights, rounded once", "data"),
    ("io.slides", "halves the block for each level, cuts TIFF tiles, compresses them", "other"),
    ("Tiles", "JPEG or lossless bytes, sent to the driver", "data"),
    ("OUT.part, index, journal", "appended and synced in this order; the driver alone writes", "floor"),
    ("Slide", "upper levels, TIFF directories, then renamed to OUT", "data"),
)


def text(x: float, y: float, words: str, *, size: int = 14, bold: bool = False, anchor: str = "start") -> str:
    """One line of text with its baseline at (x, y)."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{weight}>{escape(words)}</text>'
    )


def lines_of(words: str, width: float) -> list[str]:
    """Text cut up for a box."""
    return wrap(words, int((width - 24) / (14 * LETTER)))


def height_of(words: str, width: float) -> float:
    """Height of a box that holds a title and a text."""
    return 60.0 + 18 * (len(lines_of(words, width)) - 1)


def box(x: float, y: float, width: float, height: float, title: str, words: str, kind: str) -> list[str]:
    """A rectangle with a title and lines of text below it, which must fit."""
    assert height_of(words, width) <= height + 10, f"{title}: the text does not fit"
    return [
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{FILLS[kind]}" stroke="{LINE}"/>',
        text(x + 12, y + 24, title, size=16, bold=True),
        *(text(x + 12, y + 46 + 18 * number, line) for number, line in enumerate(lines_of(words, width))),
    ]


def arrow(x0: float, y0: float, x1: float, y1: float, *, dashed: bool = False) -> str:
    """A straight arrow."""
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" stroke="{LINE}" stroke-width="1.6"{dash} '
        'marker-end="url(#head)"/>'
    )


def svg(height: float, title: str, parts: list[str]) -> str:
    """A whole picture."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'font-family="Helvetica, Arial, DejaVu Sans, sans-serif" fill="{INK}" role="img">'
    )
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>'
    )
    ground = f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", marker, ground, *parts, "</svg>"]) + "\n"


def question(room: str) -> str:
    """First line of a room's docstring."""
    file = ROOT / room.replace(".", "/") / "__init__.py"
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").splitlines()[0]


def uses(room: str) -> str:
    """Rooms of the engine, and io, that a room may import."""
    lower = [name for floor in FLOORS[floor_of(room) + 1 :] for name in floor]
    names = [
        name for name in lower if name.startswith(("engine", "io")) and name not in NOT_FOR.get(room, ())
    ]
    short = dict.fromkeys("io" if name.startswith("io") else name.partition(".")[2] for name in names)
    return f"Uses {', '.join(short)}."


def rooms() -> str:
    """The rooms of the engine by floor, and beside them those that no other room imports."""
    left, wide, gap, top = 16.0, 450.0, 22.0, 44.0
    beside = [room for room in NOT_FOR["engine"] if room.startswith("engine")]
    parts = [text(left, 26, "Imports go downwards only", size=17, bold=True)]
    y = top
    for floor in FLOORS:
        here = [room for room in floor if room not in beside and not room.startswith("training")]
        if not here:
            continue
        low = here[0].startswith("io")
        full = WIDTH - 2 * left if low else wide
        each = (full - 16 * (len(here) - 1)) / len(here)
        high = max(height_of(question(room), each) for room in here)
        for number, room in enumerate(here):
            name = {"engine": "engine (command line, render)", "io": "io (errors, console, files)"}.get(
                room, room
            )
            kind = "other" if low else "floor"
            parts += box(
                left + number * (each + 16), y, each, high, name.replace(".", "/"), question(room), kind
            )
        y += high + gap
        if floor != FLOORS[-1]:
            parts.append(arrow(left + wide / 2, y - gap + 2, left + wide / 2, y - 3))
        if not low:
            end = y
    x, aside, place = left + wide + 30, WIDTH - 2 * left - wide - 30, top
    for room in beside:
        words = f"{question(room)} {uses(room)} No other room uses it."
        high = height_of(words, aside)
        parts += box(x, place, aside, high, room.replace(".", "/"), words, "beside")
        place += high + gap
    assert set(NOT_FOR["training"]) >= {
        name for floor in FLOORS for name in floor if name.startswith("engine")
    }
    words = "How is a generator trained and exported? Uses io; meets the engine only through an .onnx file and its card."
    high = height_of(words, aside)
    parts += box(x, place, aside, high, "training", words, "other")
    parts.append(arrow(x + aside / 2, place + high + 2, x + aside / 2, end - 3))
    return svg(y - gap + 16, "The rooms of SAFRON and the direction of imports", parts)


def ways() -> str:
    """The two ways of the data, side by side."""
    left, wide, high, gap, top = 16.0, 350.0, 88.0, 26.0, 44.0
    right = WIDTH - left - wide
    parts: list[str] = []
    for x, title, stops in (
        (left, "A mask window to a patch", TO_A_PATCH),
        (right, "A block to tiles on disk", TO_THE_DISK),
    ):
        parts.append(text(x, 26, title, size=17, bold=True))
        for number, (name, words, kind) in enumerate(stops):
            y = top + number * (high + gap)
            parts += box(x, y, wide, high, name, words, kind)
            if number:
                parts.append(arrow(x + wide / 2, y - gap + 2, x + wide / 2, y - 3))
    bottom = top + (len(TO_A_PATCH) - 1) * (high + gap) + high / 2
    middle = (left + wide + right) / 2
    parts.append(
        f'<path d="M{left + wide:g},{bottom:g} H{middle:g} V{top + high / 2:g} H{right - 3:g}" fill="none" '
        f'stroke="{LINE}" stroke-width="1.6" stroke-dasharray="5 4" marker-end="url(#head)"/>'
    )
    return svg(
        top + len(TO_A_PATCH) * (high + gap) - gap + 16, "The two ways of the data through SAFRON", parts
    )


PICTURES = {"architecture.svg": rooms, "data-flow.svg": ways}


def main() -> None:
    """Write both pictures."""
    for name, draw in PICTURES.items():
        (ROOT / "docs" / "images" / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
