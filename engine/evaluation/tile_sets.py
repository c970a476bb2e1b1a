"""Which pictures are compared when two sets of images are?

Tiles of one size, cut side by side from images or slides, tissue only, and as many of one set as of the other: every
statistic here is biased by the number of tiles, and none is comparable across sizes, pixel sizes or JPEG qualities.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.slides.reader import Pixels

from .gradients import find_tissue

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


def find_tiles(
    source: str | Path, *, size: int, most: int, seed: int = 0, jpeg: int | None = None
) -> TileSet:
    """Choose tiles that hold tissue from a folder of images, a slide or an image.

    Every place of every file has a random number; of those with tissue, the ones with the lowest are taken. So each
    place is as likely as any other, and of what lies above the numbers at hand nothing is read.

    Parameters
    ----------
    source : a folder (searched with all below it), or one file.
    size : pixels a side.
    most : tiles, all there are where there are no more.
    seed : of the choice.
    jpeg : see `TileSet`.

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
    rng = np.random.default_rng(seed)
    chosen: list[_Numbered] = []
    mpp = None
    for index, file in enumerate(files):
        with Pixels(file) as pixels:
            mpp = mpp or pixels.mpp
            numbers = rng.random((pixels.shape[0] // size) * (pixels.shape[1] // size))
            _choose(chosen, pixels, index, size=size, numbers=numbers, most=most)
    if not chosen:
        raise BadInput(f"{source}: has no tile of {size} x {size} pixels with tissue; lower --size")
    places = tuple((files[index], y, x) for _, index, y, x in sorted(chosen, key=lambda found: found[1:]))
    return TileSet(str(source), size, places, mpp, jpeg)


_Numbered = tuple[float, int, int, int]
"""Less its random number, index of the file, y and x: the highest number comes first from a heap."""


def _choose(
    chosen: list[_Numbered],
    pixels: Pixels,
    file: int,
    *,
    size: int,
    numbers: npt.NDArray[np.float64],
    most: int,
) -> None:
    """Put a file's places with tissue on the heap, those with low numbers first, as long as they are among the lowest."""
    columns = pixels.shape[1] // size
    for index in np.argsort(numbers):
        number = float(numbers[index])
        if len(chosen) >= most and number >= -chosen[0][0]:
            return
        y, x = (int(index) // columns) * size, (int(index) % columns) * size
        if find_tissue(pixels.read(y, x, size, size)).mean() >= LEAST_TISSUE:
            add = heapq.heappush if len(chosen) < most else heapq.heapreplace
            add(chosen, (-number, file, y, x))


def _code(tile: Tile, quality: int | None) -> Tile:
    """Pass a tile through JPEG, so that both sets have the same losses."""
    if quality is None:
        return tile
    coded = cv2.imencode(".jpg", tile[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1])
