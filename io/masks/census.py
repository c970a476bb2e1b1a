"""Which share of a mask has each label?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from safron.io.errors import BadInput

from .array_plane import ArrayPlane
from .mask import LabelMask
from .write import CHUNK, blocks

REGION = 1 << 26
"""Most pixels that are read at a time."""

MOST_CHUNKS = 1 << 22
"""Chunks that are read one by one where the storage does not say which of them exist."""


def count_labels(mask: LabelMask, progress: Callable[[int], None] = lambda pixels: None) -> dict[int, int]:
    """Count the pixels of each label, reading only what is stored.

    Parameters
    ----------
    mask
        Of any declared size: chunks of a Zarr that are not stored are counted by arithmetic.
    progress
        Called with the number of pixels in each region that was read.

    Returns
    -------
    dict[int, int]
        Pixels by label value, exact, in order of value; labels without pixels are left out.

    Raises
    ------
    BadInput
        A value is not a label, or the mask declares more chunks than can be read and its storage is not listed.
    """
    counts, rest = np.zeros(256, object), math.prod(mask.shape)
    plane = mask.plane
    stored = plane.stored() if isinstance(plane, ArrayPlane) else None
    if stored is None:
        chunks = math.prod(-(-length // side) for length, side in zip(mask.shape, mask.chunks, strict=True))
        if chunks > MOST_CHUNKS:
            raise BadInput(
                f"mask {mask.source}: it declares {mask.shape[1]} x {mask.shape[0]} pixels in {chunks} chunks, more than "
                "can be read; copy it to this machine, or check its metadata"
            )
        regions: Iterable[tuple[slice, slice]] = blocks(
            *mask.shape, (CHUNK, min(max(mask.chunks[1], 4096), REGION // CHUNK))
        )
    else:
        regions = _pieces(stored, mask.chunks[0])
    for rows, cols in regions:
        labels = mask[rows, cols]
        for value, count in enumerate(np.bincount(labels.reshape(-1), minlength=256).tolist()):
            counts[value] += count
        rest -= labels.size
        progress(labels.size)
    if rest:
        assert isinstance(plane, ArrayPlane)
        fill = int(plane.array.fill_value or 0)
        if not 0 <= fill <= 255:
            raise BadInput(
                f"mask {mask.source}: value {fill} in all chunks that are not stored; labels are whole numbers from 0 to 255: translate "
                "others with safron-mask import --map"
            )
        counts[fill] += rest
    return {value: int(count) for value, count in enumerate(counts) if count}


def _pieces(regions: Iterable[tuple[slice, slice]], height: int) -> Iterator[tuple[slice, slice]]:
    """Cut large regions, such as those of shards, into strips of whole chunks."""
    for rows, cols in regions:
        step = height * max(1, REGION // (height * (cols.stop - cols.start)))
        for y in range(rows.start, rows.stop, step):
            yield slice(y, min(y + step, rows.stop)), cols
