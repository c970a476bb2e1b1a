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
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.generator.card import Card
from safron.engine.generator.inputs import read_labels
from safron.engine.generator.model import PatchModel
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.grid import PatchGrid, PatchJob
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask
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


@dataclass(frozen=True)
class Mismatch:
    """Measurement 3, over all pixels and channels of the overlaps that were drawn.

    Attributes
    ----------
    mean, largest : absolute difference in grey levels.
    relative : mean over the standard deviation of the patches.
    pairs : how many pairs of neighbours.
    """

    mean: float
    largest: float
    relative: float
    pairs: int


def measure_mismatch(
    model: PatchModel, mask: LabelMask, *, tile: int, overlap: int, seed: int = 0, pairs: int = 32
) -> Mismatch | None:
    """Draw neighbouring patches of the mask and compare them where they overlap, before blending.

    Patches are taken from all over the grid, by a fixed random choice; those that are all glass are left out.

    Parameters
    ----------
    model : the generator.
    mask : what it draws on.
    tile, overlap : pixels.
    seed : of the noise.
    pairs : neighbours to compare, at least, where the mask has as many.

    Returns
    -------
    mismatch : None where the grid has no overlap or no neighbours.
    """
    grid = PatchGrid(*mask.shape, tile, overlap, model.card.context)
    if not overlap or overlap >= grid.rows.stride:
        return None
    differences: list[npt.NDArray[np.float32]] = []
    spreads: list[float] = []
    rows, columns = grid.shape
    rng = np.random.default_rng(0)
    for place in rng.permutation(rows * columns)[: 8 * pairs]:
        row, column = divmod(int(place), columns)
        here = _draw(model, mask, grid[row, column], seed)
        if here is None:
            continue
        for dy, dx in ((0, 1), (1, 0)):
            if row + dy >= rows or column + dx >= columns:
                continue
            there = _draw(model, mask, grid[row + dy, column + dx], seed)
            if there is None:
                continue
            step = tile - overlap
            mine, theirs = here[dy * step :, dx * step :], there[: tile - dy * step, : tile - dx * step]
            differences.append(np.abs(mine - theirs))
            spreads.append(float(here.std()))
        if len(differences) >= pairs:
            break
    if not differences:
        return None
    mean = float(np.mean([part.mean() for part in differences]))
    spread = max(float(np.mean(spreads)), 1e-9)
    return Mismatch(mean, float(max(part.max() for part in differences)), mean / spread, len(differences))


def _draw(model: PatchModel, mask: LabelMask, job: PatchJob, seed: int) -> npt.NDArray[np.float32] | None:
    """One patch before blending, float32 [tile, tile, 3]; None where it is painted as glass."""
    card = model.card
    labels = read_labels(mask, job.read, outside=card.outside)
    if card.is_fill[labels].all():
        return None
    noise = normal_noise(job.read, seed=seed, scales=card.noise_scales)[None] if card.noise_scales else None
    return np.asarray(model(labels[None], noise)[0], np.float32)


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
