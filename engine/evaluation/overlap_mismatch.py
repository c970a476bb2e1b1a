"""How far apart are two patches where they overlap, before they are averaged?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from safron.engine.generator.inputs import Labels, read_labels
from safron.engine.generator.model import PatchModel
from safron.engine.generator.planes import call_with, card_sources, first_step, one_patch
from safron.engine.plan.grid import PatchGrid, PatchJob

VISIBLE_OFFSET = 2.0
"""Grey levels by which the colours of neighbours may differ; planted seams of this size are just seen (docs/evaluation.md)."""
VISIBLE_RELATIVE = 0.1
"""Mean difference over the standard deviation of the patches, from which averaging blurs what is drawn."""


@dataclass(frozen=True)
class Mismatch:
    """Differences over all pixels and channels of the overlaps that were compared.

    Attributes
    ----------
    mean, largest
        Absolute difference in grey levels.
    relative
        Mean over the standard deviation of the patches.
    pairs
        Pairs of neighbours that were compared.
    offset
        Root mean square over pairs and channels of the mean signed difference of an overlap, in grey levels:
        the part that no averaging hides.
    """

    mean: float
    largest: float
    relative: float
    pairs: int
    offset: float

    @property
    def visible(self) -> bool:
        """Whether neighbours differ enough to be seen."""
        return self.offset >= VISIBLE_OFFSET or self.relative >= VISIBLE_RELATIVE


def measure_mismatch(
    model: PatchModel, mask: Labels, *, tile: int, overlap: int, seed: int = 0, pairs: int = 32
) -> Mismatch | None:
    """Generate neighbouring patches of the mask and compare them where they overlap, before blending.

    Patches come from all over the grid, by a fixed random choice. Patches that lie wholly in background are left out.

    Parameters
    ----------
    model
        The generator.
    mask
        Labels to generate patches for.
    tile, overlap
        Pixels.
    seed
        Seed of the noise.
    pairs
        Neighbours to compare, at least, where the mask has as many.

    Returns
    -------
    Mismatch | None
        None where the grid has no overlap or no neighbours.
    """
    grid = PatchGrid(*mask.shape, tile, overlap, model.card.context)
    if not overlap or overlap >= grid.rows.stride:
        return None
    differences: list[npt.NDArray[np.float32]] = []
    spreads: list[float] = []
    rows, columns = grid.shape
    for place in np.random.default_rng(0).permutation(rows * columns)[: 8 * pairs]:
        row, column = divmod(int(place), columns)
        here = _generate(model, mask, grid[row, column], seed)
        if here is None:
            continue
        for dy, dx in ((0, 1), (1, 0)):
            if row + dy >= rows or column + dx >= columns:
                continue
            there = _generate(model, mask, grid[row + dy, column + dx], seed)
            if there is None:
                continue
            step = tile - overlap
            differences.append(here[dy * step :, dx * step :] - there[: tile - dy * step, : tile - dx * step])
            spreads.append(float(here.std()))
        if len(differences) >= pairs:
            break
    if not differences:
        return None
    mean = float(np.mean([np.abs(part).mean() for part in differences]))
    offsets = np.stack([part.mean(axis=(0, 1)) for part in differences])
    return Mismatch(
        mean=mean,
        largest=float(max(np.abs(part).max() for part in differences)),
        relative=mean / max(float(np.mean(spreads)), 1e-9),
        pairs=len(differences),
        offset=float(np.sqrt((offsets**2).mean())),
    )


def _generate(model: PatchModel, mask: Labels, job: PatchJob, seed: int) -> npt.NDArray[np.float32] | None:
    """One patch before blending, float32 [tile, tile, 3]; None where it is filled with the background's colour.

    Of a sampler it is what it predicts in its first step.
    """
    card = model.card
    labels = read_labels(mask, job.read, outside=card.outside)
    if card.is_fill[labels].all():
        return None
    sources = (*card_sources(card, mask, seed=seed), *first_step(card, seed=seed))
    inputs = one_patch(sources, labels, job.read)
    return np.asarray(call_with(model, inputs)[0], np.float32)
