"""How do three numbers per pixel say where each nucleus lies and of which type it is?

A diffusion model paints pictures of three channels; this is the picture that stands for a mask of nuclei. The first channel
is the depth of a pixel in its nucleus, which a small network learns soon, since it is smooth:

    depth    1 deep inside, 0 at the outline, -1 far outside; distances in pixels over a reach, and clipped
             pixels beside another nucleus count as outside: two nuclei that touch have a valley of two pixels between them

The other two are the type, a point on the unit circle; outside nuclei they are 0. So a pixel of the valley (depth below 0,
type on the circle) differs from one between nuclei that do not touch.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

import cv2
import numpy as np
import numpy.typing as npt

REACH = 4
"""Distance in pixels at which the depth is clipped."""

Bytes = npt.NDArray[np.uint8]


def circle(count: int) -> npt.NDArray[np.float64]:
    """Give each type a point on the unit circle: float64 [count, 2].

    Types that follow each other lie as far from each other as they can, so that the most frequent ones, which come first,
    are hardest to mistake.

    >>> circle(2).round(3).tolist()
    [[1.0, 0.0], [-1.0, 0.0]]
    """
    places = [*range(0, count, 2), *range(1, count, 2)]
    angles = [2 * pi * place / count for place in places]
    return np.array([[cos(angle), sin(angle)] for angle in angles])


def find_interiors(numbers: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Find pixels of nuclei without a neighbour (above, below, left, right) of another nucleus: bool [y, x]."""
    inside: npt.NDArray[np.bool_] = numbers != 0
    for axis in (0, 1):
        first, second = (np.moveaxis(numbers, axis, 0)[part] for part in (np.s_[:-1], np.s_[1:]))
        touch = (first != second) & (first != 0) & (second != 0)
        turned = np.moveaxis(inside, axis, 0)
        turned[:-1] &= ~touch
        turned[1:] &= ~touch
    return inside


def measure_depth(numbers: npt.NDArray[np.uint32]) -> Bytes:
    """Measure the depth of each pixel: uint8 [y, x], 128 and more inside; exact but for `REACH` + 1 pixels at the rim.

    Parameters
    ----------
    numbers
        Numbers of nuclei [y, x], 0 outside.
    """
    inside = find_interiors(numbers).astype(np.uint8)
    within, without = (
        cv2.distanceTransform(part, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for part in (inside, 1 - inside)
    )
    signed = np.where(inside, within - 0.5, 0.5 - without)
    depth: Bytes = to_bytes(np.clip(signed / REACH, -1, 1))
    return depth


def to_bytes(values: npt.NDArray[np.floating]) -> Bytes:
    """Turn -1..1 into 0..255."""
    return np.rint(np.asarray(values) * 127.5 + 127.5).astype(np.uint8)


def encode(
    types: npt.NDArray[np.uint8], depth: Bytes, codes: npt.NDArray[np.float64] | Sequence[Sequence[float]]
) -> Bytes:
    """Make the picture.

    Parameters
    ----------
    types
        uint8 [y, x]: 1 + place in `codes`, 0 outside nuclei.
    depth
        See `measure_depth`.
    codes
        Point of each type, see `circle`.

    Returns
    -------
    Bytes
        uint8 [y, x, 3].
    """
    table = to_bytes(np.concatenate([np.zeros((1, 2)), np.asarray(codes)]))
    return np.dstack([depth, table[types]])
