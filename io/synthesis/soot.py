"""How does soot lie upon tissue?

Burnt edges, dirt and pigment are what a segmenter of nuclei must not take for nuclei, and few tiles have any. They are drawn as
a veil of brown or black, thicker in some regions than in others, with grains and clumps in it. Its hue is what tells it from
nuclei, as that of real soot does: no mixture of stains absorbs as much blue as red and green (see `safron.io.synthesis.stains`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from safron.io.hashed_noise import smooth_field, uniform

Float32 = npt.NDArray[np.float32]

REGION, CLUMP, GRAIN = 110.0, 14.0, 3.5
"""Pixels across, of regions with soot, of clumps and of grains."""

THIN, THICK = 0.35, 2.2
"""Density of the veil between grains, and of the thickest clumps, in green."""

HIDES = 0.5
"""Density from which soot hides what lies beneath."""

RED, BLUE = (0.85, 1.0), (1.0, 1.2)
"""Density in red and in blue for each in green, between which the hue of a canvas lies."""


def soot(seed: int, y0: int, x0: int, y1: int, x1: int, *, amount: float) -> Float32:
    """Density of soot in a window.

    Parameters
    ----------
    seed
        Any whole number.
    y0, x0, y1, x1
        The window; it may lie anywhere on the plane.
    amount
        Above 0, to 1: in few regions, or upon most of the tissue.

    Returns
    -------
    Float32
        float32 [y, x, 3]: optical density in red, green and blue, 0 and above.
    """
    y, x = np.arange(y0, y1, dtype=np.float64), np.arange(x0, x1, dtype=np.float64)

    def field(stream: int, scale: float) -> Float32:
        return smooth_field(seed, stream, y, x, scale, grid=True).astype(np.float32)

    where = np.clip(field(150, REGION) - np.float32(1.5 - 3 * amount), 0, 1)
    clumps = np.clip(0.8 * field(151, CLUMP) + 0.6 * field(152, GRAIN) - np.float32(0.5), 0, None)
    density = where * np.minimum(THIN + clumps, THICK)
    one = np.array([0])
    red, blue = (
        low + (high - low) * float(uniform(seed, stream, one)[0])
        for stream, (low, high) in ((153, RED), (154, BLUE))
    )
    # Each channel by itself, as in `Synthesizer`.
    channels = [(density * np.float64(share)).astype(np.float32) for share in (red, 1.0, blue)]
    return np.stack(channels).transpose(1, 2, 0)
