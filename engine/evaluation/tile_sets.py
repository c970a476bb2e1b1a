"""Which tiles are compared when two sets of images are?

Tiles have one size, are cut side by side from images or slides, and hold tissue; both sets have the same number of them.
Every statistic depends on the number of tiles, and none can be compared across tile sizes, pixel sizes or JPEG qualities.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.image_pages import warn_of_pages
from safron.io.masks.image_kinds import slide_vendor
from safron.io.masks.pair_files import IMAGES as PICTURES
from safron.io.masks.pair_files import list_images
from safron.io.pair_names import find_masks
from safron.io.slides.reader import Pixels

from .boundary_profiles import find_tissue

Tile = npt.NDArray[np.uint8]

IMAGES = (*sorted(PICTURES), ".svs")
LEAST_TISSUE_IN_TILE = 0.5
"""Smallest share of a tile's pixels that is tissue."""


@dataclass(frozen=True)
class TileSet:
    """A set of tiles; their pixels are read while iterating.

    Attributes
    ----------
    source
        Folder, slide or image.
    size
        Pixels a side.
    places
        File, y and x of each tile, in the order in which they are read.
    mpp
        Micrometres per pixel of the first file, or None.
    jpeg
        Quality at which every tile is coded once more, or None.
    left_out
        Masks of training pairs that lie in the folder and are not tissue.
    """

    source: str
    size: int
    places: tuple[tuple[Path, int, int], ...]
    mpp: float | None
    jpeg: int | None = None
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.places)

    @property
    def files(self) -> frozenset[Path]:
        """Where the files of the tiles really lie, whatever links lead there."""
        return frozenset(path.resolve() for path in {path for path, _, _ in self.places})

    def take(self, count: int, *, seed: int) -> TileSet:
        """Return `count` tiles chosen at random, still in their order."""
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self.places))[:count])
        return replace(self, places=tuple(self.places[index] for index in chosen))

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

    Every place of every file gets a random number, and the places with tissue that have the lowest numbers are taken.
    So each place is as likely as any other, and places whose number is too high are not read. Masks beside images, as
    training pairs have them, are left out.

    Parameters
    ----------
    source
        A folder (searched with all its sub-folders), or one file.
    size
        Pixels a side.
    most
        Most tiles to take.
    seed
        Seed of the choice.
    jpeg
        See `TileSet`.

    Raises
    ------
    BadInput
        There is no image, or no tile of this size with tissue.
    """
    check_sources([source])
    path = Path(source)
    found = list_images(path, IMAGES) if path.is_dir() else [path]
    masks = find_masks(found) if path.is_dir() else set()
    files = [file for file in found if file not in masks]
    if not files:
        raise BadInput(f"{source}: this folder holds no image ({', '.join(IMAGES)})")
    # Slides of scanners have a label and an overview beside their levels.
    warn_of_pages(file for file in files if slide_vendor(file) in (None, "generic-tiff"))
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
    places = tuple((files[index], y, x) for _, index, y, x in sorted(chosen, key=lambda place: place[1:]))
    return TileSet(str(source), size, places, mpp, jpeg, len(masks))


def check_sources(sources: Iterable[str | Path]) -> None:
    """Raise `BadInput` if one is not there, before minutes go into the others."""
    for source in sources:
        if not Path(source).exists():
            raise BadInput(f"{source}: there is no such file or folder")


def count_shared(real: TileSet, fake: TileSet) -> int:
    """Count the files of `fake` that are in `real`, too; raise `BadInput` if all are."""
    shared = len(fake.files & real.files)
    if shared == len(fake.files):
        raise BadInput(
            f"{fake.source}: all of it is in {real.source}, too, and a set has no distance from itself; give two sets"
        )
    return shared


_Numbered = tuple[float, int, int, int]
"""Negative random number, index of the file, y and x: a heap gives the highest number first."""


def _choose(
    chosen: list[_Numbered],
    pixels: Pixels,
    file: int,
    *,
    size: int,
    numbers: npt.NDArray[np.float64],
    most: int,
) -> None:
    """Put a file's places with tissue on the heap as long as their numbers are among the `most` lowest."""
    columns = pixels.shape[1] // size
    for index in np.argsort(numbers):
        number = float(numbers[index])
        if len(chosen) >= most and number >= -chosen[0][0]:
            return
        y, x = (int(index) // columns) * size, (int(index) % columns) * size
        if find_tissue(pixels.read(y, x, size, size)).mean() >= LEAST_TISSUE_IN_TILE:
            add = heapq.heappush if len(chosen) < most else heapq.heapreplace
            add(chosen, (-number, file, y, x))


def _code(tile: Tile, quality: int | None) -> Tile:
    """Code and decode a tile as JPEG, so that both sets have the same losses."""
    if quality is None:
        return tile
    coded = cv2.imencode(".jpg", tile[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)[:, :, ::-1])
