"""Where in a view does the edge of a patch stand out most?

Along each side of each patch the mean step of colour is taken: from the last pixel before the line to the first one after it,
over a stride of pixels. Steps at lines nearby, where no patch ends, say what is usual there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window
from safron.engine.virtual.tiles import TILE

from .pictures import Picture

MOST_SIDE = 4096
"""Pixels a side that are looked at, around the middle of the view."""
_BESIDE = (-7, -6, -5, -4, -3, 3, 4, 5, 6, 7)
"""Lines that a line is held against."""


@dataclass(frozen=True)
class Patches:
    """Where patches lie on the picture.

    Attributes
    ----------
    tile, overlap
        Pixels that a patch writes, and shares, in drawn pixels.
    y, x
        Drawn pixel of the picture's first one.
    ratio
        Drawn pixels for each pixel of the picture.
    block
        Side of a block, in pixels of the picture; 0 where it is not known.
    """

    tile: int
    overlap: int
    y: float = 0.0
    x: float = 0.0
    ratio: float = 1.0
    block: int = 0

    def lines(self, start: int, stop: int, origin: float) -> list[int]:
        """First pixels after the lines at which a patch begins or ends, inside ``[start, stop)``."""
        stride = self.tile - self.overlap
        first, last = start * self.ratio + origin, stop * self.ratio + origin
        ends = {0, self.overlap % stride}
        found = {
            round((index * stride + end - origin) / self.ratio)
            for index in range(int(first // stride) - 1, int(last // stride) + 2)
            for end in ends
            if index * stride + end > 0
        }
        return sorted(line for line in found if start < line < stop)


def worst_seam(picture: Picture, patches: Patches, view: Window) -> dict[str, Any] | None:
    """Find the side of a patch with the largest step beyond what is usual beside it.

    Parameters
    ----------
    picture
        Only what is there is looked at.
    patches
        Its patches.
    view
        Pixels of level 0.

    Returns
    -------
    dict[str, Any] | None
        ``x``, ``y``: its middle in pixels; ``step``, ``usual``: grey levels; ``sides``: how many were looked at. None where there
        is no side of a patch.
    """
    middle = Window(
        view.y + view.height // 2 - MOST_SIDE // 2,
        view.x + view.width // 2 - MOST_SIDE // 2,
        MOST_SIDE,
        MOST_SIDE,
    )
    window = view.clip(middle).clip(Window(0, 0, picture.height, picture.width))
    pixels, there = _pixels(picture, window)
    stride = max(8, round((patches.tile - patches.overlap) / patches.ratio))
    found = [
        (step, usual, *place)
        for turned in (False, True)
        for step, usual, place in _sides(pixels, there, patches, window, stride, turned=turned)
    ]
    if not found:
        return None
    step, usual, y, x = max(found, key=lambda side: side[0] - side[1])
    return {"x": x, "y": y, "step": round(step, 2), "usual": round(usual, 2), "sides": len(found)}


def _pixels(picture: Picture, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return what is there of a window: float32 [h, w, 3], and where: bool [h, w]."""
    pixels = np.zeros((window.height, window.width, 3), np.float32)
    there = np.zeros((window.height, window.width), bool)
    for row in range(window.y // TILE, -(-window.y_stop // TILE)):
        for column in range(window.x // TILE, -(-window.x_stop // TILE)):
            shown = picture.tile(0, row, column)
            if shown is None:
                continue
            tile = Window(row * TILE, column * TILE, *shown.rgb.shape[:2])
            part = tile.clip(window)
            pixels[part.slices(window)] = shown.rgb[part.slices(tile)]
            there[part.slices(window)] = True if shown.there is None else shown.there[part.slices(tile)] > 0
    return pixels, there


def _sides(
    pixels: npt.NDArray[np.float32],
    there: npt.NDArray[np.bool_],
    patches: Patches,
    window: Window,
    stride: int,
    *,
    turned: bool,
) -> list[tuple[float, float, tuple[int, int]]]:
    """Step, usual step and middle (y, x) of each side; of the horizontal ones if `turned`."""
    if turned:
        pixels, there = pixels.transpose(1, 0, 2), there.T
        start, along, origin = window.y, window.x, patches.y
    else:
        start, along, origin = window.x, window.y, patches.x
    length, across = there.shape
    found = []
    for line in patches.lines(start, start + across, origin):
        at = line - start
        near = [at + off for off in (0, *_BESIDE) if 0 < at + off < across]
        if near[0] != at or len(near) < 4:
            continue
        for top in range(0, length - stride + 1, stride):
            rows = slice(top, top + stride)
            if not there[rows, min(near) - 1 : max(near) + 1].all():
                continue
            steps = [
                float(np.abs((pixels[rows, one] - pixels[rows, one - 1]).mean(axis=0)).mean()) for one in near
            ]
            middle = along + top + stride // 2
            place = (line, middle) if turned else (middle, line)
            found.append((steps[0], float(np.median(steps[1:])), place))
    return found
