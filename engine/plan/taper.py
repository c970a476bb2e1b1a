r"""How much does each pixel of a patch count where patches overlap?

The blend weights (taper) are small positive integers and separable: one vector per axis. Weighted sums of fixed-point
pixels are therefore exact in 32 bits and do not depend on the order of addition::

    overlap 20, tile 256, linear         weight
       63 |      ____________________
          |     /                    \
        3 |    /                      \      never 0, so every written pixel counts
          +---|---|----------------|---|---
              0   20              236  256
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

TaperName = Literal["flat", "linear", "cosine"]

# 63 = 3 x 21: a linear ramp over the paper's overlap of 20 has exact steps of 3.
PLATEAU = 63


@dataclass(frozen=True)
class Taper:
    """Separable blend weights of a patch.

    ``flat`` is the paper's plain mean (SAFRON, section III-E); ``linear`` and ``cosine`` fade a patch
    out over the overlap, so that a difference between neighbours shows as a gradient, not as a step.

    Examples
    --------
    >>> Taper("linear").weights(tile=8, overlap=2).tolist()
    [21, 42, 63, 63, 63, 63, 42, 21]
    >>> Taper("flat").weights(tile=4, overlap=1).tolist()
    [1, 1, 1, 1]
    """

    name: TaperName = "flat"

    def __post_init__(self) -> None:
        if self.name not in get_args(TaperName):
            raise BadInput(f"--taper {self.name}: must be one of {', '.join(get_args(TaperName))}")

    def weights(self, *, tile: int, overlap: int) -> npt.NDArray[np.int32]:
        """Return the int32 weights [tile] of one axis of a patch, all at least 1."""
        if self.name == "flat" or overlap == 0:
            return np.ones(tile, np.int32)
        distance = np.arange(1, tile + 1)
        ramp = np.minimum(1.0, np.minimum(distance, distance[::-1]) / (overlap + 1))
        if self.name == "cosine":
            ramp = np.sin(ramp * (np.pi / 2)) ** 2
        weights: npt.NDArray[np.int32] = np.maximum(1, np.rint(PLATEAU * ramp)).astype(np.int32)
        return weights
