"""Which nuclei does a picture of codes show, when it does not fit into memory?

The picture is that of `safron.io.masks.nucleus_code`, as a diffusion model paints it. Pixels of positive depth that hang together
above, below, left or right are a piece; a piece is one nucleus, or several that touch (see `safron.io.masks.nucleus_split`). A nucleus has
the type whose point lies nearest to the mean of its pixels. It may lie in several blocks, so the picture is read twice:

    first   basins of each block: their pixels, sums of codes, summits, passes, and labels along the rim
    then    basins that go on beyond a rim are joined, then those of one nucleus; each gets a number, in the order of its first pixel
    last    each block is painted: nuclei, and the pixels of valleys beside them (not the corner where three nuclei meet)

All sums are whole numbers and the order is that of the canvas, so the result is that of the whole picture, for blocks of any
size. In memory are a block for each thread, the rims, and some numbers for each nucleus.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .image_edges import join_parts
from .nucleus_code import Bytes
from .nucleus_split import MARGIN, Basins, find_basins, highest, join_basins

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Place = tuple[int, int]

MIDDLE = 128
"""Depths from here on are inside."""

ON_CIRCLE = 255**2 // 4
"""Squared distance from the middle, of twice the codes, above which a pixel has a type: half the circle's radius."""


@dataclass(frozen=True)
class View:
    """A block, and `MARGIN` pixels around it as far as there are some.

    Attributes
    ----------
    place
        First row and column of the block on the canvas.
    block
        Where the block lies in the arrays.
    picture
        uint8 [y, x, 3].
    glass
        bool [y, x]: where no nuclei are.
    regions
        uint8 [y, x]: labels of what nuclei lie in; None where they do not matter.
    """

    place: Place
    block: tuple[slice, slice]
    picture: Bytes
    glass: Flags
    regions: Bytes | None = None

    @classmethod
    def of(
        cls,
        rows: slice,
        cols: slice,
        shape: tuple[int, int],
        read: Callable[[slice, slice], tuple[Bytes, ...]],
    ) -> View:
        """Read a block of a canvas of this shape."""
        wide = [
            slice(max(0, part.start - MARGIN), min(side, part.stop + MARGIN))
            for part, side in zip((rows, cols), shape, strict=True)
        ]
        block = tuple(
            slice(part.start - more.start, part.stop - more.start)
            for part, more in zip((rows, cols), wide, strict=True)
        )
        return cls((rows.start, cols.start), block, *read(*wide))  # type: ignore[arg-type]

    def basins(self) -> Basins:
        """Find the basins of the block."""
        return find_basins((self.picture[..., 0] >= MIDDLE) & ~self.glass, self.block)


@dataclass(frozen=True)
class Parts:
    """Basins in a block.

    Attributes
    ----------
    sums
        int64 [parts, 4]: pixels, sums of both codes, and of the first pixel its place on the canvas (row times width, plus column)
        times 256, plus the label of its region.
    rims
        int32, labels of the parts from 1 along the block's first and last row, first and last column.
    ends, tops, passes
        See `Basins`; ends int64 [parts], as places on the canvas.
    beyond
        int64 [n, 3]: a part, the place of a pixel of another block, and the height of the pass there.
    """

    sums: Integers
    rims: tuple[npt.NDArray[np.int32], ...]
    ends: Integers
    tops: Integers
    passes: Integers
    beyond: Integers


