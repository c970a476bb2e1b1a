"""Which nuclei does a picture of codes show, when it does not fit into memory?

The picture is that of `safron.io.masks.nucleus_code`, as a diffusion model paints it. Pixels of positive depth that hang together
above, below, left or right are one nucleus; its type is the one whose point lies nearest to the mean of its pixels. A
nucleus may lie in several blocks, so the picture is read twice:

    first   parts of nuclei are found in each block: their pixels, sums of codes, and labels along the rim
    then    parts that touch over a rim are joined; each nucleus gets a number, in the order of its first pixel
    last    each block is painted: parts, and the pixels of valleys beside them (not the corner where three nuclei meet)

All sums are whole numbers and the order is that of the canvas, so the result is that of the whole picture, for blocks of any
size. In memory are a block for each thread, the rims, and some numbers for each nucleus.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .image_edges import join_parts
from .nucleus_code import Bytes

Integers = npt.NDArray[np.int64]
Place = tuple[int, int]

MIDDLE = 128
"""Depths from here on are inside."""

ON_CIRCLE = 255**2 // 4
"""Squared distance from the middle, of twice the codes, above which a pixel has a type: half the circle's radius."""


@dataclass(frozen=True)
class Parts:
    """Parts of nuclei in a block.

    Attributes
    ----------
    sums
        int64 [parts, 4]: pixels, sums of both codes, and the place of the first pixel on the canvas (row times width, plus column).
    rims
        int32, labels of the parts from 1 along the block's first and last row, first and last column.
    """

    sums: Integers
    rims: tuple[npt.NDArray[np.int32], ...]


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
    parts: dict[Place, Parts] = field(default_factory=dict)
    first: dict[Place, int] = field(default_factory=dict)
    number: npt.NDArray[np.uint32] = field(init=False)
    kind: npt.NDArray[np.uint8] = field(init=False)
    counts: Integers = field(init=False)
    lines: tuple[list[int], list[int]] = field(init=False)

    def note(self, place: Place, picture: Bytes, glass: npt.NDArray[np.bool_]) -> None:
        """Find the parts of a block; `picture` uint8 [y, x, 3]; nothing is found where `glass` [y, x]."""
        count, labels = _label(picture, glass)
        flat = labels.ravel()
        codes = (np.bincount(flat, picture[..., channel].ravel(), count) for channel in (1, 2))
        # Of places that are written twice the last one stays, which is the first pixel.
        first = np.zeros(count, np.int64)
        first[flat[::-1]] = np.arange(flat.size - 1, -1, -1)
        y, x = np.divmod(first, labels.shape[1])
        at = (y + place[0]) * self.width + x + place[1]
        sums = np.stack([np.bincount(flat, minlength=count), *codes, at], axis=1).astype(np.int64)[1:]
        rims = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        self.parts[place] = Parts(sums, tuple(rim.copy() for rim in rims))

    def settle(self) -> None:
        """Join parts over the rims and number the nuclei, once all blocks are noted."""
        places = sorted(self.parts)
        self.lines = sorted({y for y, _ in places}), sorted({x for _, x in places})
        sizes = [len(self.parts[place].sums) for place in places]
        self.first = dict(zip(places, np.cumsum([0, *sizes]).tolist(), strict=False))
        total = sum(sizes)
        root = join_parts(total, self._pairs(places)) if total else np.zeros(0, np.int64)
        sums = np.concatenate([self.parts[place].sums for place in places])
        _, group = np.unique(root, return_inverse=True)
        whole = np.zeros((int(group.max(initial=-1)) + 1, 4), np.int64)
        whole[:, 3] = np.iinfo(np.int64).max
        np.add.at(whole[:, :3], group, sums[:, :3])
        np.minimum.at(whole[:, 3], group, sums[:, 3])
        kinds = self._kinds(whole)
        kept = whole[:, 0] >= self.smallest
        order = np.argsort(np.where(kept, whole[:, 3], np.iinfo(np.int64).max), kind="stable")
        numbers = np.zeros(len(whole), np.uint32)
        numbers[order[: int(kept.sum())]] = np.arange(1, int(kept.sum()) + 1)
        self.number, self.kind = numbers[group], kinds[group]
        self.counts = np.bincount(kinds[kept], minlength=len(self.codes)).astype(np.int64)

    def _pairs(self, places: Sequence[Place]) -> Integers:
        """Parts that touch over a rim, int64 [2, pairs]."""
        found = [np.zeros((2, 0), np.int64)]
        for place in places:
            for other, mine, theirs, _ in self._neighbours(place):
                one, two = self.parts[place].rims[mine], self.parts[other].rims[theirs]
                met = (one > 0) & (two > 0)
                pair = np.stack([one[met] - 1 + self.first[place], two[met] - 1 + self.first[other]])
                found.append(pair.astype(np.int64))
        return np.unique(np.concatenate(found, axis=1), axis=1)

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

    def _kinds(self, whole: Integers) -> npt.NDArray[np.uint8]:
        """Type of each nucleus of which the sums are known."""
        mean = whole[:, 1:3] / np.maximum(whole[:, :1], 1) / 127.5 - 1
        points = np.asarray(self.codes, np.float64)[list(self.types)]
        far = np.stack([np.square(mean - point).sum(axis=1) for point in points], axis=1)
        kinds: npt.NDArray[np.uint8] = np.asarray(self.types, np.uint8)[far.argmin(axis=1)]
        return kinds

    def paint(
        self, place: Place, picture: Bytes, glass: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
        """Paint a block that was noted: 1 + place of the type, uint8, and numbers, uint32, both [y, x] and 0 outside nuclei."""
        _, labels = _label(picture, glass)
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


def _label(picture: Bytes, glass: npt.NDArray[np.bool_]) -> tuple[int, npt.NDArray[np.int32]]:
    """Parts of a block: their number and 1, and labels int32 [y, x] from 1."""
    inside = ((picture[..., 0] >= MIDDLE) & ~glass).astype(np.uint8)
    count, labels = cv2.connectedComponents(inside, connectivity=4)
    return count, np.asarray(labels, np.int32)
