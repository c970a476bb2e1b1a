"""How are labels shown at any size, never averaged?"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.plan.window import Window
from safron.engine.virtual.cache import Cache, Key
from safron.engine.virtual.tiles import TILE
from safron.io.errors import SafronError
from safron.io.legend import Label
from safron.io.masks.census import count_labels

from .edits import EditableMask, Stroke
from .pictures import bounds

UInt8 = npt.NDArray[np.uint8]

READ_LEVEL = 3
"""Tiles up to this level are read from the mask: 2048 pixels a side. Coarser ones are made from finer ones."""
CACHE_BYTES = 64 << 20
OUTLINE = 2
"""Width of an outline, in pixels of the screen."""


class LabelLayer:
    """Labels as coloured tiles, and how many pixels each label has.

    Parameters
    ----------
    mask
        The labels.
    legend
        Their names and colours; others get a colour of their own.

    Attributes
    ----------
    version
        Rises when labels change.
    """

    def __init__(self, mask: EditableMask, legend: Sequence[Label]) -> None:
        self.mask, self.version = mask, 0
        self.legend = {label.value: label for label in legend}
        self._colors = np.array([self.label(value).color for value in range(256)], np.uint8)
        self._cache: Cache[UInt8] = Cache(CACHE_BYTES, lambda tile: tile.nbytes, lambda key, change: None)
        self.counts: dict[int, int] | None = None
        self.trouble = ""
        self._more = np.zeros(256, np.int64)  # pixels that strokes added to each label
        threading.Thread(target=self._count, name="safron-census", daemon=True).start()

    @property
    def fills(self) -> list[int]:
        """Labels that are background: the page does not show them over tissue unless asked."""
        return [
            value
            for value, label in self.legend.items()
            if label.fill is not None or label.name == "background"
        ]

    def label(self, value: int) -> Label:
        """Return name and colour of a value."""
        if value in self.legend:
            return self.legend[value]
        color = ((value * 97) % 256, (value * 57 + 85) % 256, (value * 151 + 170) % 256)
        return Label(value, f"label {value}", color)

    def tile(
        self, level: int, row: int, column: int, *, hidden: Iterable[int], outline: bool
    ) -> UInt8 | None:
        """Return a tile in colour, or None beyond the mask.

        Parameters
        ----------
        level, row, column
            Of `safron.engine.viewing.pictures.bounds`.
        hidden
            Labels that are left transparent.
        outline
            Show only the borders between labels.

        Returns
        -------
        UInt8 | None
            RGBA, uint8 [h, w, 4].
        """
        if bounds(*self.mask.shape, level, row, column).empty:
            return None
        labels = self.labels(level, row, column)
        alpha = np.full(256, 255, np.uint8)
        alpha[list(hidden)] = 0
        shown = np.dstack([self._colors[labels], alpha[labels]])
        if outline:
            edge = np.zeros(labels.shape, np.uint8)
            edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
            edge[1:] |= labels[1:] != labels[:-1]
            wide = cv2.dilate(edge, np.ones((OUTLINE, OUTLINE), np.uint8), anchor=(0, 0))
            shown[..., 3] = np.where(wide, shown[..., 3], 0)
        return shown

    def labels(self, level: int, row: int, column: int) -> UInt8:
        """Labels of a tile: uint8 [h, w], of each 2 x 2 the upper left one."""
        key = level, row, column
        return self._cache.many([key], lambda keys: [(key, self._make(*key))])[key]

    def _make(self, level: int, row: int, column: int) -> UInt8:
        window = bounds(*self.mask.shape, level, row, column)
        if level <= READ_LEVEL:
            step = 1 << level
            whole = Window(window.y * step, window.x * step, window.height * step, window.width * step)
            labels = self.mask[whole.clip(Window(0, 0, *self.mask.shape)).slices()]
            return np.ascontiguousarray(labels[::step, ::step])
        out = np.zeros((window.height, window.width), np.uint8)
        half = TILE // 2
        for down in (0, 1):
            for right in (0, 1):
                child = level - 1, 2 * row + down, 2 * column + right
                if not bounds(*self.mask.shape, *child).empty:
                    small = self.labels(*child)[::2, ::2]
                    out[down * half :, right * half :][: small.shape[0], : small.shape[1]] = small
        return out

    def paint(self, stroke: Stroke | None) -> Window | None:
        """Put a stroke over the labels, or take the last one back; return the pixels that may have changed.

        Raises
        ------
        BadInput
            The stroke cannot be painted.
        """
        done = self.mask.paint(stroke)
        if done is None:
            return None
        window, more = done
        self._more = self._more + more

        def depends(key: Key) -> bool:
            side = TILE << key[0]
            return not Window(key[1] * side, key[2] * side, side, side).clip(window).empty

        self._cache.drop(depends)
        self.version += 1
        return window

    def facts(self) -> dict[str, Any]:
        """Return the legend with pixel counts, as JSON values."""
        values = sorted({*self.legend, *(self.counts or {}), *np.flatnonzero(self._more).tolist()})
        return {
            "labels": [
                {
                    "value": value,
                    "name": self.label(value).name,
                    "color": list(self.label(value).color),
                    "pixels": self._pixels(value),
                }
                for value in values
            ],
            "counted": self.counts is not None,
            "trouble": self.trouble,
        }

    def _pixels(self, value: int) -> int | None:
        return None if self.counts is None else self.counts.get(value, 0) + int(self._more[value])

    def _count(self) -> None:
        try:
            self.counts = count_labels(self.mask.given)
        except SafronError as error:
            self.trouble = str(error)
