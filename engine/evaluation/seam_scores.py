"""Do the boundaries of patches stand out from all other lines of a slide?

Five measures, each by how many standard deviations it lies off what lines elsewhere in the same slide give:

=====  ===========================================================================================================
step   signed colour steps where a patch begins and where the one before it ends, both the same way
ramp   signed colour difference across the whole overlap, which a linear or cosine taper turns a step into
edge   size of the steps on these two lines against the lines beside them, whichever way they go
blur   size of the steps inside the overlap against those beside it: below 0 where averaging blurred them
patch  edge and blur along the sides of the one patch where they are largest
=====  ===========================================================================================================

Each measure is taken at every line of the slide as if a boundary lay there. It is held against others of its cell and
of its place in JPEG's blocks, ranked, and turned into a normal score. The mean over all boundaries is compared with
the means at the same grid moved by 1 to stride - 1 pixels: boundaries of glands, JPEG and the generator's own texture
appear in both alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from .boundary_profiles import REACH, Profiles
from .slide_grid import SlideGrid

Floats = npt.NDArray[np.floating]

JPEG_PERIOD = 16
"""JPEG codes blocks of 8 pixels, 16 for colour. Their edges fall on a grid's own phases as often as its stride has it."""
SEAM_Z = 4.0
"""A measure beyond this is a seam; docs/evaluation.md says how far images without seams come."""
FEW_SHIFTS, WITH_FEW_SHIFTS = 20, 1.25
"""Factor on chance's spread where the grid leaves fewer other places than this to compare with."""
LEAST_BOUNDARIES = 8
"""Fewer sides of patches with tissue say nothing."""
LEAST_SHIFTS = 10
AROUND = 96
"""Lines on both sides whose steps a line's steps are held against."""
INVISIBLE = 0.5
"""Grey levels; a step of this size in a flat region is not seen."""
PATCH_SPREAD = 0.15
"""Smallest spread that the largest of all patches is judged by."""


