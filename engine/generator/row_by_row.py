"""How are edges computed once, where one row of patches overlaps the next?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window

from .planes import EDGES, PlaneSource


def row_by_row(sources: Iterable[PlaneSource], bottom: int) -> list[PlaneSource]:
    """Prepare sources to be read by one thread, under one row of patches after another.

    Parameters
    ----------
    sources
        Of a generator's inputs.
    bottom
        Height of the canvas in pixels.
    """
    return [Continued(source, bottom) if source.spec.name == EDGES.name else source for source in sources]


class Continued:
    """A source of edges that is read under one row of patches after another: rows that two of them share are computed once.

    Parameters
    ----------
    source
        Each of its values depends on the pixels around it alone, whatever the window.
    bottom
        Height of the canvas in pixels.
    """

    def __init__(self, source: PlaneSource, bottom: int) -> None:
        self.spec = source.spec
        self._source, self._bottom = source, bottom
        self._last: tuple[Window, npt.NDArray[Any]] | None = None

    def read(self, window: Window) -> npt.NDArray[Any]:
        """See `PlaneSource`."""
        values = self._read(window)
        self._last = window, values
        return values

    def _read(self, window: Window) -> npt.NDArray[Any]:
        if self._last is not None:
            above, values = self._last
            same = (above.x, above.width) == (window.x, window.width)
            if same and above.y <= window.y < above.y_stop < min(window.y_stop, self._bottom):
                rest = Window.from_bounds(above.y_stop, window.x, window.y_stop, window.x_stop)
                return np.concatenate((values[:, window.y - above.y :], self._source.read(rest)), axis=1)
        return self._source.read(window)
