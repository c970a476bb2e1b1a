"""What colours has an initial picture, window by window?

The picture is as large as the canvas: a Zarr or OME-Zarr of RGB bytes, or any slide or image that OpenSlide or libvips
opens. Beyond the canvas it goes on with its nearest pixel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from safron.engine.plan.planes import PlaneSpec
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, Failed, SafronError, one_line
from safron.io.masks.fingerprint import content_facts
from safron.io.masks.ome import read_level
from safron.io.masks.zarr_inline import read_here
from safron.io.masks.zarr_masks import axis_names, is_transposed, open_node
from safron.io.slides.reader import Pixels

from .noise import normal_noise

UInt8 = npt.NDArray[np.uint8]
Read = Callable[[Window], UInt8]

RULE = "a picture has three channels of 8 bits, R, G and B; give the picture itself, or convert it"

CACHE_BYTES = 64 << 20
"""Memory for decoded chunks of a picture, in each process."""


@dataclass(frozen=True)
class Picture:
    """Colours of a whole canvas.

    Attributes
    ----------
    shape
        Pixels (height, width).
    read
        Reads a window inside: uint8 [y, x, 3]; safe to call from many threads.
    mpp
        Micrometres per pixel, of a slide that says so; None elsewhere.
    """

    shape: tuple[int, int]
    read: Read
    mpp: float | None = None

    def around(self, window: Window) -> UInt8:
        """Read a window of which some pixel lies on the canvas.

        Parameters
        ----------
        window
            Canvas pixels; beyond the canvas the nearest pixel goes on.

        Returns
        -------
        UInt8
            [3, window.height, window.width].
        """
        inside = window.clip(Window(0, 0, *self.shape))
        colours = self.read(inside).transpose(2, 0, 1)
        before = inside.y - window.y, inside.x - window.x
        after = window.y_stop - inside.y_stop, window.x_stop - inside.x_stop
        margins = [(0, 0), *zip(before, after, strict=True)]
        return np.pad(colours, margins, mode="edge")


def open_picture(path: str) -> Picture:
    """Open a picture.

    Parameters
    ----------
    path
        A Zarr array, an OME-Zarr image, a slide or an image, on this machine.

    Returns
    -------
    Picture
        Its full-size level.

    Raises
    ------
    BadInput
        It is missing, cannot be read, or has no RGB colours of 8 bits.
    """
    if not Path(path).exists():
        raise BadInput(f"{path}: there is no such file or folder; give a Zarr, a slide or an image")
    if not Path(path).is_dir():
        pixels = Pixels(path)
        if pixels.grey:
            raise BadInput(f"{path}: has one channel; {RULE}")
        return Picture(
            pixels.shape,
            lambda window: pixels.read(window.y, window.x, window.height, window.width),
            pixels.mpp,
        )
    try:
        return _zarr_picture(path)
    except SafronError:
        raise
    except FileNotFoundError as error:
        raise BadInput(f"{path}: this folder is not a Zarr; give a Zarr, a slide or an image") from error
    except Exception as error:  # damaged
        raise BadInput(f"{path}: cannot open it as a Zarr image ({one_line(error)})") from error


def _zarr_picture(path: str) -> Picture:
    node: Any = open_node(path)
    names: Sequence[str] = ()
    beside = ""
    if isinstance(node, zarr.Group):
        level = read_level(dict(node.attrs))
        if level is None:
            raise BadInput(
                f"{path}: this Zarr group is not an OME-Zarr image; give the path of the image inside it"
            )
        # A mask of nuclei with its picture names the labels as its image.
        beside = f"; there is {path}/image" if "image" in node else ""
        node, names = node[level.path], level.axes
    if is_transposed(names or axis_names(node) or ()):
        raise BadInput(f"{path}: axis x comes before y; a picture's rows come first: transpose it")
    long = [axis for axis, length in enumerate(node.shape) if length != 1]
    colour = long[-1] if len(long) == 3 and node.shape[long[-1]] == 3 else long[0] if len(long) == 3 else None
    if node.dtype != np.uint8 or colour is None or node.shape[colour] != 3:
        size = " x ".join(map(str, node.shape))
        raise BadInput(f"{path}: holds {size} of {node.dtype}; {RULE}{beside}")
    y, x = (axis for axis in long if axis != colour)
    height, width = (min(side, node.chunks[axis]) for axis, side in ((y, node.shape[y]), (x, node.shape[x])))

    def read_part(rows: slice, columns: slice) -> UInt8:
        index = [slice(0, length) for length in node.shape]
        index[y], index[x] = rows, columns
        try:
            values = np.asarray(read_here(node, tuple(index)))
        except Exception as error:  # of codecs and disks
            raise Failed(
                f"{path}: cannot read it at x={columns.start}, y={rows.start}: {one_line(error)}"
            ) from error
        squeezed = values.reshape([values.shape[axis] for axis in long])
        return np.moveaxis(squeezed, long.index(colour), -1)

    shape = (node.shape[y], node.shape[x])

    def read_chunk(row: int, column: int) -> UInt8:
        top, left = row * height, column * width
        part = read_part(slice(top, min(top + height, shape[0])), slice(left, min(left + width, shape[1])))
        return np.ascontiguousarray(part)

    chunk = lru_cache(maxsize=max(1, CACHE_BYTES // (3 * height * width)))(read_chunk)
    return Picture(shape, lambda window: _assembled(window, (height, width), chunk))


def _assembled(window: Window, side: tuple[int, int], chunk: Callable[[int, int], UInt8]) -> UInt8:
    """Put a window together from chunks."""
    out = np.empty((window.height, window.width, 3), np.uint8)
    for row in range(window.y // side[0], -(-window.y_stop // side[0])):
        for column in range(window.x // side[1], -(-window.x_stop // side[1])):
            part = chunk(row, column)
            place = Window(row * side[0], column * side[1], *part.shape[:2])
            shared = window.clip(place)
            out[shared.slices(window)] = part[shared.slices(place)]
    return out


@lru_cache(maxsize=2)
def _kept_open(path: str, content: str) -> Picture:
    """Open a picture once in each process, with its decoded chunks; `content` tells a changed one from it."""
    return open_picture(path)


def content_of(path: str) -> str:
    """Hash all files of a picture.

    Parameters
    ----------
    path
        A file or folder of this machine.

    Returns
    -------
    str
        32 hex digits.
    """
    try:
        facts = "".join(content_facts(path))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from error
    return hashlib.sha256(facts.encode()).hexdigest()[:32]


def initial_spec(content: str) -> PlaneSpec:
    """Describe the input "initial"; `content` says which picture it is."""
    return PlaneSpec("initial", 3, "uint8", low=0, high=255, content=content)


@dataclass(frozen=True)
class InitialPicture:
    """The input "initial": RGB of a picture that is as large as the canvas.

    Attributes
    ----------
    path
        Of the picture; colours made up from the position where it is empty, for measurements without one.
    content
        See `content_of`.
    """

    path: str
    content: str

    @property
    def spec(self) -> PlaneSpec:
        """See `PlaneSource`."""
        return initial_spec(self.content)

    def read(self, window: Window) -> UInt8:
        """See `PlaneSource`."""
        if self.path:
            return _kept_open(self.path, self.content).around(window)
        return (
            np.rint(185 + 25 * normal_noise(window, seed=0, scales=(2, 2, 2))).clip(0, 255).astype(np.uint8)
        )
