"""How far apart are two patches where they overlap, before they are averaged?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safron.engine.generator.inputs import read_labels
from safron.engine.generator.model import PatchModel
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.grid import PatchGrid, PatchJob
from safron.io.masks.mask import LabelMask


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
