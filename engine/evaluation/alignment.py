"""Does the tissue lie where the mask says?

The image is compared with the mask at every shift, first of the whole slide at a low resolution, then of squares at full
resolution around the best shift. No colour is assumed for any label: a shift is good where the labels explain much of
the variance of the colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask
from safron.io.slides.reader import Pixels, windows

from .slide_grid import SlideGrid, mask_region

Floats = npt.NDArray[np.float64]

COARSE = 384
"""Pixels of the longer side in the first search."""
COMPARED = 0.4
"""Share of the slide that a shift compares, at least. Farther ones may wrap around."""
REACH = 24
"""Pixels around the best coarse shift, and around no shift, that are searched at full resolution, at least."""
SIDE, LEAST_SIDE = 256, 48
"""Pixels a side of a square, and of the smallest that is worth looking at; a sixth of the slide between the two."""
MOST = 64
"""Squares to look at."""
SURE, LEAST_SQUARES = 0.7, 4
"""Share of the squares that must agree with the common shift, and how many squares there must be."""
BEST_OF_SQUARE = 0.1
"""A square agrees where the common shift is among this share of its own best ones."""
NEAR_ZERO_T = 3.0
"""Paired t over squares by which another shift must beat no shift."""


@dataclass(frozen=True)
class Alignment:
    """Where the image lies on its mask.

    Attributes
    ----------
    shift
        (dy, dx), pixels by which the image lies lower and further right than its mask; (0, 0) is right.
    explained, explained_at_zero
        Share of the colours' variance that the labels explain at that shift and at none, 0 to 1.
    agreement
        Share of the squares, 0 to 1, in which the shift is among the best tenth of all shifts.
    at_edge
        Whether the shift lies at the edge of the search, so that the true one may lie beyond.
    windows
        Squares that were compared.
    """

    shift: tuple[int, int]
    explained: float
    explained_at_zero: float
    agreement: float
    at_edge: bool
    windows: int

    @property
    def sure(self) -> bool:
        """Whether this is the shift; otherwise the mask may be of another slide, or too few squares could be compared."""
        return self.agreement >= SURE and self.windows >= LEAST_SQUARES and not self.at_edge


def check_size(slide: Pixels, mask: LabelMask, *, part: bool = False) -> None:
    """Refuse a mask of another size than the slide was rendered from.

    Parameters
    ----------
    slide, mask
        The two.
    part
        The slide may show only the upper left part of the mask.

    Raises
    ------
    BadInput
        The mask has another size than the slide's description says, or than the slide where it says nothing.
    """
    height, width = mask.shape
    region = mask_region(slide)
    y, x, rows, columns = region or (0, 0, *slide.shape)
    inside = y + rows <= height and x + columns <= width
    if inside and (part or y or x or (rows, columns) == (height, width)):
        return
    shows = (
        f"shows {columns} x {rows} pixels of a mask from {x},{y} on"
        if region
        else f"is {columns} x {rows} pixels"
    )
    advice = (
        "; for a slide of its upper left part, give --part"
        if inside
        else "; give the mask it was rendered from"
    )
    raise BadInput(f"--mask {mask.source}: the slide {shows}, this mask is {width} x {height}{advice}")


def measure_alignment(slide: Pixels, mask: LabelMask, grid: SlideGrid) -> Alignment | None:
    """Find the shift at which the labels explain most of the colours.

    Parameters
    ----------
    slide
        Any size.
    mask
        The labels it was rendered from, at the same scale.
    grid
        Says where on the mask the slide lies.

    Returns
    -------
    Alignment | None
        None where no square holds two labels.
    """
    shape = min(slide.shape[0], mask.shape[0] - grid.y), min(slide.shape[1], mask.shape[1] - grid.x)
    coarse, factor = _coarse_shift(slide, mask, grid, shape)
    reach = min(max(REACH, math.ceil(1.5 * factor)), min(shape) // 4)
    centres = [(0, 0)]
    if max(map(abs, coarse)) > reach // 2:
        centres.append(coarse)
    found = [_search(slide, mask, grid, shape, centre, reach) for centre in centres]
    best = max((item for item in found if item is not None), key=lambda item: item.explained, default=None)
    if best is None or found[0] is None or best is found[0]:
        return best
    return Alignment(
        best.shift, best.explained, found[0].explained_at_zero, best.agreement, best.at_edge, best.windows
    )


def _coarse_shift(
    slide: Pixels, mask: LabelMask, grid: SlideGrid, shape: tuple[int, int]
) -> tuple[tuple[int, int], int]:
    """Best shift of the whole slide, up to half its sides, in pixels; and the pixels along a coarse one."""
    factor = max(1, -(-max(shape) // COARSE))
    height, width = (max(1, side // factor) for side in shape)
    image = np.zeros((height, width, 3))
    shares: dict[int, Floats] = {}
    step = max(1, 1024 // factor) * factor
    for y, x, rows, cols in windows((height * factor, width * factor), height=step, width=step):
        place = np.s_[y // factor : (y + rows) // factor, x // factor : (x + cols) // factor]
        size = cols // factor, rows // factor
        image[place] = cv2.resize(slide.read(y, x, rows, cols), size, interpolation=cv2.INTER_AREA)
        labels = mask[y + grid.y : y + grid.y + rows, x + grid.x : x + grid.x + cols]
        for value in np.unique(labels):
            share = (labels == value).astype(np.float32)
            shares.setdefault(int(value), np.zeros((height, width)))[place] = cv2.resize(
                share, size, interpolation=cv2.INTER_AREA
            )
    image -= image.mean(axis=(0, 1))
    pad = [cv2.getOptimalDFTSize(math.ceil((2 - COMPARED) * side)) for side in (height, width)]
    down, right = (
        np.maximum(side - np.minimum(np.arange(size), size - np.arange(size)), 0)
        for side, size in zip((height, width), pad, strict=True)
    )
    count = np.outer(down, right)

    def correlate(first: Any, second: Any) -> Any:
        return np.fft.irfft2(first * np.conj(second), pad)

    spectra = np.fft.rfft2(np.moveaxis(image, -1, 0), pad)
    ones = np.fft.rfft2(np.ones((height, width)), pad)
    squares = np.fft.rfft2((image**2).sum(axis=2), pad)
    colors = correlate(spectra, ones)
    common = (colors**2).sum(axis=0) / np.maximum(count, 1)
    between: Any = 0.0
    rest: tuple[Floats, Floats] = count.astype(np.float64), colors
    for share in [*shares.values()][:-1]:
        spectrum = np.fft.rfft2(share, pad)
        number, sums = correlate(ones, spectrum), correlate(spectra, spectrum)
        between = between + _squared_means(number, sums)
        rest = rest[0] - number, rest[1] - sums
    between = between + _squared_means(*rest)  # of the last label, which lies where no other does
    explained = (between - common) / np.maximum(correlate(squares, ones) - common, 1e-6)
    explained[count < COMPARED * height * width] = -1.0
    best = np.unravel_index(int(explained.argmax()), explained.shape)
    dy, dx = (int(at) - side if at > side // 2 else int(at) for at, side in zip(best, pad, strict=True))
    return (dy * factor, dx * factor), factor


def _squared_means(number: Floats, sums: Floats) -> Floats:
    """Squared sums over their numbers, all channels together, [y, x]; `sums` is [channels, y, x]."""
    return np.where(number > 1, (sums**2).sum(axis=0) / np.maximum(number, 1), 0.0)


def _search(
    slide: Pixels,
    mask: LabelMask,
    grid: SlideGrid,
    shape: tuple[int, int],
    centre: tuple[int, int],
    reach: int,
) -> Alignment | None:
    """Compare squares at all shifts up to `reach` from `centre`."""
    room = tuple(length - 2 * reach - abs(shift) for length, shift in zip(shape, centre, strict=True))
    side = min(SIDE, max(LEAST_SIDE, min(shape) // 6), *room)
    if side < LEAST_SIDE:
        return None
    first = [reach + max(0, shift) for shift in centre]
    places = [
        (y, x)
        for y in range(first[0], first[0] + room[0] - side + 1, side)
        for x in range(first[1], first[1] + room[1] - side + 1, side)
    ]
    between: list[Floats] = []
    variance: list[float] = []
    for index in np.random.default_rng(0).permutation(len(places))[: 16 * MOST]:
        y, x = places[index]
        # An image that lies further down has its labels further up.
        top, left = y - centre[0] + grid.y - reach, x - centre[1] + grid.x - reach
        labels = mask[top : top + side + 2 * reach, left : left + side + 2 * reach]
        counts = np.unique(labels[reach:-reach, reach:-reach], return_counts=True)[1]
        if len(counts) < 2 or np.sort(counts)[-2] < 0.05 * side * side:
            continue
        colors = slide.read(y, x, side, side).astype(np.float32)
        colors -= colors.mean(axis=(0, 1))
        if not colors.any():
            continue
        between.append(_between(colors, labels))
        variance.append(float((colors.astype(np.float64) ** 2).sum()))
        if len(between) == MOST:
            break
    if not between:
        return None
    each = np.stack(between)[:, ::-1, ::-1]  # now shift by shift of the image
    explained = each.sum(axis=0) / sum(variance)
    best = tuple(int(at) for at in np.unravel_index(int(explained.argmax()), explained.shape))
    if centre == (0, 0) and best != (reach, reach):
        gain = (each[:, best[0], best[1]] - each[:, reach, reach]) / np.array(variance)
        if len(gain) > 1 and gain.mean() < NEAR_ZERO_T * gain.std(ddof=1) / math.sqrt(len(gain)):
            best = (reach, reach)
    better = (each > each[:, best[0], best[1], None, None]).mean(axis=(1, 2))
    return Alignment(
        shift=(best[0] - reach + centre[0], best[1] - reach + centre[1]),
        explained=float(explained[best]),
        explained_at_zero=float(explained[reach, reach]),
        agreement=float((better <= BEST_OF_SQUARE).mean()),
        at_edge=any(at in (0, 2 * reach) for at in best),
        windows=len(each),
    )


def _between(colors: npt.NDArray[np.float32], labels: npt.NDArray[np.uint8]) -> Floats:
    """Variance of centred colours that the labels explain, times pixels, for every place of the colours on the labels."""
    between: Any = 0.0
    ones = np.ones(colors.shape[:2], np.float32)
    for value in np.unique(labels):
        place = (labels == value).astype(np.float32)
        under = [cv2.matchTemplate(place, channel, cv2.TM_CCORR) for channel in cv2.split(colors)]
        count = np.rint(cv2.matchTemplate(place, ones, cv2.TM_CCORR).astype(np.float64))
        between = between + (np.stack(under).astype(np.float64) ** 2).sum(axis=0) / np.maximum(count, 1.0)
    return np.asarray(between)
