"""Does the tissue lie where the mask says?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.masks.mask import LabelMask
from safron.io.slides.reader import Pixels

from .gradients import SlideGrid

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """Measurement 4.

    Attributes
    ----------
    shift : (dy, dx), pixels by which the image lies lower and further right than its mask; (0, 0) is right.
    explained, explained_at_zero : share of the colours' variance that the labels explain at that shift and at none.
    windows : how many places were looked at.
    """

    shift: tuple[int, int]
    explained: float
    explained_at_zero: float
    windows: int


@dataclass
class _ShiftSums:
    """Sums over windows, for every shift: colours under each label, and how many pixels."""

    colors: dict[int, Floats] = field(default_factory=dict)  # [3, shifts, shifts]
    counts: dict[int, Floats] = field(default_factory=dict)  # [shifts, shifts]
    squares: float = 0.0


def measure_alignment(
    slide: Pixels, mask: LabelMask, grid: SlideGrid, *, reach: int = 24, side: int = 256, most: int = 64
) -> Alignment | None:
    """Find the shift at which the labels explain most of the image's colours.

    Looks at squares that hold more than one label, from all over the slide. No colour is assumed for any label: the
    measure is the share of variance between labels.

    Parameters
    ----------
    slide : any size.
    mask : what it was rendered from, at the same scale.
    grid : says where on the mask the slide lies.
    reach : largest shift, pixels.
    side : of a square, pixels.
    most : squares to look at.

    Returns
    -------
    alignment : None where no square holds two labels.
    """
    sums, looked = _ShiftSums(), 0
    places = [
        (y, x)
        for y in range(reach, min(slide.shape[0], mask.shape[0] - grid.y) - side - reach + 1, side)
        for x in range(reach, min(slide.shape[1], mask.shape[1] - grid.x) - side - reach + 1, side)
    ]
    for index in np.random.default_rng(0).permutation(len(places))[: 16 * most]:
        y, x = places[index]
        top, left, around = y + grid.y - reach, x + grid.x - reach, side + 2 * reach
        labels = mask[top : top + around, left : left + around]
        values, counts = np.unique(labels[reach:-reach, reach:-reach], return_counts=True)
        if len(values) < 2 or np.sort(counts)[-2] < 0.05 * side * side:
            continue
        _add_window(sums, slide.read(y, x, side, side), labels)
        looked += 1
        if looked == most:
            break
    if not looked or not sums.squares:
        return None
    explained = _explained(sums)
    best = np.unravel_index(int(explained.argmax()), explained.shape)
    # Where labels are read further up, the image lies further down.
    shift = (reach - int(best[0]), reach - int(best[1]))
    return Alignment(shift, float(explained.max()), float(explained[reach, reach]), looked)


def _add_window(sums: _ShiftSums, image: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> None:
    """Correlate the colours of one window, less their mean, with each label's place at every shift."""
    colors = image.astype(np.float32)
    colors -= colors.mean(axis=(0, 1))
    sums.squares += float((colors.astype(np.float64) ** 2).sum())
    ones = np.ones(image.shape[:2], np.float32)
    for value in np.unique(labels):
        place = (labels == value).astype(np.float32)
        under = np.stack([cv2.matchTemplate(place, channel, cv2.TM_CCORR) for channel in cv2.split(colors)])
        count = cv2.matchTemplate(place, ones, cv2.TM_CCORR)
        sums.colors[int(value)] = sums.colors.get(int(value), 0.0) + under.astype(np.float64)
        sums.counts[int(value)] = sums.counts.get(int(value), 0.0) + np.rint(count.astype(np.float64))


def _explained(sums: _ShiftSums) -> Floats:
    """Share of variance between labels at each shift: [shifts, shifts]."""
    between: Any = 0.0
    for value, under in sums.colors.items():
        between = between + (under**2).sum(axis=0) / np.maximum(sums.counts[value], 1.0)
    return np.asarray(between / sums.squares)
