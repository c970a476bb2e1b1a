"""Which inputs has a generator beside labels, and how large are they?"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class PlaneSpec:
    """One input of a generator beside labels.

    Attributes
    ----------
    name
        In the graph.
    channels
        Values per pixel, or per patch where it is not spatial; 0 for one number per patch instead of a vector.
    dtype
        NumPy's name of their type.
    spatial
        Whether each pixel of a window has values of its own; else each patch has one vector.
    low, high
        Range of its values; for the warm-up, which makes some up.
    content
        Says in one line all that decides its values beside mask, seed and generator; part of the render's fingerprint.
    """

    name: str
    channels: int
    dtype: str = "float32"
    spatial: bool = True
    low: float = -1.0
    high: float = 1.0
    content: str = ""

    def shape(self, side: int) -> tuple[int, ...]:
        """Shape of one patch's values, whose window has this side."""
        if self.spatial:
            return self.channels, side, side
        return (self.channels,) if self.channels else ()

    def patch_bytes(self, side: int) -> int:
        """Bytes of one patch's values."""
        return prod(self.shape(side)) * np.dtype(self.dtype).itemsize

    def made_up(self, count: int, side: int) -> npt.NDArray[np.generic]:
        """Give values as if at random, for `count` patches: [count, ...] within the range."""
        shape = (count, *self.shape(side))
        # A multiplicative hash of the place; NumPy's generators take long to import.
        shares = (np.arange(prod(shape), dtype=np.uint32) * np.uint32(2654435761) >> 8) / float(1 << 24)
        values = self.low + (self.high - self.low) * shares
        if np.issubdtype(np.dtype(self.dtype), np.integer):
            values = np.rint(values)
        return values.astype(self.dtype).reshape(shape)


def noise_spec(scales: tuple[int, ...]) -> tuple[PlaneSpec, ...]:
    """Describe the input "noise", where a generator has one."""
    return (PlaneSpec("noise", len(scales), low=-4.0, high=4.0),) if scales else ()
