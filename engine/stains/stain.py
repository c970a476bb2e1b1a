r"""How does a finished pixel take another stain?

By Beer and Lambert, the optical density of tissue is the sum of what haematoxylin and eosin absorb. So a pixel is unmixed into the
amounts of the reference's two stains and a rest, the amounts are changed, and the pixel is mixed again with other stains::

    density = -ln(pixel / white)                     of the reference
    amounts = density . inv([H; E; rest])            of the reference; the rest is perpendicular to H and E
    pixel'  = white' . exp(-(factors x amounts) . [H'; E'; rest'])

All arithmetic is in whole numbers, from tables that are made once. So a pixel's new value depends on its value and its place on the mask
alone: seams stay as they are, and every machine, block size and order gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Vector = tuple[float, float, float]

FIELD_CELL = 4096
"""Pixels between two nodes of the field."""

_ONE = 1 << 12
_DENSITY = (-1.0, 7.0)
_STRIP = 1 << 16


@dataclass(frozen=True)
class Stain:
    """Colours and amounts of a slide's two stains.

    Attributes
    ----------
    haematoxylin, eosin
        Optical density in red, green and blue; of length one.
    strength
        How much of both there is in tissue: amounts change by the ratio of two strengths.
    white
        RGB of the empty slide, 1 to 255.
    """

    haematoxylin: Vector
    eosin: Vector
    strength: tuple[float, float]
    white: Vector

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Rows: haematoxylin, eosin, and the direction perpendicular to both."""
        rows = np.array([self.haematoxylin, self.eosin], np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rest = np.cross(rows[0], rows[1])
        return np.vstack([rows, rest / np.linalg.norm(rest)])


REFERENCE = Stain((0.6043, 0.6664, 0.4368), (0.1266, 0.9480, 0.2920), (1.90, 0.62), (243.0, 240.0, 243.0))
"""What named looks change, and what `safron-seamless` draws; `benchmarks/stains.py reference` measures it."""

DRAWN = {
    "safron-tissue": Stain(
        (0.6362, 0.7379, 0.2251), (0.1495, 0.9612, 0.2318), (2.103, 1.030), (249.0, 245.0, 250.0)
    )
}
"""What other shipped generators draw in their default styles, by name. Strengths are those that bring the mean density of their tissue to that of the
reference."""


@dataclass(frozen=True)
class StainChange:
    """A change of finished pixels from one stain to another.

    Attributes
    ----------
    name
        What the user asked for, such as ``random:7``.
    target
        The stain that the slide takes.
    source
        The stain that the generator draws, as far as it is known; else `REFERENCE`.
    variation
        Largest share by which the amounts of both stains vary over the slide, 0 to 0.5; see `field_of`.
    seed
        Of the variation.
    """

    name: str
    target: Stain
    source: Stain = field(default=REFERENCE)
    variation: float = 0.0
    seed: int = 0

    def apply(self, image: Pixels, y: int, x: int) -> None:
        """Change an image in place.

        Parameters
        ----------
        image
            uint8 [h, w, 3], of any strides.
        y, x
            Place of its first pixel on the mask.
        """
        height, width = image.shape[:2]
        if not height or not width:
            return
        unmix, mix, pixels = self._tables
        step = max(1, _STRIP // width)
        for top in range(0, height, step):
            part = image[top : top + step]
            channels = cv2.split(np.ascontiguousarray(part))
            amounts = [
                _sum(cv2.LUT(one, table) for one, table in zip(channels, row, strict=True)) for row in unmix
            ]
            if self.variation:
                for kind in (0, 1):
                    factor = field_of(self.variation, self.seed, kind, y + top, x, part.shape[:2])
                    amounts[kind] = (amounts[kind] * factor) >> 12
            for channel, table in enumerate(pixels):
                density = (
                    _sum(one * weight for one, weight in zip(amounts, mix[:, channel], strict=True)) >> 12
                )
                place = np.clip(density - int(_DENSITY[0] * _ONE), 0, len(table) - 1)
                part[:, :, channel] = table[place]

    def color(self, rgb: tuple[int, int, int]) -> tuple[int, int, int]:
        """What a colour becomes where the amounts do not vary."""
        pixel = np.array(rgb, np.uint8).reshape(1, 1, 3)
        StainChange(self.name, self.target, self.source).apply(pixel, 0, 0)
        red, green, blue = pixel.reshape(3).tolist()
        return red, green, blue

    @property
    def facts(self) -> dict[str, object]:
        """Everything that decides a pixel, as JSON-ready values."""
        return {
            "name": self.name,
            "haematoxylin": list(self.target.haematoxylin),
            "eosin": list(self.target.eosin),
            "strength": list(self.target.strength),
            "white": list(self.target.white),
            "variation": self.variation,
            "seed": self.seed if self.variation else 0,
        }

    @cached_property
    def _tables(self) -> tuple[list[list[npt.NDArray[np.int32]]], npt.NDArray[np.int32], list[Pixels]]:
        """Amount by stain and channel value; weight [stain, channel]; pixel by channel and density."""
        source, target = self.source.matrix, self.target.matrix
        inverse = np.linalg.inv(source)
        scale = np.array(
            [b / a for a, b in zip(self.source.strength, self.target.strength, strict=True)] + [1.0]
        )
        values = np.maximum(np.arange(256), 1)
        densities = [-np.log(values / white) for white in self.source.white]
        unmix = [
            [_whole(scale[kind] * inverse[channel, kind] * densities[channel]) for channel in range(3)]
            for kind in range(3)
        ]
        # A band of densities has one table entry; it stands for the band's middle.
        bands = np.arange(int(_DENSITY[0] * _ONE), int(_DENSITY[1] * _ONE))
        pixels = [
            np.clip(np.rint(white * np.exp(-(bands + 0.5) / _ONE)), 0, 255).astype(np.uint8)
            for white in self.target.white
        ]
        return unmix, _whole(target), pixels


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    return np.rint(values * _ONE).astype(np.int32)


def _sum(parts: Iterable[Any]) -> Any:
    """Add arrays int32, in the memory of the first."""
    total: Any = None
    for part in parts:
        total = part if total is None else np.add(total, part, out=total)
    return total


def field_of(
    variation: float, seed: int, kind: int, y: int, x: int, shape: Sequence[int]
) -> npt.NDArray[np.int32]:
    """Factors by which an amount varies over a slide: cubic splines through random nodes.

    Parameters
    ----------
    variation
        Factors are within 1 - variation and 1 + variation.
    seed, kind
        Decide the nodes.
    y, x, shape
        Region of the mask.

    Returns
    -------
    npt.NDArray[np.int32]
        int32 [h, w], 4096 for a factor of one; a function of the pixel's place alone.
    """
    (rows, down), (cols, across) = (_weights(at, length) for at, length in zip((y, x), shape, strict=True))
    nodes = np.array([[_node(variation, seed, kind, row, col) for col in cols] for row in rows], np.int64)
    return np.asarray((down @ nodes @ across.T) >> 24, np.int32)


def _weights(start: int, length: int) -> tuple[range, npt.NDArray[np.int64]]:
    """Nodes that some pixels along an axis need, and their weights [pixel, node], which add up to 4096."""
    cell, place = np.divmod(np.arange(start, start + length), FIELD_CELL)
    nodes = range(int(cell[0]) - 1, int(cell[-1]) + 3)
    t = place / FIELD_CELL
    each = np.rint(
        np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1], axis=1) / 6 * _ONE
    ).astype(np.int64)
    each = np.concatenate([each, _ONE - each.sum(axis=1, keepdims=True)], axis=1)
    weights = np.zeros((length, len(nodes)), np.int64)
    for offset in range(4):
        weights[np.arange(length), cell - cell[0] + offset] = each[:, offset]
    return nodes, weights


def _node(variation: float, seed: int, kind: int, row: int, col: int) -> int:
    digest = blake2b(f"{seed} {kind} {row} {col}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "little") / 2**63 - 1
    return round(_ONE * (1 + variation * math.sin(share * math.pi / 2)))
