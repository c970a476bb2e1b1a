"""How does a patch take the pixels that it shares with patches generated before it?

Patches overlap, and an aligned generator makes what they share alike, bit by bit. So where the patches above and on the left
of a patch are there, only the rest of it is generated: 236 x 236 pixels of 256 x 256, from a window of 276 x 276 instead of
296 x 296, an eighth less work. What is shared is copied from the neighbours::

    +--------------------+
    |     from above     |
    |------+-------------|
    | from |  generated  |
    | the  |             |
    | left |             |
    +------+-------------+

The patch is whole then, and blended like any other. This changes no pixel if what is generated has the same bits in the
smaller window, which the warm-up tries (`safron.engine.generator.same_bits`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .batching import Strip

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Patches of a strip that one call generates.

    Attributes
    ----------
    patches
        Which of the strip.
    top, left
        Rows and columns at their beginning that are known.
    """

    patches: slice
    top: int = 0
    left: int = 0

    def __len__(self) -> int:
        return int(self.patches.stop - self.patches.start)


class SharedPixels:
    """The pixels that patches of one task share with those that follow.

    Strips come from above to below, and the patches of each from left to right.

    Parameters
    ----------
    overlap
        Rows, and columns, that neighbours share; 0 where nothing is to be taken from them.
    """

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap
        # By x of a patch: its y, and its last rows.
        self._above: dict[int, tuple[int, Values]] = {}
        self._left: Values | None = None

    def parts(self, strip: Strip, size: int) -> list[Part]:
        """Cut a strip into parts of so many patches, which know what was generated above."""
        slices = [slice(start, min(start + size, len(strip))) for start in range(0, len(strip), size)]
        if not self._overlap:
            return [Part(patches) for patches in slices]
        before = strip.first.y - (strip.first.height - self._overlap)
        known = [self._above.get(strip.window(index).x, (None,))[0] == before for index in range(len(strip))]
        return [
            Part(patches, self._overlap * all(known[patches]), self._overlap * (patches.start > 0))
            for patches in slices
        ]

    def complete(self, strip: Strip, part: Part, made: Values) -> Values:
        """Put what was generated together with what was known, and keep what the next patches share.

        Parameters
        ----------
        strip, part
            The patches; the part before has been completed.
        made
            [1, height, width, channels] of one window without what was known.

        Returns
        -------
        Values
            The whole window.
        """
        if not self._overlap:
            return made
        _, height, width, channels = made.shape
        whole = made
        if part.top or part.left:
            whole = np.empty((1, height + part.top, width + part.left, channels), made.dtype)
            whole[:, part.top :, part.left :] = made
        if part.left:
            assert self._left is not None
            whole[0, :, : part.left] = self._left
        for index in range(part.patches.start, part.patches.stop):
            x, tile = strip.window(index).x, strip.first.width
            here = whole[0, :, (index - part.patches.start) * strip.stride :][:, :tile]
            if part.top:
                here[: part.top] = self._above[x][1]
            self._above[x] = strip.first.y, here[tile - self._overlap :].copy()
        self._left = whole[0, :, -self._overlap :].copy()
        return whole
