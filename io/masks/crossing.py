"""Which outlines of nuclei cross themselves? What they hold twice counts as outside, so their masks have holes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .polygons import Points, PolygonSet

CORNERS = 1 << 17
"""Corners that are looked at together, in a dozen arrays of 8 bytes each."""

MOST_CORNERS = 1000
"""Outlines with more corners are not looked at: time grows with the square of their number, and no nucleus has as many."""


def count_crossing(polygons: PolygonSet) -> int:
    """Count the polygons whose outer ring crosses itself."""
    first = polygons.polygons[:-1]
    starts = polygons.rings[first]
    lengths = polygons.rings[first + 1] - starts
    found = 0
    for length in range(4, min(int(lengths.max(initial=0)), MOST_CORNERS) + 1):
        places = starts[lengths == length]
        some = max(1, CORNERS // length)
        for at in range(0, len(places), some):
            part = places[at : at + some]
            found += int(_cross(polygons.xy[part[:, None] + np.arange(length)].astype(np.float64)).sum())
    return found


def _cross(rings: Points) -> npt.NDArray[np.bool_]:
    """Which rings [k, corners, 2] have two sides that cross, other than at a common corner: bool [k]."""
    ends = np.roll(rings, -1, axis=1)
    found = np.zeros(len(rings), bool)
    for step in range(2, rings.shape[1] // 2 + 1):
        others, their_ends = np.roll(rings, -step, axis=1), np.roll(ends, -step, axis=1)
        apart = _side(rings, ends, others) * _side(rings, ends, their_ends) < 0
        apart &= _side(others, their_ends, rings) * _side(others, their_ends, ends) < 0
        found |= apart.any(axis=1)
    return found


def _side(start: Points, end: Points, point: Points) -> npt.NDArray[np.float64]:
    """On which side of the line through `start` and `end` a point lies: above, below or equal to 0."""
    along, towards = end - start, point - start
    side: npt.NDArray[np.float64] = along[..., 0] * towards[..., 1] - along[..., 1] * towards[..., 0]
    return side
