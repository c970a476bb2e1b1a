"""How is a mask of colon tissue made whose glands look healthy, or like cancer of a chosen grade?

In the spirit of THeCoT (Kovacheva et al., J Med Imaging 3:027503, 2016): a grade decides how irregular glands are, how much
they differ, and how much of their lumen is left; their density, the overlap that is allowed, the stroma between them and the
outline of the tissue are chosen beside it. Every pixel is a pure function of the seed and its position, as in `phantoms`.

Glands stand on a jittered triangular lattice. The outline of a gland is a circle with harmonics, stretched along its axis::

    r(angle) = R (1 + sum over k of a_k cos(k angle + phase_k)),   k = 2 .. 6

With a cellularity there are nuclei instead of glands and stroma, on a finer lattice: those of the epithelium stand in a row along the
outline of their gland, pointing to its middle, and lose this order with the grade; between glands lie spindle and inflammatory ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.hashed_noise import smooth_field, uniform

Array = npt.NDArray[np.float64]

BACKGROUND, STROMA, GLAND = 0, 1, 2
TISSUE, EPITHELIAL, INFLAMMATORY, SPINDLE = 1, 2, 3, 4
"""Labels of a mask with nuclei, as of CoNSeP."""
HARMONICS = range(2, 7)


@dataclass(frozen=True)
class Grade:
    """What a grade does to glands.

    Attributes
    ----------
    irregularity
        Sum of the harmonics' amplitudes, over the gland's radius; shared out as 1 / k.
    stretch
        Largest ratio of the axes, less 1.
    size
        Mean radius over that of a healthy gland; the lattice grows with it.
    crowding
        How far a gland's mean radius may reach towards its nearest neighbour, over their distance.
    spread
        Standard deviation of the logarithm of a gland's size.
    jitter
        Displacement from the lattice, over its pitch.
    lumen
        Radius of the lumen over the gland's.
    closed
        Share of glands without a lumen.
    """

    irregularity: float
    stretch: float
    size: float
    crowding: float
    spread: float
    jitter: float
    lumen: float
    closed: float


GRADES = (
    Grade(0.04, 0.3, 1.0, 0.48, 0.05, 0.2, 0.30, 0.0),
    Grade(0.13, 0.7, 1.3, 0.53, 0.15, 0.35, 0.36, 0.15),
    Grade(0.3, 1.1, 1.3, 0.52, 0.25, 0.5, 0.28, 0.4),
    Grade(0.5, 1.4, 0.8, 0.45, 0.4, 0.65, 0.15, 0.8),
)
"""Healthy mucosa, and well, moderately and poorly differentiated adenocarcinoma."""

NUCLEUS = 1 / 12
"""Diameter of a nucleus over that of a healthy gland: 7.5 of 90 um."""
PLACES = {EPITHELIAL: 1.0, SPINDLE: 0.35, INFLAMMATORY: 0.7}
"""Share of places that have a nucleus at a cellularity of 1."""
STRETCH = {EPITHELIAL: 1.5, SPINDLE: 2.4, INFLAMMATORY: 1.0}
"""Ratio of the axes of a nucleus."""

REACH = 3
"""Lattice steps from which a gland may reach a pixel."""


@dataclass(frozen=True)
class Colon:
    """A procedural mask of colon tissue.

    Attributes
    ----------
    seed
        Any integer.
    grade
        0 (healthy) to 3 (poorly differentiated).
    diameter
        Of a healthy gland, in pixels, at least 16.
    density
        Share of the places in the tissue that have a gland, 0 to 1.
    overlap
        How much further glands, and nuclei, may grow into their neighbours than they do without, over half their distance.
    stroma
        Share of the tissue that is stroma without glands, 0 to 1.
    outline
        "island": tissue with background around it; "full": the whole canvas is tissue.
    lumens
        Whether lumens are background; else they are part of the gland, as in the masks of CRAG and EBHI.
    cellularity
        Share of the places for nuclei that have one, 0 to 1. Above 0 the mask holds nuclei: tissue 1, epithelial 2,
        inflammatory 3, spindle 4.

    Raises
    ------
    BadInput
        A number is out of its range.
    """

    seed: int
    grade: int = 0
    diameter: float = 90.0
    density: float = 1.0
    overlap: float = 0.0
    stroma: float = 0.1
    outline: Literal["island", "full"] = "island"
    lumens: bool = False
    cellularity: float = 0.0

    def __post_init__(self) -> None:
        if self.grade not in range(len(GRADES)):
            raise BadInput(f"grade {self.grade}: must be 0 (healthy) to {len(GRADES) - 1}")
        if not self.diameter >= 16:
            raise BadInput(
                f"diameter of {self.diameter:g} pixels: glands would be single pixels; give at least 16"
            )
        for name in ("density", "overlap", "stroma", "cellularity"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} {getattr(self, name):g}: must be 0 to 1")

    @property
    def _pitch(self) -> float:
        """Distance of lattice points."""
        return 1.1 * self.diameter * GRADES[self.grade].size

    def paint(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Labels of a region.

        Parameters
        ----------
        rows, cols
            The region, in canvas pixels.

        Returns
        -------
        npt.NDArray[np.uint8]
            uint8 [y, x]: background 0, stroma 1, gland 2; see `cellularity` for nuclei.
        """
        if self.cellularity:
            return self._paint_nuclei(rows, cols)
        ys, xs = np.arange(rows.start, rows.stop, dtype=float), np.arange(cols.start, cols.stop, dtype=float)
        labels = np.full((len(ys), len(xs)), STROMA, np.uint8)
        glands, centres = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
        for gland in self._glands(rows, cols):
            part, place = gland.place(rows, cols)
            glands[part] |= place <= 1
            centres[part] |= place <= gland.lumen
        labels[glands] = GLAND
        if self.lumens:
            labels[centres & glands] = BACKGROUND
        if self.outline == "island":
            labels[self._beyond(ys, xs, grid=True)] = BACKGROUND
        return labels

    def _paint_nuclei(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Labels of a region of a mask with nuclei."""
        size = self.diameter * NUCLEUS
        more = int(3 * size) + 2
        wide = slice(rows.start - more, rows.stop + more), slice(cols.start - more, cols.stop + more)
        # How far each pixel is from the middle of its gland, 1 at the outline.
        depth = np.full([part.stop - part.start for part in wide], 2.0)
        lumen = np.zeros(depth.shape, bool)
        for gland in self._glands(*wide):
            part, place = gland.place(*wide)
            depth[part] = np.minimum(depth[part], place)
            lumen[part] |= place <= gland.lumen
        labels = np.full(depth.shape, TISSUE, np.uint8)
        if self.lumens:
            labels[lumen] = BACKGROUND
        for nucleus in self._nuclei(*wide, depth, lumen):
            part, inside = nucleus.place(*wide)
            labels[part][inside <= 1] = nucleus.label
        labels = labels[more:-more, more:-more]
        if self.outline == "island":
            ys, xs = (np.arange(part.start, part.stop, dtype=float) for part in (rows, cols))
            labels[self._beyond(ys, xs, grid=True)] = BACKGROUND
        return np.ascontiguousarray(labels)

    def _nuclei(
        self, rows: slice, cols: slice, depth: Array, lumen: npt.NDArray[np.bool_]
    ) -> Iterator[_Shape]:
        """Give the nuclei whose centres lie in a region but for its rim, of which the depth in glands [y, x] is known."""
        grade, size = GRADES[self.grade], self.diameter * NUCLEUS
        pitch = 1.2 * size
        down = pitch * 0.75**0.5
        row, col = _lattice(rows, down), _lattice(cols, pitch)
        place = row[:, None], col[None, :]
        u = [uniform(self.seed, 100 + draw, *place) for draw in range(6)]
        y = ((place[0] + 0.3 * (u[0] - 0.5)) * down).ravel()
        x = ((place[1] + 0.5 * (place[0] % 2) + 0.3 * (u[1] - 0.5)) * pitch).ravel()
        u = [draw.ravel() for draw in u]
        iy, ix = (np.floor(at - part.start).astype(int) for at, part in ((y, rows), (x, cols)))
        near = (iy >= 1) & (ix >= 1) & (iy < depth.shape[0] - 1) & (ix < depth.shape[1] - 1)
        iy, ix = np.where(near, iy, 1), np.where(near, ix, 1)
        at = depth[iy, ix]
        crowd = smooth_field(self.seed, 110, y, x, 2 * self.diameter, grid=False)
        label = np.where(at <= 1, EPITHELIAL, np.where(crowd > 1, INFLAMMATORY, SPINDLE))
        share = np.select([label == name for name in PLACES], list(PLACES.values()))
        # A row along the outline in healthy glands; anywhere but in the lumen where nothing is left of their order.
        in_row = at > 0.75 - 0.9 * grade.irregularity
        kept = near & (u[2] < self.cellularity * share) & ((label != EPITHELIAL) | (in_row & (at < 0.96)))
        kept &= ~lumen[iy, ix]
        inward = np.arctan2(depth[iy + 1, ix] - depth[iy - 1, ix], depth[iy, ix + 1] - depth[iy, ix - 1])
        angle = np.where(label == EPITHELIAL, inward + 4 * grade.irregularity * (u[3] - 0.5), np.pi * u[3])
        larger = np.where(label == EPITHELIAL, 1 + 0.5 * grade.irregularity, 0.9)
        radius = 0.5 * size * larger * np.exp(grade.spread * 2 * (u[4] - 0.5))
        radius = np.minimum(radius, 0.5 * pitch * (1 + self.overlap))
        for i in np.flatnonzero(kept):
            stretch = STRETCH[int(label[i])] * (0.85 + 0.3 * u[5][i])
            yield _Shape(y[i], x[i], radius[i], stretch, angle[i], label=int(label[i]))

    def _beyond(self, y: Array, x: Array, *, grid: bool) -> npt.NDArray[np.bool_]:
        """Which pixels lie beyond the tissue."""
        coarse = smooth_field(self.seed, 60, y, x, 16 * self.diameter, grid=grid)
        fine = smooth_field(self.seed, 61, y, x, 3 * self.diameter, grid=grid)
        return np.asarray(0.95 * coarse + 0.31 * fine > 0.9)

    def _glands(self, rows: slice, cols: slice) -> list[_Shape]:
        """Give the glands that may reach a region."""
        grade, pitch = GRADES[self.grade], self._pitch
        down = pitch * 0.75**0.5
        row, col = _lattice(rows, down), _lattice(cols, pitch)
        place = row[:, None], col[None, :]
        u = [uniform(self.seed, 70 + draw, *place) for draw in range(8 + 2 * len(HARMONICS))]
        y = (place[0] + grade.jitter * (u[0] - 0.5)) * down
        x = (place[1] + 0.5 * (place[0] % 2) + grade.jitter * (u[1] - 0.5)) * pitch
        near = _nearest(y, x)
        inner = np.s_[2:-2, 2:-2]
        y, x = y[inner].ravel(), x[inner].ravel()
        u = [draw[inner].ravel() for draw in u]
        stretch = 1 + grade.stretch * u[2]
        size = np.exp(grade.spread * 3.46 * (u[3] - 0.5))
        largest = near.ravel() * (grade.crowding + 0.5 * self.overlap) / stretch**0.25
        radius = np.minimum(0.5 * self.diameter * grade.size * size, largest)
        kept = u[4] < self.density
        bare = smooth_field(self.seed, 62, y, x, 5 * self.diameter, grid=False)
        kept &= bare > _probit(self.stroma)
        if self.outline == "island":
            for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                kept &= ~self._beyond(y + dy * radius, x + dx * radius, grid=False)
        lumen = np.where(u[5] < grade.closed, 0.0, grade.lumen * (0.7 + 0.6 * u[6]))
        harmonics = np.array([1 / k for k in HARMONICS])
        harmonics = grade.irregularity * harmonics / harmonics.sum()
        return [
            _Shape(
                y[i],
                x[i],
                radius[i],
                stretch[i],
                np.pi * u[7][i],
                tuple(
                    (amplitude * 2 * u[8 + 2 * n][i], 2 * np.pi * u[9 + 2 * n][i])
                    for n, amplitude in enumerate(harmonics)
                ),
                lumen[i],
            )
            for i in np.flatnonzero(kept & (radius > 0.15 * self.diameter))
        ]


@dataclass(frozen=True)
class _Shape:
    """A gland or a nucleus: centre, radius, ratio of axes, angle, (amplitude, phase) of harmonics, lumen over the radius, label."""

    y: float
    x: float
    radius: float
    stretch: float
    angle: float
    harmonics: tuple[tuple[float, float], ...] = ()
    lumen: float = 0.0
    label: int = GLAND

    def place(self, rows: slice, cols: slice) -> tuple[tuple[slice, slice], Array]:
        """Give the part of a region that it may reach, and how far each pixel of it lies from its middle, 1 at the outline."""
        far = self.radius * self.stretch**0.5 * (1 + sum(amplitude for amplitude, _ in self.harmonics)) + 2
        y0, y1 = max(int(self.y - far), rows.start), min(int(self.y + far) + 1, rows.stop)
        x0, x1 = max(int(self.x - far), cols.start), min(int(self.x + far) + 1, cols.stop)
        if y0 >= y1 or x0 >= x1:
            return np.s_[:0, :0], np.zeros((0, 0))
        dy, dx = np.arange(y0, y1)[:, None] + 0.5 - self.y, np.arange(x0, x1)[None, :] + 0.5 - self.x
        cos, sin, axis = np.cos(self.angle), np.sin(self.angle), self.stretch**0.5
        along, across = (dx * cos + dy * sin) / axis, (dy * cos - dx * sin) * axis
        distance = np.sqrt(along * along + across * across)
        # Powers of the unit vector give cosines and sines of multiples of the angle, the same in any region.
        unit = along / np.maximum(distance, 1e-9), across / np.maximum(distance, 1e-9)
        c, s = unit
        outline = np.ones_like(distance)
        for amplitude, phase in self.harmonics:
            c, s = c * unit[0] - s * unit[1], s * unit[0] + c * unit[1]
            outline = outline + amplitude * (c * np.cos(phase) - s * np.sin(phase))
        part = np.s_[y0 - rows.start : y1 - rows.start, x0 - cols.start : x1 - cols.start]
        return part, distance / (self.radius * outline)


def _lattice(part: slice, pitch: float) -> npt.NDArray[np.int64]:
    """Lattice points that may matter to a range of pixels: those whose glands reach it, and their neighbours."""
    more = REACH + 2
    return np.arange(int(part.start // pitch) - more, int((part.stop - 1) // pitch) + more + 1)


def _nearest(y: Array, x: Array) -> Array:
    """Distance to the nearest neighbour, of all points but the two outer rows and columns."""
    rows, cols = y.shape[0] - 4, y.shape[1] - 4
    nearest = np.full((rows, cols), np.inf)
    for down in range(5):
        for right in range(5):
            if (down, right) != (2, 2):
                window = np.s_[down : down + rows, right : right + cols]
                nearest = np.minimum(nearest, np.hypot(y[window] - y[2:-2, 2:-2], x[window] - x[2:-2, 2:-2]))
    return nearest


def _probit(share: float) -> float:
    """Quantile of the standard normal; infinite at 0 and 1."""
    from statistics import NormalDist

    if share in (0, 1):
        return float("-inf") if share == 0 else float("inf")
    return NormalDist().inv_cdf(share)
