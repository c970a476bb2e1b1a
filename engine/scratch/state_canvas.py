"""Where does a sampler's running picture wait between two passes over the canvas?

In a Zarr array of scratch, ``state``: float16 or float32 [channels, height, width] of the drawn region, in chunks of one
TIFF tile. A block consists of whole chunks, so a chunk has one writer. Chunks are durable when they are written, and end
with a checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.io.errors import Failed, one_line
from safron.io.masks.zarr_chunks import assemble

from .chunk_codec import decode_chunk, encode_chunk
from .shared_arrays import Layout, SharedArrays

NAME = "state"


def state_layouts(plan: RenderPlan) -> dict[str, Layout]:
    """Return the layout of the array, by name; none without a sampler."""
    if plan.passes is None:
        return {}
    channels, tile = plan.passes.channels, plan.slide.tile
    shape = (channels, plan.drawn.height, plan.drawn.width)
    return {NAME: (shape, (channels, tile, tile), np.dtype(plan.passes.state))}


class StateCanvas:
    """The running picture after one step.

    Parameters
    ----------
    arrays
        Where it is stored.
    """

    def __init__(self, arrays: SharedArrays) -> None:
        self._arrays = arrays

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, height and width."""
        return tuple(self._arrays.open(NAME).shape)

    @property
    def chunk(self) -> int:
        """Side of a chunk in pixels."""
        return int(self._arrays.open(NAME).chunks[1])

    def write(self, window: Window, values: npt.NDArray[np.float32]) -> None:
        """Store whole chunks, or less at the far edges.

        Parameters
        ----------
        window
            Pixels, counted from the first of the picture.
        values
            float32 [channels, window.height, window.width]; rounded to the stored type.
        """
        array = self._arrays.open(NAME)
        for index, part in self._chunks(window):
            whole = np.zeros(array.chunks, array.dtype)
            whole[:, : part.height, : part.width] = values[(slice(None), *part.slices(window))]
            self._arrays.write(_file(index), encode_chunk(whole), durable=True)

    def read(self, window: Window, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Load a window that lies inside the picture: [channels, window.height, window.width], of the stored type.

        Parameters
        ----------
        window
            Pixels, counted from the first of the picture.
        out
            Memory for it; None for new memory.

        Raises
        ------
        Failed
            A chunk is missing or damaged.
        """
        try:
            array = self._arrays.open(NAME)
            region = (slice(0, array.shape[0]), *window.slices())
            if out is None:
                out = np.empty((array.shape[0], window.height, window.width), array.dtype)
            return assemble(region, array.chunks, out, lambda index: self._load((index[1], index[2])))
        except (OSError, ValueError, RuntimeError) as error:
            raise Failed(
                f"the sampler's running picture is missing or damaged in part ({one_line(error)}); start over with --fresh"
            ) from error

    def is_whole(self, window: Window) -> bool:
        """Whether all chunks of a window can be read; a power cut may have torn them."""
        try:
            for index, _ in self._chunks(window):
                self._load(index)
        except (OSError, ValueError, RuntimeError):
            return False
        return True

    def free(self, chunk: tuple[int, int]) -> None:
        """Delete a chunk; nothing happens if it is gone."""
        self._arrays.delete(_file(chunk))

    def _load(self, index: tuple[int, int]) -> npt.NDArray[Any]:
        array = self._arrays.open(NAME)
        return decode_chunk(self._arrays.read(_file(index)), array.dtype).reshape(array.chunks)

    def _chunks(self, window: Window) -> Iterator[tuple[tuple[int, int], Window]]:
        """Give the chunks that a window touches, each with its pixels inside the window."""
        size = self._arrays.open(NAME).chunks[1]
        rows = range(window.y // size, -(-window.y_stop // size))
        columns = range(window.x // size, -(-window.x_stop // size))
        for row, column in product(rows, columns):
            yield (row, column), Window(row * size, column * size, size, size).clip(window)


def _file(index: tuple[int, int]) -> str:
    return f"{NAME}/c.0.{index[0]}.{index[1]}"
