"""How is any window of a synthetic picture drawn, with the nuclei in it?

    background   cells of tissue without nuclei, `CELL` pixels a side, each a random part of a real tile, faded into its
                 neighbours over `FADE` pixels so that the contrast stays what it was
    texture      the same, of another tile's eosin; it modulates the colour of nuclei
    mask         outlines filled, blurred at the border, cleared inside but for a rim and clumps
    picture      nuclei * mask + background * (1 - mask)       (Hou et al. 2017, equation 1)
    cover        ink, soot and dirt of the background lie upon everything: no nucleus is drawn or marked there

Every pixel is a function of seed and position: windows that overlap agree, whatever their size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.hashed_noise import normal, uniform

from .layout import Layout, Nuclei
from .soot import HIDES, soot
from .stains import UInt8
from .textures import CELL, DETAIL_SCALE, Texture

Float32 = npt.NDArray[np.float32]

FADE = 64
STRIDE = CELL - FADE
SAME_TILE = 4
"""Cells along a side of a square that take their tissue from one tile."""

BORDER_BLUR, CLEARING_BLUR = 1.1, 1.2
"""Standard deviations in pixels, of nuclear borders and of cleared interiors."""

CLEARED = 0.8
"""Share of the nuclei whose chromatin is cleared, each by any part of its colour."""

CLEARING_SIZE = (0.65, 0.88)
"""Least and largest cleared interior, in radii of the nucleus; the rest is its rim."""

CLUMPS, CLUMP_COLOUR = (0.3, 1.0), 0.9
"""Texture from which on chromatin stays in a cleared interior, and from which on it has this share of its colour."""

MARGIN = 8
"""Pixels drawn around a window, for the blurs."""

TEXTURE_GAIN, TONE = 0.4, 0.2
"""Standard deviation of a nucleus's density from pixel to pixel, and from nucleus to nucleus. With these, drawn nuclei have as
much fine grain as real ones of colon, and differ as much."""

DENSITY_STEPS = 256.0
_LIGHT = np.rint(256 * np.exp(-np.arange(2048) / DENSITY_STEPS) - 1).clip(0, 255).astype(np.uint8)
"""Colour value for each density, in steps."""


@dataclass(frozen=True)
class Picture:
    """A drawn window.

    Attributes
    ----------
    rgb
        uint8 [y, x, 3].
    classes
        uint8 [y, x]: 1 in nuclei, else 0.
    instances
        uint32 [y, x]: number of the nucleus, else 0; see `Nuclei`.
    """

    rgb: UInt8
    classes: UInt8
    instances: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Synthesizer:
    """Draws synthetic pictures.

    Attributes
    ----------
    textures
        What real tiles give; tissue and the colour of nuclei come from these.
    layout
        Where nuclei lie.
    details
        Where the texture of nuclei comes from; the same tiles where empty.
    soot
        0..1: how much soot lies upon all of it.
    """

    textures: Sequence[Texture]
    layout: Layout
    details: Sequence[Texture] = ()
    soot: float = 0.0

    def draw(self, y0: int, x0: int, y1: int, x1: int) -> Picture:
        """Draw a window of canvas pixels.

        Parameters
        ----------
        y0, x0, y1, x1
            The window; it may lie anywhere on the plane.

        Returns
        -------
        Picture
            Of this size.
        """
        background, tone, cover = self._background(y0, x0, y1, x1)
        nuclei = self.layout.near(y0 - MARGIN, x0 - MARGIN, y1 + MARGIN, x1 + MARGIN)
        detail = self._detail(y0, x0, y1, x1)
        places, spread, weight = self._masks(nuclei, detail, y0, x0, y1, x1)
        if self.soot:
            dirt = soot(self.layout.seed, y0, x0, y1, x1, amount=self.soot)
            cover = np.where(dirt[..., 1] > HIDES, np.uint8(255), cover)
        places[cover > 127] = 0
        weight = ((weight.astype(np.uint16) * (255 - cover) + 127) // 255).astype(np.uint8)
        instances = np.concatenate([[0], nuclei.numbers])[places].astype(np.uint32)
        classes = (places > 0).view(np.uint8)
        # Tone of each nucleus; in the blurred border of one, its texture goes on.
        shades = 1 + TONE * normal(self.layout.seed, 70, *nuclei.places.T)
        shade = np.concatenate([[1.0], shades.clip(0.6, 1.5)]).astype(np.float32)
        shade = shade[spread]
        density = tone * (shade * (1 + np.float32(TEXTURE_GAIN) * detail))[..., None]
        steps = np.rint(density * np.float32(DENSITY_STEPS)).clip(0, len(_LIGHT) - 1).astype(np.uint16)
        inside = _LIGHT[steps].astype(np.int32)
        share = weight.astype(np.int32)[..., None]
        rgb = (inside * share + background.astype(np.int32) * (255 - share) + 127) // 255
        if self.soot:
            rgb = np.rint(rgb * np.exp(-dirt))
        return Picture(np.ascontiguousarray(rgb, np.uint8), classes, instances)

    def _masks(
        self, nuclei: Nuclei, detail: Float32, y0: int, x0: int, y1: int, x1: int
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], UInt8]:
        """Places in `nuclei` from 1, the same with wider borders, and the blurred mask 0..255, all [y, x]."""
        # Outlines are drawn whole: what OpenCV clips, it may draw otherwise.
        more = MARGIN + 2 * self.layout.reach
        shape = (y1 - y0 + 2 * more, x1 - x0 + 2 * more)
        places, clear = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        origin = np.array([x0 - more, y0 - more])
        outlines = _fixed(nuclei.outlines - origin)
        seed, at = self.layout.seed, tuple(nuclei.places.T)
        sizes = CLEARING_SIZE[0] + (CLEARING_SIZE[1] - CLEARING_SIZE[0]) * uniform(seed, 122, *at)
        inner = nuclei.centres[:, None] + sizes[:, None, None] * (nuclei.outlines - nuclei.centres[:, None])
        inner_outlines = _fixed(inner - origin)
        cleared = uniform(seed, 120, *at) < CLEARED
        amounts = np.rint(255 * uniform(seed, 121, *at)).astype(int).tolist()
        for number, outline in enumerate(outlines):
            cv2.fillPoly(places, [outline], number + 1, shift=4)
            cv2.fillPoly(clear, [outline], 0, shift=4)
            if cleared[number]:
                cv2.fillPoly(clear, [inner_outlines[number]], amounts[number], shift=4)
        filled = np.where(places > 0, np.uint8(255), np.uint8(0))
        border = np.asarray(cv2.GaussianBlur(filled, (7, 7), BORDER_BLUR))
        hole = np.asarray(cv2.GaussianBlur(clear, (9, 9), CLEARING_BLUR))
        window = np.s_[more:-more, more:-more]
        clumps = ((detail - CLUMPS[0]) / (CLUMPS[1] - CLUMPS[0])).clip(0, 1)
        kept = 255 - hole[window] * (1 - np.float32(CLUMP_COLOUR) * clumps)
        weight = np.rint(border[window] * kept / 255).astype(np.uint8)
        return places[window], _spread(places)[window], weight

    def _background(self, y0: int, x0: int, y1: int, x1: int) -> tuple[UInt8, Float32, UInt8]:
        """Tissue without nuclei and the density of nuclei there, [y, x, 3], and what covers both, 0..255 [y, x].

        Each channel lies by itself in memory: arithmetic along a last axis of three takes several times as long.
        """
        shape = (y1 - y0, x1 - x0)
        mean, contrast, tone = (np.zeros((3, *shape), np.float32) for _ in range(3))
        squares, cover = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, col, part, weight in _cells(y0, x0, y1, x1):
            texture = self.textures[self._choice(130, row // SAME_TILE, col // SAME_TILE, len(self.textures))]
            crop = _crop(texture.background, self.layout.seed, 131, row, col, part)
            for channel in range(3):
                target = channel, *part.target
                mean[target] += weight * texture.mean[channel]
                contrast[target] += weight * (crop[..., channel] - texture.mean[channel])
                tone[target] += weight * texture.nucleus[channel]
            cover[part.target] += weight * _crop(texture.cover, self.layout.seed, 131, row, col, part)
            squares[part.target] += weight * weight
        rgb = np.rint(mean + contrast / np.sqrt(squares)).clip(0, 255).astype(np.uint8)
        covered = np.rint(cover / np.sqrt(squares)).clip(0, 255)
        return rgb.transpose(1, 2, 0), tone.transpose(1, 2, 0), covered.astype(np.uint8)

    def _detail(self, y0: int, x0: int, y1: int, x1: int) -> Float32:
        """Texture of nuclei, standard normal in each pixel: float32 [y, x]."""
        tiles = self.details or self.textures
        total, squares = (np.zeros((y1 - y0, x1 - x0), np.float32) for _ in range(2))
        for row, col, part, weight in _cells(y0, x0, y1, x1):
            texture = tiles[self._choice(140, row, col, len(tiles))]
            total[part.target] += weight * _crop(texture.detail, self.layout.seed, 141, row, col, part)
            squares[part.target] += weight * weight
        return np.asarray(total / (np.sqrt(squares) * np.float32(DETAIL_SCALE)), np.float32)

    def _choice(self, stream: int, row: int, col: int, count: int) -> int:
        """Draw a number below `count` for a place."""
        place = np.array([row]), np.array([col])
        return min(count - 1, int(count * uniform(self.layout.seed, stream, *place)[0]))


@dataclass(frozen=True)
class _Part:
    """Where the part of a cell that lies in a window is: in the cell, and in the window."""

    source: tuple[slice, slice]
    target: tuple[slice, slice]


def _ramp() -> Float32:
    """Weights of a cell along one axis; those of neighbours add up to 1."""
    rise = (np.arange(FADE, dtype=np.float32) + np.float32(0.5)) / np.float32(FADE)
    return np.concatenate([rise, np.ones(CELL - 2 * FADE, np.float32), rise[::-1]])


RAMP = _ramp()


def _cells(y0: int, x0: int, y1: int, x1: int) -> list[tuple[int, int, _Part, Float32]]:
    """Cells that touch a window, in raster order, with their parts and weights [y, x]."""
    found = []
    for row in range((y0 - CELL) // STRIDE + 1, (y1 - 1) // STRIDE + 1):
        for col in range((x0 - CELL) // STRIDE + 1, (x1 - 1) // STRIDE + 1):
            (down, y), (across, x) = _overlap(row, y0, y1), _overlap(col, x0, x1)
            weight = RAMP[down, None] * RAMP[None, across]
            found.append((row, col, _Part((down, across), (y, x)), weight))
    return found


def _overlap(index: int, start: int, stop: int) -> tuple[slice, slice]:
    """Part of a cell inside start..stop, along one axis: in the cell, and from `start` on."""
    begin = index * STRIDE
    low, high = max(begin, start), min(begin + CELL, stop)
    return slice(low - begin, high - begin), slice(low - start, high - start)


def _crop(image: npt.NDArray[np.generic], seed: int, stream: int, row: int, col: int, part: _Part) -> Float32:
    """Part of a tile for part of a cell; what the cell shows is random, mirrored and turned: float32 [y, x, ...]."""
    u = [float(uniform(seed, stream + 1000 * k, np.array([row]), np.array([col]))[0]) for k in range(3)]
    top, left = (int(share * (side - CELL + 1)) for share, side in zip(u[:2], image.shape[:2], strict=True))
    cell = image[top : top + CELL, left : left + CELL]
    turn = int(8 * u[2])
    return np.asarray(np.rot90(cell[::-1] if turn >= 4 else cell, turn % 4)[part.source], np.float32)


def _fixed(outlines: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Corners in sixteenths of a pixel, as `cv2.fillPoly` takes them."""
    return np.rint(16 * outlines).astype(np.int32)


def _spread(places: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Places of nuclei, with the border of each widened over the pixels beside it that belong to none."""
    wide = cv2.dilate(places.astype(np.float32), np.ones((7, 7), np.uint8))
    return np.where(places > 0, places, np.asarray(wide).astype(np.int32))
