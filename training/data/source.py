"""What can training windows be read from?

A `Source` holds items (images, or parts of slides) from which windows of image and labels are read. `Pairs` is the
source of whole images; `slide_tiles.SlideTiles` reads from whole-slide files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput
from safron.io.measures.guides import Guides, draw_guides

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One window: `labels` uint8 [y, x], `image` uint8 [y, x, 3] RGB, `cues` and `trust` float32 [c, y, x] (see `Pairs`).

    `guides` float32 [g, y, x] and `style` float32 [s] are empty for a generator that takes none.
    """

    labels: Bytes
    image: Bytes
    cues: Floats
    trust: Floats
    guides: Floats
    style: Floats
    edges: Bytes | None = None

    def coarse(self, factor: int) -> Bytes | None:
        """Return the image as if it had been made `factor` times coarser and enlarged: uint8 [3, y, x]; None for 0."""
        if not factor:
            return None
        height, width = self.image.shape[:2]
        small = cv2.resize(self.image, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(np.moveaxis(large, -1, 0), np.uint8)


class Source(Protocol):
    """Items that windows are read from, each of one slide, at the generator's pixel size."""

    @property
    def name(self) -> str:
        """Name of the data set, for the card."""

    @property
    def slides(self) -> tuple[str, ...]:
        """Slide of each item; a slide is never split between training and held-out data."""

    @property
    def aside(self) -> tuple[str, ...]:
        """Slides that the owners of the data keep for testing."""

    @property
    def mpp(self) -> float | None:
        """Pixel size at which windows are read, in micrometres; None where it is not known."""

    @property
    def told(self) -> str:
        """How the data were read, for the user."""

    def __len__(self) -> int:
        """Number of items."""

    def take(self, indices: Sequence[int]) -> Self:
        """Return the items at `indices`."""

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose the upper row and the left column of a window of `side` pixels in an item."""

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`."""

    def tiles(self, side: int, stride: int) -> int:
        """Count the windows of `side` pixels at every `stride`: one epoch."""


S = TypeVar("S", bound=Source)


class Labels(Protocol):
    """Labels of a whole item, read where they are sliced."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels (height, width)."""

    def __getitem__(self, region: tuple[slice, slice]) -> Bytes:
        """Labels of a region: uint8 [y, x]."""


def guides_at(labels: Labels, place: tuple[int, int], size: tuple[int, int], guides: Guides | None) -> Floats:
    """Draw the guides of a window of some height and width, as a render does whose canvas is the item; else [0, y, x]."""
    if guides is None:
        return np.zeros((0, *size), np.float32)
    wanted = [(at - guides.reach, at + length + guides.reach) for at, length in zip(place, size, strict=True)]
    inside = [
        (max(0, first), min(end, whole)) for (first, end), whole in zip(wanted, labels.shape, strict=True)
    ]
    margins = [
        (start - first, end - stop) for (first, end), (start, stop) in zip(wanted, inside, strict=True)
    ]
    part = labels[slice(*inside[0]), slice(*inside[1])]
    return draw_guides(np.pad(part, margins, mode="edge"), (wanted[0][0], wanted[1][0]), guides)


def count_tiles(height: int, width: int, side: int, stride: int) -> int:
    """Count the windows that cover an image, as the SAFRON paper cuts them: the last ones end at the image's edge.

    >>> count_tiles(1512, 1516, 728, 200)  # an image of CRAG; 39 of them give the paper's 975 tiles
    25
    """
    return math.prod(math.ceil(max(0, length - side) / stride) + 1 for length in (height, width))


def split(source: S, held_out: float) -> tuple[S, S]:
    """Split by slide into training and held-out items: the owners' test slides, or else a share. A single slide serves as both.

    Raises
    ------
    BadInput
        Nothing is left to train on.
    """
    if held_out <= 0 or len(set(source.slides)) < 2:
        return source, source
    names = sorted(set(source.slides), key=lambda slide: hashlib.sha256(slide.encode()).hexdigest())
    aside = set(source.aside or names[: max(1, round(held_out * len(names)))])
    if len(aside) == len(names):
        raise BadInput(
            f"held_out is {held_out:g}, which of {len(names)} slides leaves none to train on; give less"
        )
    inside = np.array([slide in aside for slide in source.slides])
    return source.take(np.flatnonzero(~inside).tolist()), source.take(np.flatnonzero(inside).tolist())


@dataclass(frozen=True)
class Pairs:
    """Pairs of image and labels, in memory or mapped from a file.

    Attributes
    ----------
    images, labels
        uint8 [y, x, 3] each, RGB, and uint8 [y, x] each.
    cues, trust
        float16 [c, y, x] each: darkness of gland and of stroma (see `cues`), standard normal over the data set; and in 0..1
        how much that means, 0 where no pixel of the class is near. Empty for a generator without cues.
    slides, name
        Slide of each pair, and name of the data set.
    zoom
        Pixels of the generator along one pixel of the pairs; they are enlarged as they are read.
    mpp, aside, told
        See `Source`.
    guides
        Which guides are drawn around each window, or None; then `zoom` is 1.
    styles
        float32 [s] each, or empty for a generator without a style.
    edges
        uint8 [y, x] each: 1 on edges of nuclei; empty for a generator that does not take them.
    """

    images: tuple[Bytes, ...]
    labels: tuple[Bytes, ...]
    cues: tuple[npt.NDArray[np.float16], ...]
    trust: tuple[npt.NDArray[np.float16], ...]
    slides: tuple[str, ...]
    zoom: float = 1.0
    name: str = ""
    mpp: float | None = None
    aside: tuple[str, ...] = ()
    told: str = ""
    guides: Guides | None = None
    styles: tuple[Floats, ...] = ()
    edges: tuple[Bytes, ...] = ()

    def __len__(self) -> int:
        return len(self.slides)

    def take(self, indices: Sequence[int]) -> Self:
        """Return the pairs at `indices`."""
        parts: dict[str, Any] = {
            name: tuple(getattr(self, name)[i] for i in indices) if getattr(self, name) else ()
            for name in ("images", "labels", "cues", "trust", "slides", "styles", "edges")
        }
        return replace(self, **parts)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of a pair, in the generator's pixels."""
        height, width = self.labels[index].shape
        return int(height * self.zoom), int(width * self.zoom)

    def place(self, rng: np.random.Generator, index: int, side: int) -> tuple[int, int]:
        """Choose any place that lies inside the pair."""
        height, width = self.size(index)
        return int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))

    def read(self, index: int, place: tuple[int, int], side: int) -> Sample:
        """Read the window at `place`, enlarged by `zoom`."""
        labels, image = self.labels[index], self.images[index]
        style = self.styles[index] if self.styles else np.zeros(0, np.float32)
        guides = guides_at(labels, place, (side, side), self.guides)
        if self.zoom == 1.0:
            window = np.s_[place[0] : place[0] + side, place[1] : place[1] + side]
            # Only the window becomes float32: casting whole images took most of a batch's time.
            cues, trust = (
                self._planes(part, index, window).astype(np.float32) for part in (self.cues, self.trust)
            )
            edges = self.edges[index][window] if self.edges else None
            return Sample(labels[window], image[window], cues, trust, guides, style, edges)

        def enlarge(array: npt.NDArray[Any], how: int, first: tuple[int, int]) -> npt.NDArray[Any]:
            # Pixel centres: (i + 0.5) of the result lies at (i + 0.5) / zoom of the pair, whose pixel `first` is the array's.
            y, x = ((at + 0.5) / self.zoom - 0.5 - begin for at, begin in zip(place, first, strict=True))
            matrix = np.array([[1 / self.zoom, 0, x], [0, 1 / self.zoom, y]])
            flags, border = how | cv2.WARP_INVERSE_MAP, cv2.BORDER_REPLICATE
            return np.asarray(cv2.warpAffine(array, matrix, (side, side), flags=flags, borderMode=border))

        # Four pixels more on each side than the window, as far as the kernel can reach.
        top, left = (max(0, int(start / self.zoom) - 4) for start in place)
        reach = int(side / self.zoom) + 10
        window = np.s_[top : top + reach, left : left + reach]
        cues, trust = (
            np.stack([enlarge(plane.astype(np.float32), cv2.INTER_LINEAR, (top, left)) for plane in planes])
            for planes in (self._planes(part, index, window) for part in (self.cues, self.trust))
        )
        # Each pixel gets the label that covers most of its surroundings, so that outlines are smooth, not stepped.
        # A small image is enlarged from all of it, as in version 0.1: from a part, one value in 10,000 differs by 1.
        near, corner = (window, (top, left)) if labels.size > 1 << 18 else (np.s_[:, :], (0, 0))
        values = np.unique(labels[near])
        shares = [
            enlarge((labels[near] == value).astype(np.float32), cv2.INTER_LINEAR, corner) for value in values
        ]
        largest = np.asarray(values[np.argmax(shares, axis=0)], np.uint8)
        return Sample(largest, enlarge(image[near], cv2.INTER_CUBIC, corner), cues, trust, guides, style)

    def _planes(
        self, part: tuple[npt.NDArray[np.float16], ...], index: int, window: tuple[slice, slice]
    ) -> npt.NDArray[np.float16]:
        """A window of the cues or of the trust in them; zeros where there are none."""
        return (
            part[index][:, *window] if part else np.zeros((2, *self.labels[index][window].shape), np.float16)
        )

    def tiles(self, side: int, stride: int) -> int:
        """Count the windows of all pairs."""
        return sum(count_tiles(*self.size(index), side, stride) for index in range(len(self)))
