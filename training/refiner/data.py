"""What does one step see: initial pictures with their masks, and real pictures of the same tile?

Everything random follows from the seed and the number of the draw, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isqrt
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safron.io.errors import BadInput
from safron.io.synthesis.draw import Picture, Synthesizer
from safron.io.synthesis.layout import Layout
from safron.io.synthesis.shrinking import shrink_image, shrink_picture
from safron.io.synthesis.soot import soot
from safron.io.synthesis.stains import UInt8, tissue_share
from safron.io.synthesis.textures import LEAST_TISSUE, Texture, make_texture
from torch import Tensor

from .settings import CONTEXT, RefinerConfig


@dataclass(frozen=True)
class Batch:
    """Pictures in -1..1.

    Attributes
    ----------
    initial
        [n, 3, p + 40, p + 40].
    targets
        [n, 2, p, p]: nucleus and interior, 0 or 1.
    reference, real
        [n, 3, r, r] and [n, 3, p, p]: real, of the tile that the initial picture is made from. Where soot lies upon that, it
        lies upon `real` too, so that soot does not tell one from the other.
    """

    initial: Tensor
    targets: Tensor
    reference: Tensor
    real: Tensor


SOOTY, MOST_SOOT = 0.3, 0.7
"""Share of the drawn canvases with soot, and the most of it; see `safron.io.synthesis.soot`."""

DRAWN = 16
"""Batches that a part is cut out for from one drawn canvas, whose area is that of as many patches."""


class Tiles:
    """Real tiles, and synthesizers that draw upon each.

    Parameters
    ----------
    tiles
        Names and pixels.
    config
        Settings.

    Attributes
    ----------
    names
        Of those that are used.
    left
        Why each of the others was left out.

    Raises
    ------
    BadInput
        No tile is large enough and has enough tissue.
    """

    def __init__(self, tiles: Sequence[tuple[str, UInt8]], config: RefinerConfig) -> None:
        least = config.shrink * max(config.patch, config.reference)
        kept: list[tuple[str, UInt8]] = []
        self.left: list[str] = []
        for name, rgb in tiles:
            if min(rgb.shape[:2]) < least:
                self.left.append(
                    f"{name}: is {rgb.shape[1]} x {rgb.shape[0]} px, and {least} a side are needed"
                )
            elif (share := tissue_share(rgb)) < LEAST_TISSUE:
                self.left.append(
                    f"{name}: has {100 * share:.0f} % tissue, and {100 * LEAST_TISSUE:.0f} % are needed"
                )
            else:
                kept.append((name, rgb))
        if not kept:
            raise BadInput(
                f"no tile has {least} px a side and {100 * LEAST_TISSUE:.0f} % tissue; give larger tiles of tissue"
            )
        self.config = config
        self.names = [name for name, _ in kept]
        self._sources = [rgb for _, rgb in kept]
        self.images = [shrink_image(rgb, config.shrink) for rgb in self._sources]
        self._canvases: dict[int, tuple[int, _Canvas]] = {}

    @cached_property
    def textures(self) -> list[Texture]:
        """What the tiles give to synthetic pictures.

        Raises
        ------
        BadInput
            Nothing in a tile looks like nuclei.
        """
        return [make_texture(rgb) for rgb in self._sources]

    def leave_out_plain(self) -> None:
        """Leave out tiles in which nothing looks like nuclei.

        Raises
        ------
        BadInput
            There is no other.
        """
        named = [*zip(self.names, self._sources, strict=True)]
        used: list[int] = []
        found: list[Texture] = []
        for place, (name, rgb) in enumerate(named):
            try:
                found.append(make_texture(rgb))
                used.append(place)
            except BadInput as error:
                self.left.append(f"{name}: {error}")
        if not used:
            raise BadInput(f"no tile gives a texture; the first: {self.left[-len(named)]}")
        self.names = [self.names[place] for place in used]
        self._sources = [self._sources[place] for place in used]
        self.images = [self.images[place] for place in used]
        self.textures = found

    def batch(self, number: int) -> Batch:
        """Draw batch `number`."""
        config = self.config
        rng = np.random.default_rng([config.seed, number])
        side = config.patch + 2 * CONTEXT
        initial, targets, reference, real = [], [], [], []
        for place in range(config.batch):
            # Places begin their canvases one after the other.
            canvas = self._canvas(place, number + place * DRAWN // config.batch)
            tile, drawn = canvas.tile, canvas.picture
            y, x = (int(rng.integers(length - side + 1)) for length in drawn.instances.shape)
            part, turn = np.s_[y : y + side, x : x + side], int(rng.integers(8))
            inner = drawn.instances[part][CONTEXT:-CONTEXT, CONTEXT:-CONTEXT]
            initial.append(_turned(drawn.rgb[part], turn))
            targets.append(_turned(task_targets(inner, config.interior), turn))
            reference.append(_crop(rng, self.images[tile], config.reference))
            clean = _crop(rng, self.images[tile], config.patch)
            real.append(np.rint(clean * canvas.light(y, x, config)).astype(np.uint8))
        marked = torch.from_numpy(np.stack(targets)).permute(0, 3, 1, 2).float()
        return Batch(as_tensor(initial), marked, as_tensor(reference), as_tensor(real))

    def _canvas(self, place: int, number: int) -> _Canvas:
        """Give what patches at a place of the batch come from, others for every `DRAWN` batches."""
        generation = number // DRAWN
        if place not in self._canvases or self._canvases[place][0] != generation:
            self._canvases[place] = (
                generation,
                self._draw(np.random.default_rng([self.config.seed, place, generation, 3])),
            )
        return self._canvases[place][1]

    def _draw(self, rng: np.random.Generator) -> _Canvas:
        """Choose a tile, and draw nuclei upon it."""
        config, tile = self.config, int(rng.integers(len(self.images)))
        side = config.shrink * isqrt(DRAWN) * (config.patch + 2 * CONTEXT)
        layout = Layout(
            int(rng.integers(1 << 31)),
            side,
            cellularity=float(rng.uniform(0.01, 1.0)),
            pleomorphism=float(rng.uniform(0, 1)),
        )
        amount = float(rng.uniform(0, MOST_SOOT)) if rng.random() < SOOTY else 0.0
        synthesizer = Synthesizer([self.textures[tile]], layout, self.textures, amount)
        drawn = synthesizer.draw(0, 0, side, side)
        return _Canvas(tile, shrink_picture(drawn, config.shrink), layout.seed, amount)

    def reference(self, tile: int) -> Tensor:
        """Four parts of a tile, which its style is averaged over: [4, 3, r, r]."""
        rng = np.random.default_rng([self.config.seed, tile, 1])
        return as_tensor([_crop(rng, self.images[tile], self.config.reference) for _ in range(4)])


@dataclass(frozen=True)
class _Canvas:
    """A drawn picture, the tile that it is drawn upon, and the seed and amount of the soot on it."""

    tile: int
    picture: Picture
    seed: int
    amount: float

    def light(self, y: int, x: int, config: RefinerConfig) -> Any:
        """Share of the light that soot lets through to a patch of the picture: float32 [p, p, 3]."""
        if not self.amount:
            return np.float32(1)
        ends = (config.shrink * end for end in (y, x, y + config.patch, x + config.patch))
        passed = np.exp(-soot(self.seed, *ends, amount=self.amount))
        return cv2.resize(passed, (config.patch, config.patch), interpolation=cv2.INTER_AREA)


def task_targets(instances: npt.NDArray[np.uint32], interior: int) -> npt.NDArray[np.float32]:
    """What the task network is to find.

    Parameters
    ----------
    instances
        uint32 [y, x]: number of the nucleus, else 0.
    interior
        Pixels from a nucleus's border from which on it counts as interior.

    Returns
    -------
    NDArray
        float32 [y, x, 2]: 1 in nuclei; 1 in their interiors, which no other nucleus or tissue is that near to.
    """
    values = instances.astype(np.int64)
    kernel = np.ones((2 * interior + 1, 2 * interior + 1), np.uint8)
    # Numbers may exceed what float32 holds exactly; ranks do not.
    ranks = np.unique(values, return_inverse=True)[1].reshape(values.shape).astype(np.float32)
    inside = (cv2.erode(ranks, kernel) == ranks) & (cv2.dilate(ranks, kernel) == ranks) & (values > 0)
    return np.stack([values > 0, inside], axis=2).astype(np.float32)


def as_tensor(images: Sequence[UInt8]) -> Tensor:
    """Pictures uint8 [y, x, 3] as [n, 3, y, x] in -1..1."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return stacked.float() / 127.5 - 1


def as_bytes(images: Tensor) -> UInt8:
    """Pictures [n, 3, y, x] in -1..1 as uint8 [n, y, x, 3]."""
    scaled = ((images.detach() + 1) * 127.5).round().clamp(0, 255)
    return np.asarray(scaled.permute(0, 2, 3, 1).byte().numpy())


def _crop(rng: np.random.Generator, image: UInt8, side: int) -> UInt8:
    """Part of a tile at random, turned; one with tissue, as far as ten tries find it."""
    for _ in range(10):
        y, x = (int(rng.integers(length - side + 1)) for length in image.shape[:2])
        part = image[y : y + side, x : x + side]
        if tissue_share(part) >= LEAST_TISSUE:
            break
    return _turned(part, int(rng.integers(8)))


def _turned(image: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """Mirror (4 and above) and turn an image."""
    return np.ascontiguousarray(np.rot90(image[::-1] if turn >= 4 else image, turn % 4))