@dataclass
class NucleusFinder:
    """Finds nuclei block by block, and paints them once all blocks are known.

    Attributes
    ----------
    codes
        Points of the types, see `nucleus_code.circle`.
    types
        Places in `codes` of the types that may be found.
    width
        Of the canvas in pixels.
    smallest
        Nuclei with fewer pixels are left out.
    allowed
        bool [256, codes]: which of the types may be in a region, by its label; a nucleus lies in the region of its first pixel, and is left
        out where none may be. None where all may be anywhere.
    parts
        By the first row and column of a block.
    first
        By the same: number of the parts of earlier blocks.
    number, kind
        Number of each part's nucleus, uint32, 0 if it is left out, and place of its type in `codes`, uint8.
    counts
        int64 [codes]: nuclei of each type.
    lines
        First rows, and first columns, of all blocks.
    """

    codes: Sequence[Sequence[float]]
    types: Sequence[int]
    width: int
    smallest: int = 1
    allowed: Flags | None = None
    parts: dict[Place, Parts] = field(default_factory=dict)
    first: dict[Place, int] = field(default_factory=dict)
    number: npt.NDArray[np.uint32] = field(init=False)
    kind: npt.NDArray[np.uint8] = field(init=False)
    counts: Integers = field(init=False)
    lines: tuple[list[int], list[int]] = field(init=False)

    def note(self, view: View) -> None:
        """Find the parts of a block."""
        basins, picture = view.basins(), view.picture[view.block]
        labels, count = basins.labels, len(basins.tops) + 1
        flat = labels.ravel()
        codes = (np.bincount(flat, picture[..., channel].ravel(), count) for channel in (1, 2))
        # Of places that are written twice the last one stays, which is the first pixel.
        first = np.zeros(count, np.int64)
        first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
        at = self._place(view, *np.divmod(first, labels.shape[1])) << 8
        if view.regions is not None:
            at += view.regions[view.block].ravel()[first]
        sums = np.stack([np.bincount(flat, minlength=count), *codes, at], axis=1).astype(np.int64)[1:]
        rims = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        part, row, col, height = basins.beyond.T
        self.parts[view.place] = Parts(
            sums,
            tuple(rim.copy() for rim in rims),
            self._place(view, *basins.ends.T),
            basins.tops,
            basins.passes,
            np.stack([part, self._place(view, row, col), height], axis=1),
        )

    def _place(self, view: View, row: Integers, col: Integers) -> Integers:
        """Place on the canvas of pixels of a block."""
        return (row + view.place[0]) * self.width + col + view.place[1]

    def settle(self) -> None:
        """Join parts over the rims and number the nuclei, once all blocks are noted."""
        places = sorted(self.parts)
        self.lines = sorted({y for y, _ in places}), sorted({x for _, x in places})
        sizes = [len(self.parts[place].sums) for place in places]
        self.first = dict(zip(places, np.cumsum([0, *sizes]).tolist(), strict=False))
        sums = np.concatenate([self.parts[place].sums for place in places])
        group = self._groups(places) if len(sums) else np.zeros(0, np.int64)
        whole = np.zeros((int(group.max(initial=-1)) + 1, 4), np.int64)
        whole[:, 3] = np.iinfo(np.int64).max
        np.add.at(whole[:, :3], group, sums[:, :3])
        np.minimum.at(whole[:, 3], group, sums[:, 3])
        kinds, kept = self._kinds(whole)
        kept &= whole[:, 0] >= self.smallest
        order = np.argsort(np.where(kept, whole[:, 3], np.iinfo(np.int64).max), kind="stable")
        numbers = np.zeros(len(whole), np.uint32)
        numbers[order[: int(kept.sum())]] = np.arange(1, int(kept.sum()) + 1)
        self.number, self.kind = numbers[group], kinds[group]
        self.counts = np.bincount(kinds[kept], minlength=len(self.codes)).astype(np.int64)

    def _groups(self, places: Sequence[Place]) -> Integers:
        """Nucleus of each part, int64 [parts], from 0."""

        def all_of(name: str) -> Integers:
            return np.concatenate([getattr(self.parts[place], name) for place in places])

        def counted(name: str, columns: int) -> Integers:
            """The same, with parts counted over all blocks."""
            counts = [
                getattr(self.parts[place], name) + self.first[place] * (np.arange(3) < columns)
                for place in places
            ]
            return np.concatenate(counts)

        tops, ends, beyond = all_of("tops"), all_of("ends"), counted("beyond", 1)
        pixels, parts = self._rim_pixels(places)
        on = np.flatnonzero(tops == 0)
        pairs = np.stack([on, parts[np.searchsorted(pixels, ends[on])]])
        root = join_parts(len(tops), pairs)
        # Basins in the order of their summits, which no block changes.
        summits = np.full(len(tops), -1, np.int64)
        np.maximum.at(summits, root, np.where(tops > 0, ends, -1))
        order, basin = np.unique(summits[root], return_inverse=True)
        heights = np.zeros(len(order), np.int64)
        np.maximum.at(heights, basin, tops)
        beyond[:, 1] = parts[np.searchsorted(pixels, beyond[:, 1])]
        passes = np.concatenate([counted("passes", 2), beyond])
        passes[:, :2] = basin[passes[:, :2]]
        passes = highest(passes[passes[:, 0] != passes[:, 1]])
        _, group = np.unique(join_basins(heights.tolist(), passes)[basin], return_inverse=True)
        return group.astype(np.int64)

    def _rim_pixels(self, places: Sequence[Place]) -> tuple[Integers, Integers]:
        """Places of all pixels of nuclei along the rims, in their order, and the part of each."""
        pixels, parts = [], []
        for y, x in places:
            rims = self.parts[y, x].rims
            below, right = y + len(rims[2]) - 1, x + len(rims[0]) - 1
            for rim, start, step in zip(
                rims,
                (y * self.width + x, below * self.width + x, y * self.width + x, y * self.width + right),
                (1, 1, self.width, self.width),
                strict=True,
            ):
                at = np.flatnonzero(rim)
                pixels.append(start + step * at)
                parts.append(rim[at].astype(np.int64) - 1 + self.first[y, x])
        order, first = np.unique(np.concatenate(pixels), return_index=True)
        return order, np.concatenate(parts)[first]

    def _neighbours(self, place: Place) -> list[tuple[Place, int, int, Any]]:
        """Blocks above, left, below and right, as far as there are some.

        Returns
        -------
        list of tuple
            Place of the other block, which of the own rims and which of its rims touch, and where its rim lies in the own
            block with a pixel around it.
        """
        (y, x), (rows, columns) = place, self.lines
        row, column = bisect_left(rows, y), bisect_left(columns, x)
        sides = (
            (row - 1, column, 0, 1, np.s_[0, 1:-1]),
            (row, column - 1, 2, 3, np.s_[1:-1, 0]),
            (row + 1, column, 1, 0, np.s_[-1, 1:-1]),
            (row, column + 1, 3, 2, np.s_[1:-1, -1]),
        )
        return [
            ((rows[at], columns[beside]), mine, theirs, where)
            for at, beside, mine, theirs, where in sides
            if 0 <= at < len(rows) and 0 <= beside < len(columns)
        ]

    def _kinds(self, whole: Integers) -> tuple[npt.NDArray[np.uint8], Flags]:
        """Type of each nucleus of which the sums are known, and whether there may be one."""
        mean = whole[:, 1:3] / np.maximum(whole[:, :1], 1) / 127.5 - 1
        points = np.asarray(self.codes, np.float64)[list(self.types)]
        far = np.stack([np.square(mean - point).sum(axis=1) for point in points], axis=1)
        if self.allowed is not None:
            far[~self.allowed[whole[:, 3] & 255][:, list(self.types)]] = np.inf
        kinds: npt.NDArray[np.uint8] = np.asarray(self.types, np.uint8)[far.argmin(axis=1)]
        return kinds, np.isfinite(far).any(axis=1)

    def paint(self, view: View) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Paint a block that was noted: 1 + place of the type, uint8, and numbers, uint32, both [y, x] and 0 outside nuclei."""
        labels, place = view.basins().labels, view.place
        picture, glass = view.picture[view.block], view.glass[view.block]
        around = np.zeros((labels.shape[0] + 2, labels.shape[1] + 2), np.int64)
        around[1:-1, 1:-1] = np.where(labels > 0, labels + self.first[place], 0)
        for other, _, theirs, where in self._neighbours(place):
            rim = self.parts[other].rims[theirs].astype(np.int64)
            around[where] = np.where(rim > 0, rim + self.first[other], 0)
        # Numbers of parts over the whole canvas, from 1; those of nuclei that are left out are 0.
        numbers = np.append(np.uint32(0), self.number)[around]
        parts = np.where(numbers > 0, around, 0)
        here = parts[1:-1, 1:-1].copy()
        valley = (around[1:-1, 1:-1] == 0) & ~glass
        valley &= (np.square(2 * picture[..., 1:].astype(np.int32) - 255)).sum(axis=2) > ON_CIRCLE
        for near in (parts[:-2, 1:-1], parts[1:-1, :-2], parts[1:-1, 2:], parts[2:, 1:-1]):
            here = np.where(valley & (here == 0), near, here)
        kinds = np.append(np.uint8(0), self.kind + np.uint8(1))[here]
        return kinds, np.append(np.uint32(0), self.number)[here]
