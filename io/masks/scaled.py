"""Which label does a pixel of another size have?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .mask import LabelMask, Labels

Index = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]


class ScaledMask:
    """A mask seen with pixels of another size; nothing is read before it is sliced.

    Parameters
    ----------
    mask
        The mask.
    shape
        Pixels (height, width) of the view.
    index
        Gives, for pixels of the view along either axis, the mask's pixels whose labels they have. Values
        beyond the mask's end mean its last pixel. Not decreasing.

    Examples
    --------
    >>> from safron.io import open_mask
    >>> mask = open_mask(np.arange(16, dtype="uint8").reshape(4, 4))
    >>> ScaledMask(mask, (2, 2), lambda pixels: 2 * pixels + 1)[0:2, 0:2]
    array([[ 5,  7],
           [13, 15]], dtype=uint8)
    """

    def __init__(self, mask: LabelMask, shape: tuple[int, int], index: Index) -> None:
        self.mask = mask
        self.shape = shape
        self._index = index

    def __getitem__(self, region: tuple[slice, slice]) -> Labels:
        """Labels of a region: uint8 [y, x]; see `LabelMask`."""
        rows, columns = (
            np.minimum(self._index(np.arange(part.start, part.stop)), most - 1)
            for part, most in zip(region, self.mask.shape, strict=True)
        )
        if not (len(rows) and len(columns)):
            return np.zeros((len(rows), len(columns)), np.uint8)
        labels = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return np.ascontiguousarray(labels[rows - rows[0]][:, columns - columns[0]])


class ScaledEdges(ScaledMask):
    """Edges seen with larger pixels: a pixel of the view is an edge if one of the mask's pixels in it is, so that no thin line is lost.

    The mask is not 0 on edges. `index` gives, for pixels of the view along either axis, the first of the mask's pixels that lie in each; not
    decreasing.

    Examples
    --------
    >>> from safron.io import open_mask
    >>> line = open_mask(np.array([[0, 0, 0, 0], [0, 0, 7, 0]], np.uint8))
    >>> ScaledEdges(line, (1, 2), lambda pixels: 2 * pixels)[0:1, 0:2]
    array([[0, 1]], dtype=uint8)
    """

    def __getitem__(self, region: tuple[slice, slice]) -> Labels:
        """Edges of a region: uint8 [y, x], 1 on them, else 0."""
        # One more: where the last pixel ends.
        rows, columns = (self._index(np.arange(part.start, part.stop + 1)) for part in region)
        if len(rows) < 2 or len(columns) < 2:
            return np.zeros((len(rows) - 1, len(columns) - 1), np.uint8)
        height, width = self.mask.shape
        # The last pixel may begin behind the centre of the mask's last one, whose value it then has.
        top, left = min(rows[0], height - 1), min(columns[0], width - 1)
        bottom, right = max(rows[-1], rows[-2] + 1), max(columns[-1], columns[-2] + 1)
        found = self.mask[top : min(bottom, height), left : min(right, width)] != 0
        beyond = (bottom - top - found.shape[0], right - left - found.shape[1])
        found = np.pad(found, [(0, beyond[0]), (0, beyond[1])], "edge")
        down = np.logical_or.reduceat(found, rows[:-1] - top, axis=0)
        edges: Labels = np.logical_or.reduceat(down, columns[:-1] - left, axis=1).view(np.uint8)
        return edges
