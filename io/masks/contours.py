"""Which pixels does a contour stand for that OpenCV drew around a nucleus?

HoVer-Net and CellViT find nuclei as pixels, and write what ``cv2.findContours`` gives: the numbers of the outermost pixels, one after
the other. As a polygon this runs through the centres of these pixels, half a pixel within the nucleus and half a pixel up and left::

    pixels 2 3 4    contour 2 .. 4 : as corners in pixels it holds the pixels 2 and 3 alone
                    here    2 .. 5 : along the sides of the pixels 2, 3 and 4

So each contour is filled, its own pixels too, and traced again along the sides of its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .outlines import outlines

Ring = npt.NDArray[Any]

SHEET = 2048
"""Side of a sheet on which contours are filled beside one another; one that is larger is no nucleus and stays as it is."""


def sides_of_pixels(contours: Sequence[Ring]) -> list[list[Ring]]:
    """Trace contours along the sides of the pixels that they hold.

    Parameters
    ----------
    contours
        Each [n, 2], x and y of pixels, n at least 1.

    Returns
    -------
    list[list[Ring]]
        Of each contour its rings, corners int64 [m, 2] x, y, the largest first; a pixel lies inside by the even-odd rule. A contour
        that names no pixels, with a fraction in it, or is larger than `SHEET`, is its only ring.

    Examples
    --------
    >>> rings = sides_of_pixels([np.array([[2, 7], [4, 7]])])
    >>> rings[0][0].tolist()
    [[2, 7], [5, 7], [5, 8], [2, 8]]
    """
    rings = [[contour] for contour in contours]
    for numbers, places, sheet in _sheets(contours):
        for number, found in zip(numbers, _trace(sheet, len(numbers)), strict=True):
            rings[number] = [ring + places[number] for ring in found]
    return rings


def _sheets(
    contours: Sequence[Ring],
) -> Iterator[tuple[list[int], dict[int, npt.NDArray[np.int64]], npt.NDArray[np.int32]]]:
    """Fill contours on sheets, in rows, none beside another: which of them, where each was, and int32 [y, x] numbered from 1."""
    numbers: list[int] = []
    places: dict[int, npt.NDArray[np.int64]] = {}
    sheet = np.zeros((SHEET, SHEET), np.int32)
    y, x, below = 1, 1, 1
    for number, contour in enumerate(contours):
        if not _names_pixels(contour):
            continue
        first = contour.min(axis=0).astype(np.int64)
        pixels = (contour - first).astype(np.int32)
        across, down = (pixels.max(axis=0) + 2).tolist()
        if x + across > SHEET:
            y, x = below, 1
        if y + down > SHEET:
            yield numbers, places, sheet
            numbers, places = [], {}
            sheet[:] = 0
            y, x, below = 1, 1, 1
        numbers.append(number)
        places[number] = first - (x, y)
        cv2.fillPoly(sheet, [pixels + np.array([x, y], np.int32)], len(numbers))
        x, below = x + across, max(below, y + down)
    if numbers:
        yield numbers, places, sheet


def _names_pixels(contour: Ring) -> bool:
    """Whether it names pixels that fit upon a sheet."""
    if contour.ndim != 2 or contour.shape[1] != 2 or not len(contour) or not np.isfinite(contour).all():
        return False
    return bool((np.ptp(contour, axis=0) < SHEET - 3).all() and (contour == np.rint(contour)).all())


def _trace(sheet: npt.NDArray[np.int32], count: int) -> list[list[Ring]]:
    """Rings of each number of a sheet, the largest first."""
    chains = outlines(np.pad(sheet, 1), sheet, np.arange(count + 1), 0, 0)
    rings = np.split(chains.points, np.cumsum(chains.counts)[:-1])
    found: list[list[Ring]] = [[] for _ in range(count)]
    for chain in np.lexsort((-chains.area, chains.region)).tolist():
        found[int(chains.region[chain]) - 1].append(rings[chain])
    return found