@dataclass(frozen=True)
class SeamScores:
    """How far the boundaries of patches stand out, in standard deviations, and how large their steps are.

    Attributes
    ----------
    step, ramp, edge, blur, patch
        See the module. They show seams from 4 on, `edge` and `blur` also from -4 down. None where the grid
        has no overlap, or no place to compare with.
    boundary_ratio
        Mean step on the boundaries over mean step inside patches; 1 without seams.
    overlap_ratio
        Mean step inside overlaps over mean step inside patches; below 1 where averaging blurs. None without
        overlap.
    boundaries
        Sides of patches with tissue that were measured.
    tissue_share
        Share of the pixels that is tissue, 0 to 1.
    """

    step: float
    ramp: float | None
    edge: float
    blur: float | None
    patch: float | None
    boundary_ratio: float
    overlap_ratio: float | None
    boundaries: int
    tissue_share: float

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the measures that found a seam."""
        values = asdict(self)
        one_way = [name for name in ("step", "ramp", "patch") if (values[name] or 0.0) >= SEAM_Z]
        both_ways = [name for name in ("edge", "blur") if abs(values[name] or 0.0) >= SEAM_Z]
        return tuple(sorted(one_way + both_ways))

    @property
    def z(self) -> float:
        """The score nearest to a seam, or furthest beyond, at least 0."""
        return max(self.step, self.ramp or 0.0, self.patch or 0.0, abs(self.edge), abs(self.blur or 0.0), 0.0)


def score_seams(profiles: Profiles, grid: SlideGrid) -> SeamScores | None:
    """Turn profiles into scores; None where fewer than 8 sides of patches have tissue.

    Parameters
    ----------
    profiles
        Of the slide.
    grid
        The one that they were taken by.
    """
    stride, overlap = grid.stride, grid.overlap % grid.stride
    ends = (0, overlap) if overlap else (0,)
    known = np.isfinite(profiles.steps[..., 0])
    boundaries = int(np.isfinite(profiles.by_boundary(profiles.sizes, stride)[..., 0]).sum())
    if boundaries < LEAST_BOUNDARIES:
        return None
    lines = np.arange(known.shape[-1])
    places = (profiles.origins[..., None] + lines) % JPEG_PERIOD
    places = np.broadcast_to(places[:, :, None, :], known.shape)
    # Tissue off boundaries says what is usual; each line once, and no flat glass.
    typical = grid.inner[(lines - profiles.margin) % stride] & (
        lines - profiles.margin < profiles.cells * stride
    )
    typical = np.isfinite(profiles.sizes) & typical & (lines >= profiles.margin)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(All-NaN|Mean of empty)")
        logs = np.log(profiles.sizes + 0.1)
        excess = logs - _mean_at(logs, [*range(-6, 0), *range(1, 7)])
        colors = {"step": _step(profiles.steps, known, ends)}
        if overlap:
            colors["ramp"] = _ramp(profiles.steps, known, overlap)
        measures = {"edge": sum((_moved(excess, end) for end in ends), np.zeros_like(logs))}
        if overlap >= 4:
            flank = max(4, overlap // 2)
            around = [*range(-flank - 1, -1), *range(overlap + 2, overlap + flank + 2)]
            measures["blur"] = _mean_at(logs, range(1, overlap)) - _mean_at(logs, around)
        measures = colors | {name: _by_row(values) for name, values in measures.items()}
        scores = {name: _normal_scores(_level(values, places, typical)) for name, values in measures.items()}
        scores = {name: profiles.by_boundary(values, stride) for name, values in scores.items()}
        z = {name: _stand_out(values, overlap) for name, values in scores.items()}
        sizes = profiles.by_boundary(np.exp(_level(logs, places, typical)), stride)
        means = np.nanmean(sizes, axis=(0, 1, 2, 3))
    usual = max(float(np.nanmean(means[(np.flatnonzero(grid.inner) + 1) % stride])), 1e-9)
    inside_steps = [phase + 1 for phase in grid.overlap_phases]
    return SeamScores(
        step=z["step"],
        ramp=z.get("ramp"),
        edge=z["edge"],
        blur=z.get("blur"),
        patch=_worst_patch(scores["edge"] - scores.get("blur", np.zeros(1)), overlap),
        boundary_ratio=float(np.nanmean(means[list(ends)])) / usual,
        overlap_ratio=float(np.nanmean(means[inside_steps])) / usual if inside_steps else None,
        boundaries=boundaries,
        tissue_share=profiles.tissue_share,
    )


def _moved(lines: Floats, by: int) -> Floats:
    """Values `by` lines further on, NaN beyond the end: [..., lines]."""
    moved = np.full_like(lines, np.nan)
    if by >= 0:
        moved[..., : lines.shape[-1] - by] = lines[..., by:]
    else:
        moved[..., -by:] = lines[..., :by]
    return moved


def _add_moved(total: Floats, lines: Floats, by: int) -> None:
    """Add to each line of `total` what lies `by` lines further on, and nothing beyond the end: [..., lines]."""
    stop = lines.shape[-1] - abs(by)
    if by >= 0:
        total[..., :stop] += lines[..., by:]
    else:
        total[..., -by:] += lines[..., :stop]


def _mean_at(lines: Floats, places: Iterable[int]) -> Floats:
    """Mean of the values at several distances from each line; NaNs do not count."""
    known, clean = np.isfinite(lines).astype(lines.dtype), np.nan_to_num(lines)
    total, count = np.zeros_like(lines), np.zeros_like(lines)
    for by in places:
        _add_moved(total, clean, by)
        _add_moved(count, known, by)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _step(steps: Floats, known: npt.NDArray[np.bool_], ends: tuple[int, ...]) -> Floats:
    """How unusual are the steps at `ends`, taken together, at every line?

    The filter that finds steps at `ends` best among steps like the slide's own: its inverse autocovariance times
    the pattern looked for. Tissue is smooth, so a step that its neighbours do not announce counts for more.
    """
    white = np.clip(_whitened(_evened(steps, known), known), -6, 6)
    length = ends[-1] + 1 + 2 * REACH
    pattern = np.zeros(length)
    pattern[[end + REACH for end in ends]] = 1.0
    pairs = [float((known[..., lag:] & known[..., : known.shape[-1] - lag]).sum()) for lag in range(length)]
    fade = np.cos(np.linspace(0, np.pi / 2, length, endpoint=False)) ** 2
    found = np.zeros_like(white)
    for channel in range(3):
        values = white[..., channel]
        products = [
            float((values[..., lag:] * values[..., : values.shape[-1] - lag]).sum()) for lag in range(length)
        ]
        covariance = fade * np.array(products) / np.maximum(pairs, 1.0)
        covariance[0] = 1.02 * covariance[0] + 1e-6
        weights = np.linalg.solve(
            covariance[np.abs(np.subtract.outer(range(length), range(length)))], pattern
        )
        for by, weight in enumerate(weights, start=-REACH):
            _add_moved(found[..., channel], weight * values, by)
    needed = np.logical_and.reduce([_moved(known.astype(np.float32), end) == 1 for end in ends])
    return _distances(found, needed)


def _ramp(steps: Floats, known: npt.NDArray[np.bool_], overlap: int) -> Floats:
    """How unusual is the difference between the three pixels after the overlap and the three before it, at every line?"""
    total, clean = np.zeros_like(steps), np.nan_to_num(steps)
    for by in range(-2, overlap + 3):
        weight = min(1.0, (by + 3) / 3, (overlap + 3 - by) / 3)
        _add_moved(np.moveaxis(total, -2, -1), np.moveaxis(weight * clean, -2, -1), by)
    return _distances(total, known & (_moved(known.astype(np.float32), overlap) == 1))


def _distances(values: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """Log of 1 + the squared Mahalanobis distance of colours [..., lines, 3] from 0; NaN where not `known`."""
    white = _whitened(_evened(values, known), known)
    red, green, blue = np.moveaxis(white**2, -1, 0)  # along an axis of three NumPy goes pixel by pixel
    return np.where(known, np.log1p(red + green + blue), np.nan)


def _evened(values: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """Divide by the mean size within `AROUND` lines, so that lines in glass, stroma and nuclei count alike; 0 where not `known`.

    Flat regions are divided by `INVISIBLE`: steps too small to be seen must not count for being the only ones there.
    """
    clean = np.where(known[..., None], values, 0.0)
    red, green, blue = np.moveaxis(np.abs(clean), -1, 0)
    size = np.where(known, (red + green + blue) / 3, 0.0)

    def around(lines: Any) -> Any:
        ends = np.pad(np.cumsum(lines, axis=-1, dtype=np.float64), [(0, 0)] * 3 + [(1, 0)])
        last = np.minimum(np.arange(lines.shape[-1]) + AROUND + 1, lines.shape[-1])
        first = np.maximum(np.arange(lines.shape[-1]) - AROUND, 0)
        return ends[..., last] - ends[..., first]

    usual = np.maximum(around(size) / np.maximum(around(known), 1), INVISIBLE)
    return np.asarray(clean / usual[..., None], np.float32)


def _whitened(values: Floats, known: npt.NDArray[np.bool_]) -> Floats:
    """Turn and scale colours [..., 3] so that those of most lines have unit covariance: what few do has no weight."""
    sample = values[known].astype(np.float64)
    tiny = 1e-6 * np.eye(3)
    covariance = sample.T @ sample / max(1, len(sample)) + tiny
    for _ in range(5):
        distance = np.einsum("ni,ni->n", sample @ np.linalg.inv(covariance), sample)
        usual = sample[distance <= 4 * np.median(distance)]
        covariance = usual.T @ usual / max(1, len(usual)) + tiny
    variances, axes = np.linalg.eigh(covariance)
    return np.asarray(values @ (axes / np.sqrt(variances)), np.float32)


def _by_row(values: Floats) -> Floats:
    """Take off the median of the row of a cell, [..., lines], in units of the median deviation from it."""
    values = values - np.nanmedian(values, axis=-1, keepdims=True)
    spread = np.nanmedian(np.abs(values), axis=-1, keepdims=True)
    return values / np.where(spread > 1e-6, spread, 1.0)


def _level(values: Floats, places: npt.NDArray[np.int64], typical: npt.NDArray[np.bool_]) -> Floats:
    """Take off what is usual at the line's place in JPEG's blocks, less what is usual anywhere, by the `typical` lines."""
    values, sample, where = np.asarray(values, np.float64), values[typical], places[typical]
    usual = np.array([np.nanmedian(sample[where == place]) for place in range(JPEG_PERIOD)])
    return np.asarray(values - np.nan_to_num(usual - np.nanmedian(sample))[places])


_QUANTILES = (np.arange(4096) + 0.5) / 4096
_NORMAL = np.array([NormalDist().inv_cdf(float(share)) for share in _QUANTILES])


def _normal_scores(values: Floats) -> Floats:
    """Replace values by the quantiles of a standard normal that their ranks have; equal values share one."""
    known = np.isfinite(values)
    _, index, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / max(1, int(known.sum()))
    scores = np.full(values.shape, np.nan)
    scores[known] = np.interp(ranks, _QUANTILES, _NORMAL)[index]
    return scores


def _stand_out(scores: Floats, overlap: int) -> float:
    """Mean score of the boundaries, [2, windows, cells, boundaries, stride], in standard deviations off elsewhere."""
    count = max(1, int(np.isfinite(scores[..., 0]).sum()))
    means = np.nan_to_num(np.nanmean(scores, axis=(0, 1, 2, 3)))
    elsewhere = means[_elsewhere(len(means), overlap)]
    middle = float(np.median(elsewhere)) if len(elsewhere) else 0.0
    spread = 1.4826 * float(np.median(np.abs(elsewhere - middle))) if len(elsewhere) else 0.0
    return float(
        (means[0] - middle)
        / max(spread, (1.0 if len(elsewhere) >= FEW_SHIFTS else WITH_FEW_SHIFTS) * count**-0.5)
    )


def _elsewhere(stride: int, overlap: int) -> Any:
    """Shifts of the grid at which its boundaries touch no true one and lie alike in JPEG's blocks; none where too few are left."""
    shifts = np.arange(overlap + 5, stride - overlap - 4)
    if len(shifts) < max(stride / 4, LEAST_SHIFTS):
        return shifts[:0]
    period = math.gcd(stride, JPEG_PERIOD)
    while (shifts % period == 0).sum() < LEAST_SHIFTS:
        period //= 2
    return shifts[shifts % period == 0]


