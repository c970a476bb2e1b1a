"""Which pieces of a mask must be read, where most of it may not be stored?

A Zarr of 500 bytes may declare 2^62 pixels. All that is not stored has one value, so that work is bounded by what is stored::

    declared   . . . . . . .       read   . . . . . . .
               . # # . . . .              . a a b . . .      pieces on a grid of their own, each once, row by row
               . . # . . . .              . a a b . . .
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product

from safron.io.errors import BadInput

from .array_plane import ArrayPlane
from .mask import LabelMask
from .plane import Plane
from .relabel import RelabelledPlane

MOST_PIECES = 1 << 22
"""Pieces that are read of one mask: of 1024 x 1024 pixels, 4.4 million megapixels."""

Region = tuple[slice, slice]


@dataclass(frozen=True)
class Pieces:
    """Pieces of a mask, and a place beside them.

    Attributes
    ----------
    regions
        Slices (y, x) of the pieces, row by row.
    pixels
        How many they hold together.
    beside
        One pixel of those that lie in no piece, and that have all the same value; None where there are none.
    """

    regions: Iterable[Region]
    pixels: int
    beside: Region | None


def pieces_of(
    mask: LabelMask,
    side: tuple[int, int],
    *,
    remedy: str,
    needless: Callable[[Region], bool] = lambda pixel: True,
) -> Pieces:
    """Cut a mask into pieces on a grid, and leave out those of which nothing is stored.

    Parameters
    ----------
    mask
        Of any declared size.
    side
        Height and width of a piece, in pixels.
    remedy
        What the user should do if there are too many.
    needless
        Whether pieces need not be read that hold only the value of this pixel.

    Raises
    ------
    BadInput
        More than `MOST_PIECES` would be read.
    """
    counts = tuple(-(-length // step) for length, step in zip(mask.shape, side, strict=True))
    stored = _stored(mask.plane)
    if stored is None:
        return _all_pieces(mask, side, math.prod(counts), remedy)
    places: set[int] = set()
    for region in stored:
        rows, cols = (
            range(part.start // step, -(-part.stop // step)) for part, step in zip(region, side, strict=True)
        )
        _check_count(mask, len(rows) * len(cols) + len(places), remedy)
        places.update(row * counts[1] + col for row, col in product(rows, cols))
    free = next(place for place in range(len(places) + 1) if place not in places)
    if len(places) < math.prod(counts):
        y, x = (part.start for part in _region(*divmod(free, counts[1]), mask.shape, side))
        beside = slice(y, y + 1), slice(x, x + 1)
        if needless(beside):
            regions = [_region(*divmod(place, counts[1]), mask.shape, side) for place in sorted(places)]
            pixels = sum((rows.stop - rows.start) * (cols.stop - cols.start) for rows, cols in regions)
            return Pieces(regions, pixels, beside)
    return _all_pieces(mask, side, math.prod(counts), remedy)


def _all_pieces(mask: LabelMask, side: tuple[int, int], count: int, remedy: str) -> Pieces:
    _check_count(mask, count, remedy)
    return Pieces(_Regions(mask.shape, side), math.prod(mask.shape), None)


def _check_count(mask: LabelMask, count: int, remedy: str) -> None:
    """Raise `BadInput` if more pieces would be read than can be."""
    if count > MOST_PIECES:
        height, width = mask.shape
        raise BadInput(
            f"mask {mask.source}: it declares {width} x {height} pixels (width x height), and {count} pieces of it would be "
            f"read, more than {MOST_PIECES}; {remedy}"
        )


@dataclass(frozen=True)
class _Regions:
    """All pieces, made anew whenever they are gone through: a list of a large canvas takes memory."""

    shape: tuple[int, int]
    side: tuple[int, int]

    def __iter__(self) -> Iterator[Region]:
        rows, cols = (range(-(-length // step)) for length, step in zip(self.shape, self.side, strict=True))
        return (_region(row, col, self.shape, self.side) for row in rows for col in cols)


def _region(row: int, col: int, shape: tuple[int, int], side: tuple[int, int]) -> Region:
    y, x = row * side[0], col * side[1]
    return slice(y, min(y + side[0], shape[0])), slice(x, min(x + side[1], shape[1]))


def _stored(plane: Plane) -> Iterator[Region] | None:
    """Regions of what is stored; None where the storage does not say."""
    while isinstance(plane, RelabelledPlane):
        plane = plane.plane
    return plane.stored() if isinstance(plane, ArrayPlane) else None
