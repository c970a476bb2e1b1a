"""How far is a pixel from the border of its region, and how wide is that region there?

A network that reads 20 pixels of labels cannot see the middle of a large gland. Guides tell it. For each class that the
card names they are three planes:

    distance   to the class's border, inside positive, outside negative, in units of the radius: -1..1
    depth      distance over the half width of the region: 0 outside, about 1 in the middle of any gland, wide or narrow
    width      half width of the region in units of the radius, 0 outside: 0..1

Distances are exact and truncated at the radius, so they need no more labels than that; all of them are roots of whole
numbers. The half width of a region at a pixel is the radius of the largest disc that covers the pixel and lies inside
(local thickness: Hildebrand and Ruegsegger, J Microsc 185:67, 1997), found among the discs of `radii` on a lattice of
canvas pixels, then averaged and interpolated in whole numbers. So every window gives the same bits, on any machine.
"""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from safron.io.fields import Byte

Planes = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int32]

PLANES_PER_CLASS = 3
"""Distance, depth and width."""

LATTICE = 4
"""Widths are found at canvas pixels whose row and column are multiples of this."""

SMOOTHING = 2
"""The width at a point is averaged over the lattice points inside the class up to this many steps away."""

DEEPEST = 1.25
"""Depth is cut off here: an averaged width can be less than the distance."""


class Guides(Struct, frozen=True, forbid_unknown_fields=True):
    """Which guides a generator reads.

    Attributes
    ----------
    classes
        Label values whose regions are measured, in the order of the planes.
    radius
        Distance in pixels at which all is truncated, a multiple of 4 up to 128.
    """

    classes: tuple[Byte, ...]
    radius: Annotated[int, Meta(ge=8, le=128, multiple_of=LATTICE)] = 64

    def __post_init__(self) -> None:
        if not self.classes or len({*self.classes}) < len(self.classes):
            raise ValueError(f"classes must be one or more, all different, not {list(self.classes)}")

    @property
    def channels(self) -> int:
        """Number of planes."""
        return PLANES_PER_CLASS * len(self.classes)

    @property
    def reach(self) -> int:
        """Label pixels read beyond a window on each side: a disc's centre is a radius away, and its border another."""
        return 2 * self.radius + LATTICE * (SMOOTHING + 2)

    @property
    def radii(self) -> tuple[int, ...]:
        """Radii of the discs that widths are found with, ascending, in pixels: steps of about a fifth."""
        found = [2]
        while found[-1] < self.radius:
            found.append(min(self.radius, found[-1] + max(2, found[-1] // 10 * 2)))
        return tuple(found)


def draw_guides(labels: npt.NDArray[np.uint8], origin: tuple[int, int], guides: Guides) -> Planes:
    """Measure labels.

    Parameters
    ----------
    labels
        uint8 [h + 2r, w + 2r]: the window and r = `Guides.reach` pixels on each side.
    origin
        Canvas row and column of the first label.
    guides
        What is measured.

    Returns
    -------
    Planes
        float32 [3 * classes, h, w]; for each class distance, depth and width.
    """
    return np.concatenate([_draw_class(labels == value, origin, guides) for value in guides.classes])


def _draw_class(member: npt.NDArray[np.bool_], origin: tuple[int, int], guides: Guides) -> Planes:
    reach, radius = guides.reach, np.float32(guides.radius)
    inside = _squares(member, guides.radius)
    # Beyond the radius from the window only `inside` is looked at, for the centres of discs.
    near = reach - guides.radius
    outside = _squares(~member[near:-near, near:-near], guides.radius)
    core = np.s_[guides.radius : -guides.radius, guides.radius : -guides.radius]
    inner = np.sqrt(inside[reach:-reach, reach:-reach].astype(np.float32))
    distance = (inner - np.sqrt(outside[core].astype(np.float32))) / radius
    first = tuple(-start % LATTICE for start in origin)
    width = _widths(inside[first[0] :: LATTICE, first[1] :: LATTICE], guides)
    # Where the window begins, counted from the first lattice point.
    start = (reach - first[0], reach - first[1])
    wide = _interpolate(width, start, inner.shape)
    depth = np.minimum(inner / np.maximum(wide, np.float32(1)), np.float32(DEEPEST))
    member = member[reach:-reach, reach:-reach]
    return np.stack([distance, np.where(member, depth, 0), np.where(member, wide / radius, 0)]).astype(
        np.float32
    )


def _squares(member: npt.NDArray[np.bool_], radius: int) -> Whole:
    """Squared distance of each member to the nearest pixel that is none, at most the radius squared: int32, 0 for the others."""
    found = cv2.distanceTransform(member.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Roots in float32 of whole numbers below 2**15, squared again, round to the same whole numbers.
    near = np.minimum(np.asarray(found), np.float32(radius))
    return np.asarray(np.rint(near * near), np.int32)


def _widths(squares: Whole, guides: Guides) -> Planes:
    """Half widths at lattice points [v, u] from squared distances there, averaged: float32, pixels.

    True at least `SMOOTHING` steps and a radius from the edge.
    """
    width = np.zeros(squares.shape, np.int32)
    for size in guides.radii:
        centres = squares >= size * size
        if not centres.any():
            break
        # A point is covered if a centre lies closer than the disc's radius.
        covered = cv2.distanceTransform((~centres).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        steps = np.rint(np.square(np.minimum(covered, np.float32(size)))).astype(np.int32)
        width[steps * (LATTICE * LATTICE) < size * size] = size
    inside = squares > 0
    width[~inside] = 0
    side = (2 * SMOOTHING + 1,) * 2
    sums, counts = (
        np.asarray(cv2.boxFilter(part.astype(np.float64), -1, side, normalize=False))
        for part in (width, inside)
    )
    # Sums of whole numbers; 1/64 px is exact in float32 through the interpolation.
    return (np.rint(64 * sums / np.maximum(counts, 1)) / 64).astype(np.float32)


def _interpolate(values: Planes, start: tuple[int, int], shape: tuple[int, ...]) -> Planes:
    """Interpolate lattice values linearly to the pixels [h, w] from `start` on, which counts pixels from the first point."""
    for axis in (0, 1):
        place = np.arange(start[axis], start[axis] + shape[axis])
        point, part = np.divmod(place, LATTICE)
        share = (
            (part / LATTICE).astype(np.float32)[:, None] if axis == 0 else (part / LATTICE).astype(np.float32)
        )
        lower, upper = np.take(values, point, axis), np.take(values, point + 1, axis)
        values = lower * (1 - share) + upper * share
    return values
