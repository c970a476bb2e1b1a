"""How large are the steps between neighbouring pixels, line by line of the patch grid?

A slide is read in square windows of whole grid cells (stride x stride pixels). Each line between two pixel columns, or
two pixel rows, of a cell gets the mean signed step of each channel and the mean absolute step across it. Everything in
`seam_scores` follows from these means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .drawn_pixels import Image
from .slide_grid import SlideGrid

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CELL = 16
"""Tissue is found in squares of this many pixels; a threshold on single pixels would choose pixels by their gradient."""
GLASS_MEAN = 230
"""A square whose mean over pixels and channels is at least this is glass (the SAFRON paper's rule)."""
REACH = 8
"""Lines on both sides of a boundary that tell how smooth the tissue is there."""
WINDOW = 1536
"""Side of a window, at least, in pixels."""
MOST_LINES = 1_000_000
"""Lines to keep along each axis: some 400 MB of memory, and at a stride of 236 about 200 million pixels."""
CLIP, LEAST_CLIP = 2.0, 4.0
"""Signed steps are clipped at this many times the window's median absolute step in tissue, so that few nuclei do not
outweigh the rest, but not below this many grey levels."""
LEAST_SHARE = 0.25
"""A line counts where at least this share of its pixels does."""


@dataclass(frozen=True, eq=False)
class Profiles:
    """Means over the lines of windows; axis 0 is 0 for steps down and 1 for steps across.

    Attributes
    ----------
    steps
        float32 [2, windows, cells, lines, 3], mean signed step in grey levels; NaN beyond the slide.
    sizes
        float32 [2, windows, cells, lines], mean absolute step in grey levels; NaN where there is too little
        tissue.
    origins
        Int [2, windows], slide coordinate of the first pixel of line 0, for its place in JPEG's blocks.
    margin
        Lines before the first pixel of the first cell.
    cells
        Grid cells of a window along each axis.
    tissue_share
        Share of the pixels that were read that are tissue.
    """

    steps: Floats
    sizes: Floats
    origins: npt.NDArray[np.int64]
    margin: int
    cells: int
    tissue_share: float

    def by_boundary(self, lines: Any, stride: int) -> Any:
        """Cut [2, windows, cells, lines] at boundaries: [2, windows, cells, boundaries, stride].

        The last axis is the distance from the step into a patch, the first own phase of the grid.
        """
        first = self.margin - 1
        part = lines[:, :, :, first : first + self.cells * stride]
        return part.reshape(*part.shape[:3], self.cells, stride)


def find_tissue(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Tell which pixels lie in a square of 16 x 16 pixels that is not glass.

    Parameters
    ----------
    image
        uint8 [y, x, 3], RGB; squares count from its corner.

    Returns
    -------
    npt.NDArray[np.bool_]
        bool [y, x].
    """
    height, width = image.shape[:2]
    pad = ((0, -height % CELL), (0, -width % CELL))
    total = (
        image[..., 0].astype(np.float32) + image[..., 1] + image[..., 2]
    )  # ten times faster than a mean of threes
    grey = np.pad(total / np.float32(3), pad, mode="edge")
    cells = (
        grey.reshape(grey.shape[0] // CELL, CELL, grey.shape[1] // CELL, CELL).mean(axis=(1, 3)) < GLASS_MEAN
    )
    return np.asarray(cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width], np.bool_)


def measure_profiles(slide: Image, grid: SlideGrid, *, most: int = MOST_LINES) -> Profiles:
    """Read a slide window by window, in a fixed random order, until `most` lines with tissue are known.

    Parameters
    ----------
    slide
        Any size.
    grid
        Where its patches lie.
    most
        Lines along each axis; beyond them the slide is not read.

    Returns
    -------
    Profiles
        Without windows where the slide has no tissue.
    """
    stride, margin = grid.stride, grid.overlap + max(REACH, grid.overlap // 2) + 4
    height, width = slide.shape
    # A slide that fits into one window gets one.
    cells = max(
        1, min(WINDOW // stride + 1, -(-(max(height + grid.y % stride, width + grid.x % stride)) // stride))
    )
    side = cells * stride
    corners = [
        (y, x)
        for y in range(-(grid.y % stride), height, side)
        for x in range(-(grid.x % stride), width, side)
    ]
    found: list[tuple[Floats, Floats]] = []
    origins: list[tuple[int, int]] = []
    pixels = tissues = 0
    for index in np.random.default_rng(0).permutation(len(corners)):
        y, x = corners[index]
        image, known, tissue = _read(slide, y - margin, x - margin, side + 2 * margin)
        pixels += _overlap(y, side, height) * _overlap(x, side, width)
        if not tissue.any():
            continue
        inner = slice(margin, margin + side)
        tissues += int(tissue[inner, inner].sum())
        across = _lines(image[inner], known[inner], tissue[inner], stride)
        # Sums along a transposed view take longer than a copy and its sums.
        turned = cv2.transpose(image[:, inner])
        down = _lines(np.asarray(turned), known[:, inner].T.copy(), tissue[:, inner].T.copy(), stride)
        found.append((np.stack([down[0], across[0]]), np.stack([down[1], across[1]])))
        origins.append((y - margin, x - margin))
        if len(found) * cells * (side + 2 * margin) >= most:
            break
    lines = side + 2 * margin - 1
    return Profiles(
        steps=np.stack([steps for steps, _ in found], 1)
        if found
        else np.empty((2, 0, cells, lines, 3), np.float32),
        sizes=np.stack([sizes for _, sizes in found], 1)
        if found
        else np.empty((2, 0, cells, lines), np.float32),
        origins=np.array(origins, np.int64).reshape(-1, 2).T,
        margin=margin,
        cells=cells,
        tissue_share=tissues / max(1, pixels),
    )


def _overlap(start: int, side: int, length: int) -> int:
    return max(0, min(start + side, length) - max(start, 0))


def _read(slide: Image, y: int, x: int, side: int) -> tuple[npt.NDArray[np.int16], Bools, Bools]:
    """Read a square that may reach beyond the slide; and which pixels lie on the slide, and on tissue."""
    top, left = max(y, 0), max(x, 0)
    part = slide.read(top, left, _overlap(y, side, slide.shape[0]), _overlap(x, side, slide.shape[1]))
    place = np.s_[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]]
    image = np.zeros((side, side, 3), np.int16)
    known, tissue = np.zeros((2, side, side), np.bool_)
    image[place], known[place], tissue[place] = part, True, find_tissue(part)
    return image, known, tissue


def _lines(image: npt.NDArray[np.int16], inside: Bools, tissue: Bools, stride: int) -> tuple[Floats, Floats]:
    """Mean steps from column to column, by rows of cells: signed [cells, lines, 3] and, in tissue, absolute [cells, lines]."""
    steps = np.diff(image, axis=1)
    absolute = np.abs(steps)
    sample = absolute[::5, ::3][(tissue[:, 1:] & tissue[:, :-1])[::5, ::3]]
    limit = max(LEAST_CLIP, CLIP * float(np.median(sample)) if sample.size else 0.0)
    clipped = np.clip(steps.astype(np.float32), -limit, limit)
    shape = (len(steps) // stride, stride, steps.shape[1])

    def means(values: Any, where: Bools) -> Any:
        both = where[:, 1:] & where[:, :-1]
        counts = both.reshape(shape).sum(axis=1, dtype=np.int64)
        # Not a product with both[..., None]: along an axis of three NumPy goes pixel by pixel.
        total = np.asarray(cv2.copyTo(values, both.view(np.uint8))).reshape(*shape, 3).sum(axis=1)
        total[counts < max(1, LEAST_SHARE * stride)] = np.nan
        return total / np.maximum(counts, 1)[..., None]

    return means(clipped, inside), means(np.asarray(absolute, np.float32), tissue).mean(axis=-1)
