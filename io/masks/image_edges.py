"""Where are the edges of a slide, by Canny's method, when it does not fit into memory?

Candidates depend on a few pixels. Which of the weak ones are edges depends on what they hang together with, however far away; so a
slide is read twice, block by block:

    first   candidates of each block are found and kept; their parts, joined within the block, are noted where they touch its rim
    then    parts of neighbouring blocks that touch are joined: what hangs together with a strong candidate is an edge
    last    each block is written: candidates whose part is an edge

The result is that of the whole picture, for blocks of any size. In memory are a block for each thread and the rims.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import zarr
import zarr.codecs
from safron.io.errors import BadInput
from safron.io.files import what_is_there
from safron.io.legend import Label
from zarr.storage import LocalStore

from .canny import Canny, candidates
from .image_planes import ImagePlane, open_image
from .mask import read_plane
from .write import CHUNK, blocks, check_target, run_blocks, worker_count, write_labels

LABELS = (Label(0, "no edge", (0, 0, 0)), Label(1, "edge", (255, 255, 255)))

Integers = npt.NDArray[np.int64]
Place = tuple[int, int]


@dataclass
class Joined:
    """Parts of candidates, joined over blocks.

    Attributes
    ----------
    rims
        By the first row and column of a block: rows, columns and parts of its candidates on the rim, int64 [3, n].
    strong
        By the same: which parts hold a strong candidate, bool [parts + 1].
    """

    rims: dict[Place, Integers] = field(default_factory=dict)
    strong: dict[Place, npt.NDArray[np.bool_]] = field(default_factory=dict)

    def note(self, place: Place, found: npt.NDArray[np.uint8]) -> None:
        """Note the candidates [y, x] of a block."""
        parts, strong = parts_of(found)
        rim = np.zeros(found.shape, bool)
        rim[[0, -1]] = rim[:, [0, -1]] = True
        y, x = np.nonzero(rim & (parts > 0))
        self.rims[place] = np.stack([y + place[0], x + place[1], parts[y, x]]).astype(np.int64)
        self.strong[place] = strong

    def settle(self) -> None:
        """Hand strength on over the rims, once all blocks are noted."""
        places = sorted(self.rims)
        sizes = [len(self.strong[place]) for place in places]
        first = dict(zip(places, np.cumsum([0, *sizes]).tolist(), strict=False))
        columns = [
            np.concatenate([self.rims[place][:2], self.rims[place][2:] + first[place]]) for place in places
        ]
        y, x, part = np.concatenate(columns, axis=1) if columns else np.zeros((3, 0), np.int64)
        width = int(x.max(initial=0)) + 3
        key = y * width + x
        order = np.argsort(key)
        key, part = key[order], part[order]
        pairs = []
        for step in (1, width - 1, width, width + 1):  # right, and the three below
            there = np.minimum(np.searchsorted(key, key + step), max(0, len(key) - 1))
            met = key[there] == key + step if len(key) else np.zeros(0, bool)
            pairs.append(np.stack([part[met], part[there[met]]]))
        group = join_parts(sum(sizes), np.unique(np.concatenate(pairs, axis=1), axis=1))
        strong = np.concatenate([self.strong[place] for place in places])
        strong = np.isin(group, group[strong])
        for place, size in zip(places, sizes, strict=True):
            self.strong[place] = strong[first[place] : first[place] + size]
            self.strong[place][0] = False


def join_parts(count: int, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give each of `count` parts a number that it shares with those that pairs [2, n] lead to."""
    parent = list(range(count))

    def root(part: int) -> int:
        while parent[part] != part:
            parent[part] = part = parent[parent[part]]
        return part

    for one, other in pairs.T.tolist():
        parent[root(one)] = root(other)
    return np.array([root(part) for part in range(count)], np.int64)


