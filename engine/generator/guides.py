"""How are guides read where a window may reach beyond the canvas?"""

from __future__ import annotations

from safron.engine.plan.window import Window
from safron.io.measures.guides import Guides, Planes, draw_guides

from .inputs import Labels, read_labels


def read_guides(mask: Labels, window: Window, guides: Guides, *, outside: int | None) -> Planes:
    """Read the guides of a window of the canvas: float32 [channels, y, x]; see `draw_guides` and `read_labels`."""
    wide = window.expand(guides.reach)
    return draw_guides(read_labels(mask, wide, outside=outside), (wide.y, wide.x), guides)
