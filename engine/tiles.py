"""Which pictures are compared when two sets of images are?

Tiles of one size, cut side by side from images or slides, tissue only, and as many of one set as of the other: every
statistic here is biased by the number of tiles, and none is comparable across sizes, pixel sizes or JPEG qualities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.pixels import Pixels

from .seams import find_tissue

Tile = npt.NDArray[np.uint8]

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".svs", ".bmp")
LEAST_TISSUE = 0.5


@dataclass(frozen=True)
class TileSet:
    """A set of tiles that are read when asked for.

    Attributes
    ----------
    source : folder, slide or image.
    size : pixels a side.
    places : file, y and x of each tile, in the order in which they are read.
    mpp : micrometres per pixel of the first file, or None.
    jpeg : quality at which every tile is coded once more, or None.
    """

    source: str
    size: int
    places: tuple[tuple[Path, int, int], ...]
    mpp: float | None
    jpeg: int | None = None

    def __len__(self) -> int:
        return len(self.places)

    def take(self, count: int, *, seed: int) -> TileSet:
        """Return `count` tiles chosen at random, still in their order."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.places))[:count])
        places = tuple(self.places[index] for index in chosen)
        return TileSet(self.source, self.size, places, self.mpp, self.jpeg)

    def __iter__(self) -> Iterator[Tile]:
        """Tiles uint8 [size, size, 3], RGB; one file is open at a time."""
        opened: Pixels | None = None
        try:
            for path, y, x in self.places:
                if opened is None or opened.path != path:
                    if opened is not None:
                        opened.close()
                    opened = Pixels(path)
                yield _code(opened.read(y, x, self.size, self.size), self.jpeg)
        finally:
            if opened is not None:
                opened.close()


def find_tiles(source: str | Path, *, size: int, jpeg: int | None = None, most: int = 20_000) -> TileSet:
    """Find the tiles of a folder of images, a slide or an image that hold tissue.

    Parameters
    ----------
    source : a folder (searched with all below it), or one file.
    size : pixels a side.
    jpeg : see `TileSet`.
    most : stop after this many; places are tried in a fixed random order, file by file.

    Raises
    ------
    BadInput
        There is no image, or no tile of this size with tissue.
    """
    path = Path(source)
    if not path.exists():
        raise BadInput(f"{source}: there is no such file or folder")
    files = (
        sorted(item for item in path.rglob("*") if item.suffix.lower() in IMAGES) if path.is_dir() else [path]
    )
    if not files:
        raise BadInput(f"{source}: this folder holds no image ({', '.join(IMAGES)})")
    places: list[tuple[Path, int, int]] = []
    mpp = None
    for file in files:
        with Pixels(file) as pixels:
            mpp = mpp or pixels.mpp
            places += _tissue_places(pixels, size, most - len(places))
        if len(places) >= most:
            break
    if not places:
        raise BadInput(f"{source}: has no tile of {size} x {size} pixels with tissue; lower --size")
    return TileSet(str(source), size, tuple(places), mpp, jpeg)


def _tissue_places(pixels: Pixels, size: int, most: int) -> list[tuple[Path, int, int]]:
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    found = []
    for index in np.random.default_rng(0).permutation(rows * columns):
        y, x = (int(index) // columns) * size, (int(index) % columns) * size
        if find_tissue(pixels.read(y, x, size, size)).mean() >= LEAST_TISSUE:
            found.append((pixels.path, y, x))
        if len(found) >= most:
            break
    return sorted(found)


def _code(tile: Tile, quality: int | None) -> Tile:
    """Pass a tile through JPEG, so that both sets have the same losses."""
    if quality is None:
        return tile
    coded = cv2.imencode(".jpg", tile[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1])