def parts_of(found: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Parts of candidates that hang together, int32 [y, x] from 1, and which of them are strong, bool [parts + 1]."""
    count, parts = cv2.connectedComponents((found > 0).astype(np.uint8), connectivity=8)
    strong = np.zeros(count, bool)
    strong[np.unique(parts[found == 2])] = True
    return np.asarray(parts), strong


def write_edges(
    source: Path,
    out: Path,
    settings: Canny,
    *,
    block: int = CHUNK,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> tuple[int, int, float | None]:
    """Write the edges of a slide or image as a mask of its size, 1 on edges.

    Parameters
    ----------
    source
        Any slide or image with colours.
    out
        Folder to create.
    settings
        Of Canny's method.
    block
        Pixels a side of what is read at a time; rounded up to whole chunks.
    workers
        Threads; None means one per core, at most 8.
    overwrite
        Replace a mask that exists at `out`.
    progress
        Called with the pixels of every block, twice each.

    Returns
    -------
    tuple of int, int, float or None
        Height and width in pixels, and micrometres per pixel.

    Raises
    ------
    BadInput
        The source cannot be read or has no colours, or `out` exists.
    Failed
        The disk refused a write.
    """
    check_target(out, overwrite=overwrite)
    if not source.is_file():
        raise BadInput(f"{source}: {what_is_there(source)}; give a slide or an image")
    plane: Any = open_image(source, str(source), {0: (0, 0, 0)}, 0)
    height, width = plane.shape
    if read_plane(plane.pixels, slice(0, 1), slice(0, 1), plane, str(source)).shape[2] < 3:
        raise BadInput(f"{source}: it has no colours; give the slide itself, not a mask")
    both = (block, block)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=f".{out.name}.") as scratch:
        found = _Candidates(plane, settings, Path(scratch))
        run_blocks(found.find, blocks(height, width, both), worker_count(workers), progress)
        found.joined.settle()
        write_labels(
            out, found.paint, height=height, width=width, mpp=plane.mpp, labels=LABELS, regions=blocks(height, width, both), workers=workers,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    return height, width, plane.mpp


class _Candidates:
    """Candidates of a whole picture, kept in a folder, and which of their parts hang together across blocks."""

    def __init__(self, plane: ImagePlane, settings: Canny, folder: Path) -> None:
        self.plane, self.settings, self.joined = plane, settings, Joined()
        self._kept: Any = zarr.create_array(
            LocalStore(folder),
            shape=plane.shape,
            chunks=(CHUNK, CHUNK),
            dtype="uint8",
            compressors=zarr.codecs.BloscCodec(cname="lz4"),
            config={"write_empty_chunks": False},
        )

    def find(self, rows: slice, cols: slice) -> int:
        """Find and keep those of a block; return its pixels."""
        around = read_around(self.plane, rows, cols, self.settings.margin)
        found = candidates(around, self.settings)
        self._kept[rows, cols] = found
        self.joined.note((rows.start, cols.start), found)
        return found.size

    def paint(self, rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        """Give the edges of a block, uint8 [y, x], once all are found and settled."""
        parts, _ = parts_of(np.asarray(self._kept[rows, cols]))
        return self.joined.strong[rows.start, cols.start][parts].view(np.uint8)


def read_around(plane: ImagePlane, rows: slice, cols: slice, margin: int) -> npt.NDArray[np.uint8]:
    """Read colours of a region and `margin` pixels around it, uint8 [y + 2m, x + 2m, 3]; the rim of the picture is repeated."""
    spans = [
        slice(max(0, part.start - margin), min(side, part.stop + margin))
        for part, side in zip((rows, cols), plane.shape, strict=True)
    ]
    pixels = read_plane(plane.pixels, spans[0], spans[1], plane, str(plane.path))
    colours, alpha = pixels[..., :3], pixels[..., 3:4]
    if alpha.size:  # transparent pixels were not scanned, and are white
        colours = np.where(alpha == 0, np.uint8(255), colours)
    missing = [
        (margin - (part.start - span.start), margin - (span.stop - part.stop))
        for part, span in zip((rows, cols), spans, strict=True)
    ]
    return np.pad(colours, (*missing, (0, 0)), mode="edge")
