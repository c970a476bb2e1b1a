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
