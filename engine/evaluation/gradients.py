"""Can the patches of a slide be seen, and does it lie where its mask does?

Four measurements that need no weights and no reference:

1. **Gradient by phase.** The mean step between neighbouring pixels, for each phase of the patch grid. A seam makes
   the steps at the grid's own phases larger (an edge) or smaller (a blur) than at others; z says by how many robust
   standard deviations, and the place of the largest anywhere shows what has another cause.
2. **Boundary ratio.** Steps at the grid's own phases over steps inside patches; and the same for the overlap,
   where averaging two textures that differ blurs them.
3. **Overlap mismatch.** What two neighbouring patches paint where they overlap, before it is averaged.
4. **Alignment.** The shift of the image at which the mask explains most of its colours.

::

    phase     ... s-2  s-1 | 0   1  ...  overlap-1 | overlap ...     s = tile - overlap
                        ^^^^^ a patch begins      ^^^^^ the patch before it ends
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.slides.reader import Pixels, windows

Floats = npt.NDArray[np.float64]

CELL = 16
"""Tissue is found in cells of this many pixels; a threshold on single pixels would choose pixels by their gradient."""
GLASS_MEAN = 230
"""A cell whose mean over pixels and channels is at least this is glass (the SAFRON paper's rule)."""
JPEG_PERIOD = 16
"""JPEG codes blocks of 8 pixels, 16 for colour. Their edges fall on a grid's own phases as often as its stride has it."""
NEIGHBOURS = 21
"""Phases whose median a phase is held against: what varies slowly over phases is no seam."""
LEAST_CLASS = 8
SEAM_Z = 6.0
"""A grid phase beyond this is a seam. Of 960 small noise images without one, with and without JPEG, one was (6.2)."""


@dataclass(frozen=True)
class SlideGrid:
    """Where the patches of a slide lie.

    Attributes
    ----------
    tile, overlap : pixels.
    y, x : canvas position of the slide's first pixel; patches start at multiples of the stride of the canvas.
    """

    tile: int
    overlap: int
    y: int = 0
    x: int = 0

    @property
    def stride(self) -> int:
        """Pixels from patch to patch."""
        return self.tile - self.overlap

    @property
    def own_phases(self) -> tuple[int, ...]:
        """Phases p whose step, from pixel p to pixel p + 1, leads into a patch or out of one.

        >>> SlideGrid(256, 20).own_phases, SlideGrid(256, 0).own_phases
        ((235, 19), (255,))
        """
        enters, leaves = self.stride - 1, (self.tile - 1) % self.stride
        return (enters,) if enters == leaves else (enters, leaves)

    @property
    def overlap_phases(self) -> tuple[int, ...]:
        """Phases of steps inside the overlap."""
        return tuple(range(min(self.overlap, self.stride) - 1)) if self.overlap else ()

    @property
    def inner(self) -> npt.NDArray[np.bool_]:
        """Which phases are neither: bool [stride]."""
        inner = np.ones(self.stride, bool)
        inner[[*self.own_phases, *self.overlap_phases]] = False
        return inner if inner.any() else ~inner


@dataclass
class PhaseProfile:
    """Sum and number of steps over tissue along one axis, by phase of the grid and place in JPEG's blocks.

    Both are [stride, 16].
    """

    sums: Floats
    counts: Floats

    @classmethod
    def empty(cls, stride: int) -> PhaseProfile:
        """Nothing measured yet."""
        return cls(np.zeros((stride, JPEG_PERIOD)), np.zeros((stride, JPEG_PERIOD)))

    def mean(self, inner: npt.NDArray[np.bool_]) -> Floats:
        """Mean absolute step by phase, in grey levels: [stride]; NaN where there was no tissue.

        Each step is first held against what is usual at its place in JPEG's blocks, the median over the phases
        `inner`, bool [stride]: else phases that meet more block edges than others would look like seams.
        """
        number = self.counts.sum(axis=1)
        known = self.counts > 0
        steps = np.where(known, self.sums / np.maximum(self.counts, 1.0), 0.0)
        usual = np.array([_median(steps[inner & known[:, place], place]) for place in range(JPEG_PERIOD)])
        level = _median(steps[inner[:, None] & known])
        excess = (self.sums - self.counts * usual).sum(axis=1)
        return np.where(number, level + excess / np.maximum(number, 1.0), np.nan)


def _median(values: Floats) -> float:
    return float(np.median(values)) if len(values) else 0.0


@dataclass(frozen=True)
class AxisScore:
    """What one axis of a profile says.

    Attributes
    ----------
    z : score of the own phase that stands out most; negative where steps are smaller than elsewhere.
    phase : that phase.
    largest, largest_phase : the score that stands out most at any phase, and where.
    """

    z: float
    phase: int
    largest: float
    largest_phase: int


@dataclass(frozen=True)
class GradientScores:
    """Measurements 1 and 2.

    Attributes
    ----------
    rows, columns : scores of steps down and across.
    boundary_ratio : steps at own phases over those inside patches; 1 where there is no seam.
    overlap_ratio : steps inside the overlap over those inside patches; below 1 where averaging blurs. None
        without overlap.
    tissue_share : share of pixels that were looked at.
    """

    rows: AxisScore
    columns: AxisScore
    boundary_ratio: float
    overlap_ratio: float | None
    tissue_share: float

    @property
    def z(self) -> float:
        """The score of both axes that stands out most."""
        return max(self.rows.z, self.columns.z, key=abs)


def measure_gradients(slide: Pixels, grid: SlideGrid) -> tuple[PhaseProfile, PhaseProfile]:
    """Stream a slide once: profiles of steps down and across.

    Parameters
    ----------
    slide : any size; read in windows, each pixel about once.
    grid : where its patches lie.

    Returns
    -------
    down, across : of the steps from row to row, and from column to column; a step counts where tissue lies on both
        sides of it.
    """
    down, across = PhaseProfile.empty(grid.stride), PhaseProfile.empty(grid.stride)
    height, width = slide.shape
    for y, x, rows, cols in windows(slide.shape):
        # One more row and column, for the step over the window's edge; a whole cell more, for its tissue.
        image = slide.read(y, x, min(rows + CELL, height - y), min(cols + CELL, width - x))
        tissue = find_tissue(image)[: rows + 1, : cols + 1]
        image = image[: rows + 1, : cols + 1]
        _add_steps(down, image[:, :cols], tissue[:, :cols], (y, grid.y), rows)
        turned = np.ascontiguousarray(image[:rows].swapaxes(0, 1))
        _add_steps(across, turned, np.ascontiguousarray(tissue[:rows].T), (x, grid.x), cols)
    return down, across


def find_tissue(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Tell which pixels lie in a cell that is not glass.

    Parameters
    ----------
    image : uint8 [y, x, 3], RGB; cells count from its corner.

    Returns
    -------
    tissue : bool [y, x]
    """
    height, width = image.shape[:2]
    pad = ((0, -height % CELL), (0, -width % CELL))
    grey = np.pad(image.mean(axis=2, dtype=np.float32), pad, mode="edge")
    cells = (
        grey.reshape(grey.shape[0] // CELL, CELL, grey.shape[1] // CELL, CELL).mean(axis=(1, 3)) < GLASS_MEAN
    )
    return np.asarray(cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width], np.bool_)


def _add_steps(
    profile: PhaseProfile,
    image: npt.NDArray[np.uint8],
    tissue: npt.NDArray[np.bool_],
    place: tuple[int, int],
    count: int,
) -> None:
    """Add the steps from row to row, of which `count` start here.

    `place` is the slide row of the first row, and the canvas row of the slide's first.
    """
    count = min(count, len(image) - 1)
    if count < 1:
        return
    counted = tissue[:count] & tissue[1 : count + 1]
    steps = cv2.absdiff(image[:count], image[1 : count + 1]).astype(np.float32).sum(axis=2) / 3.0
    rows = place[0] + np.arange(count)
    where = (rows + place[1]) % len(profile.sums), rows % JPEG_PERIOD
    np.add.at(profile.sums, where, np.where(counted, steps, 0).sum(axis=1, dtype=np.float64))
    np.add.at(profile.counts, where, counted.sum(axis=1, dtype=np.float64))


def score_gradients(
    profiles: tuple[PhaseProfile, PhaseProfile], grid: SlideGrid, pixels: int
) -> GradientScores:
    """Turn profiles into scores.

    Parameters
    ----------
    profiles : of steps down and across, as `measure_gradients` gives them.
    grid : the one that they were taken by.
    pixels : of the slide, tissue and glass.

    Raises
    ------
    BadInput
        There is no tissue at the grid's own phases.
    """
    axes = []
    means = [profile.mean(grid.inner) for profile in profiles]
    for mean in means:
        scores = phase_scores(mean)
        own = [phase for phase in grid.own_phases if np.isfinite(scores[phase])]
        if not own:
            raise BadInput("no tissue where patches meet; the slide is empty there or smaller than a patch")
        phase = max(own, key=lambda place: abs(scores[place]))
        anywhere = int(np.nanargmax(np.abs(scores)))
        axes.append(AxisScore(float(scores[phase]), phase, float(scores[anywhere]), anywhere))
    relative = np.stack([mean / max(float(np.nanmean(mean[grid.inner])), 1e-9) for mean in means])
    overlap = list(grid.overlap_phases)
    return GradientScores(
        rows=axes[0],
        columns=axes[1],
        boundary_ratio=float(np.nanmean(relative[:, list(grid.own_phases)])),
        overlap_ratio=float(np.nanmean(relative[:, overlap])) if overlap else None,
        tissue_share=float(profiles[0].counts.sum() / max(1, pixels)),
    )


def phase_scores(mean: Floats) -> Floats:
    """How many robust standard deviations each phase's mean step lies off its neighbours'.

    Parameters
    ----------
    mean : float64 [stride], grey levels; NaN where there was no tissue.

    Returns
    -------
    scores : float64 [stride]; NaN where `mean` is.

    Notes
    -----
    A phase is held against the median of those around it, on the circle. The residuals' scale is 1.4826 times their
    median absolute value: of all phases, or of those that lie alike in JPEG's blocks where that is larger, since
    steps over a block's edge vary more.
    """
    reach = min(NEIGHBOURS, len(mean)) // 2
    around = np.stack([np.roll(mean, shift) for shift in range(-reach, reach + 1)])
    empty = np.isnan(around).all(axis=0)
    residual = mean - np.where(empty, np.nan, np.nanmedian(np.where(empty, 0.0, around), axis=0))
    scores = np.full(len(mean), np.nan)
    classes = _phase_classes(len(mean))
    for first in range(classes):
        alike = residual[first::classes]
        scores[first::classes] = alike / max(_spread(residual), _spread(alike), 1e-3)
    return scores


def _phase_classes(stride: int) -> int:
    """How many classes of phases JPEG's blocks make that have members enough to judge their spread by."""
    classes = math.gcd(stride, JPEG_PERIOD)
    while classes > 1 and stride // classes < LEAST_CLASS:
        classes //= 2
    return classes


def _spread(residual: Floats) -> float:
    """Robust standard deviation of residuals, NaNs left out."""
    return 1.4826 * _median(np.abs(residual[np.isfinite(residual)]))


def grid_of(slide: Pixels, *, tile: int | None, overlap: int | None, cards: Sequence[Card] = ()) -> SlideGrid:
    """Take the grid from the options, else from what the slide says of itself.

    Parameters
    ----------
    slide : the facts in its description are those of its render.
    tile, overlap : pixels; None where they were not given.
    cards : of its generator, whose tile is taken where nobody says another; empty where none is known.

    Raises
    ------
    BadInput
        Neither says it, or the two numbers make no grid.
    """
    known = [slide.facts.get("Patch tile"), slide.facts.get("Patch overlap")]
    given = [tile, overlap]
    numbers = [
        int(fact) if mine is None and fact and fact.isdecimal() else mine
        for mine, fact in zip(given, known, strict=True)
    ]
    if numbers[0] is None and cards:
        numbers[0] = cards[0].tile
    if numbers[0] is None or numbers[1] is None:
        raise BadInput(
            f"{slide.path}: does not say how large its patches are and how far they overlap; give --tile and --overlap"
        )
    if not 0 <= numbers[1] < numbers[0]:
        raise BadInput(
            f"--tile {numbers[0]} --overlap {numbers[1]}: the overlap must be at least 0 and below the tile"
        )
    place = slide.facts.get("Mask region XYWH", "0 0").split()
    y, x = (
        (int(place[1]), int(place[0]))
        if len(place) >= 2 and all(p.isdecimal() for p in place[:2])
        else (0, 0)
    )
    return SlideGrid(numbers[0], numbers[1], y, x)
