"""How does a style vary over a slide without steps?

A style field is a coarse lattice of vectors over the canvas, a Zarr of floats [S, rows, columns]. A pixel has the vector
that is interpolated linearly between the four lattice points around it; beyond the outermost points the nearest one. A
generator whose card says ``"field": true`` reads such values in each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import zarr
from safron.engine.plan.planes import PlaneSpec
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, one_line
from zarr.storage import LocalStore

Float32 = npt.NDArray[np.float32]

MAX_BYTES = 64 << 20
"""Of a field; each process holds it in memory."""


def read_field(path: str) -> Float32:
    """Read a style field.

    Parameters
    ----------
    path
        Folder of a Zarr array of floats [S, rows, columns].

    Returns
    -------
    Float32
        [S, rows, columns].

    Raises
    ------
    BadInput
        It is none, or has values that are not finite.
    """
    try:
        array = zarr.open_array(LocalStore(path, read_only=True), mode="r")
        if array.ndim != 3 or array.dtype.kind != "f" or 0 in array.shape or array.nbytes > MAX_BYTES:
            size = " x ".join(map(str, array.shape))
            raise BadInput(
                f"{path}: holds {size} of {array.dtype}; a style field is floats [S, rows, columns] of at most {MAX_BYTES >> 20} MiB"
            )
        values = np.asarray(array[:], np.float32)
    except BadInput:
        raise
    except Exception as error:  # no Zarr, a group, or damaged
        raise BadInput(f"{path}: cannot read it as a Zarr array ({one_line(error)})") from error
    if not np.isfinite(values).all():
        raise BadInput(f"{path}: has values that are not finite; correct the style field")
    return values


@lru_cache(maxsize=2)
def _kept(path: str, content: str) -> Float32:
    """Read a style field once in each process; `content` tells a changed one from it."""
    return read_field(path)


def field_spec(channels: int, content: str) -> PlaneSpec:
    """Describe the input "style" of a generator that reads it in each pixel."""
    return PlaneSpec("style", channels, low=0.0, content=content)


@dataclass(frozen=True)
class StyleField:
    """The input "style", float32 [N, S, y, x].

    Attributes
    ----------
    path
        Of the field; empty for one vector everywhere.
    vector
        That vector.
    shape
        Pixels (height, width) of the canvas.
    content
        Says which style it is.
    """

    path: str
    vector: tuple[float, ...]
    shape: tuple[int, int]
    content: str

    @property
    def spec(self) -> PlaneSpec:
        """See `PlaneSource`."""
        return field_spec(len(self.vector), self.content)

    def read(self, window: Window) -> Float32:
        """See `PlaneSource`."""
        if not self.path:
            flat = np.array(self.vector, np.float32)[:, None, None]
            return np.ascontiguousarray(np.broadcast_to(flat, (len(flat), window.height, window.width)))
        field = _kept(self.path, self.content)
        upper, lower, down = _between(window.y, window.height, self.shape[0], field.shape[1])
        left, right, across = _between(window.x, window.width, self.shape[1], field.shape[2])
        rows = field[:, upper] + (field[:, lower] - field[:, upper]) * down[:, None]
        result: Float32 = rows[:, :, left] + (rows[:, :, right] - rows[:, :, left]) * across
        return result


def _between(
    start: int, length: int, pixels: int, points: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32]:
    """Lattice points on both sides of each pixel along an axis, and the share of the second."""
    place = (np.arange(start, start + length) + 0.5) * (points / pixels) - 0.5
    place = np.clip(place, 0, points - 1)
    first = np.minimum(np.floor(place).astype(np.int64), max(0, points - 2))
    return first, np.minimum(first + 1, points - 1), (place - first).astype(np.float32)