def _worst_patch(sides: Floats, overlap: int) -> float | None:
    """Largest sum over the sides of one patch, against the largest of any patch when the grid is moved.

    A single patch that is wrong is lost in a mean over all boundaries.
    """
    elsewhere = np.arange(overlap + 5, sides.shape[-1] - overlap - 4)
    if len(elsewhere) < LEAST_SHIFTS:
        return None
    down, across = sides[0].swapaxes(1, 2), sides[1]  # both [windows, y, x, stride]
    blank = np.full_like(across[:, :, :1], np.nan)
    right = np.concatenate([across[:, :, 1:], blank], axis=2)
    below = np.concatenate([down[:, 1:], blank.swapaxes(1, 2)], axis=1)
    four = np.stack([across, right, down, below])
    count = np.isfinite(four).sum(axis=0)
    total = np.where(count >= 2, np.nansum(four, axis=0) / np.sqrt(np.maximum(count, 1)), -np.inf)
    largest = total.max(axis=(0, 1, 2))
    others = largest[elsewhere]
    others = others[np.isfinite(others)]
    if not np.isfinite(largest[0]) or not len(others):
        return None
    # A largest value has a long tail: what counts is how far it lies beyond the largest anywhere.
    spread = 1.4826 * float(np.median(np.abs(others - np.median(others))))
    return float((largest[0] - others.max()) / max(PATCH_SPREAD, spread))
