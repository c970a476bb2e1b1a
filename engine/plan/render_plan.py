"""What will be done, before anything is done?

A `RenderPlan` lists the patches, the block that owns each of them, what a block takes from its neighbours, and how much
memory, scratch and output the render needs. It is pure data: it can be printed (``--dry-run``), compared, pickled and
handed to any executor. Its size does not depend on the canvas.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from safron.engine.stains.stain import StainChange
from safron.io.errors import BadInput
from safron.io.slides.pyramid import Pyramid
from safron.io.slides.writer import SlideSpec

from .blocks import BAND, AxisBlocks, BlockPlan, PatchRect
from .fixed_point import Blend, fraction_bits
from .grid import PatchGrid
from .planes import PlaneSpec
from .scale import Scale
from .taper import Taper
from .window import Window

Int64 = npt.NDArray[np.int64]

PREVIEW_PIXELS = 2048
MOST_TILE = 1 << 15
"""Pixels a side of a patch; one of so many takes 3 GiB as bytes."""
# Options that set a field of `SlideSpec`, or an input of the generator.
_OPTIONS = {
    "tile": "--tiff-tile",
    "level_count": "--level-count",
    "mpp": "--mpp",
    "flavor": "--flavor",
    "compression": "--compression",
    "quality": "--quality",
    "chroma": "--chroma",
    "initial": "--image",
    "style": "--style",
}


@dataclass(frozen=True)
class Passes:
    """The passes of a sampler over the canvas; see `safron.engine.plan.passes`.

    Attributes
    ----------
    steps
        Passes, of one step each.
    channels
        Values per pixel of the running picture.
    state
        Type of the running picture in scratch.
    alignment
        The grid of patches moves by multiples of it.
    content
        All that decides a pixel beside mask, seed and generator; part of the render's fingerprint.
    """

    steps: int
    channels: int
    state: Literal["float16", "float32"]
    alignment: int
    content: str

    @property
    def itemsize(self) -> int:
        """Bytes of one value of the running picture in scratch."""
        return np.dtype(self.state).itemsize

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel of the running picture in scratch."""
        return self.channels * self.itemsize


@dataclass(frozen=True)
class RenderPlan:
    """All decisions of a render.

    Attributes
    ----------
    grid
        Patches of the whole mask, in drawn pixels.
    taper
        Blend weights.
    canvas
        All pixels of the mask.
    region
        Part of the canvas that becomes the slide.
    scale
        Drawn pixels per canvas pixel.
    slide
        Layout of the slide; at least as large as `region`.
    block
        Side of a block in canvas pixels.
    batch
        Batch size, patches per generator call.
    bits
        Fraction bits of patch values.
    seed
        Seed of the noise.
    planes
        Inputs of the generator beside labels.
    stain
        How finished pixels change; None leaves them as the generator draws them.
    passes
        Of a sampler; None of a generator that gives the picture itself.
    """

    grid: PatchGrid
    taper: Taper
    canvas: Window
    region: Window
    scale: Scale
    slide: SlideSpec
    block: int
    batch: int
    bits: int
    seed: int
    planes: tuple[PlaneSpec, ...]
    stain: StainChange | None = None
    passes: Passes | None = None

    @property
    def blend(self) -> Blend:
        """Blend weights and fixed point."""
        return Blend(self.grid, self.taper, self.bits, self.passes.channels if self.passes else 0)

    @property
    def pyramid(self) -> Pyramid:
        """Levels of the slide."""
        return self.slide.pyramid

    def axis_blocks(self, block: int) -> tuple[AxisBlocks, AxisBlocks]:
        """Cut both axes into blocks of the given side."""
        region, canvas, scale = self.region, self.canvas, self.scale
        return (
            AxisBlocks(
                self.grid.rows, region.y, region.y_stop, self.slide.height, block, scale, canvas.height
            ),
            AxisBlocks(
                self.grid.columns, region.x, region.x_stop, self.slide.width, block, scale, canvas.width
            ),
        )

    @cached_property
    def drawn(self) -> Window:
        """Drawn pixels that the region is made of."""
        return self.drawn_for(self.region)

    def drawn_for(self, window: Window) -> Window:
        """Return the drawn pixels that a window of the canvas is made of."""
        y0, y1 = self.scale.reach(window.y, window.y_stop, length=self.canvas.height)
        x0, x1 = self.scale.reach(window.x, window.x_stop, length=self.canvas.width)
        return Window.from_bounds(y0, x0, y1, x1)

    @property
    def block_shape(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        rows, columns = self.axis_blocks(self.block)
        return len(rows), len(columns)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield block indices in the order of rendering: bands of a few columns, each of them row by row.

        Blocks need the boundary sums of the row above. In a narrow band they follow soon, however wide the canvas is.
        """
        rows, columns = self.block_shape
        return (
            (row, column)
            for first in range(0, columns, BAND)
            for row in range(rows)
            for column in range(first, min(first + BAND, columns))
        )

    @lru_cache(maxsize=256)  # noqa: B019 - a few kB; the blocks around ask for it again
    def block_plan(self, index: tuple[int, int], *, block: int | None = None) -> BlockPlan:
        """Plan one block (of the plan's block size, or another)."""
        rows, columns = self.axis_blocks(block or self.block)
        (y0, y1), (x0, x1) = rows.span(index[0]), columns.span(index[1])
        window = Window.from_bounds(y0, x0, y1, x1)
        own_rows, own_columns = rows.owned(index[0]), columns.owned(index[1])
        low, right = rows.crossing(index[0]), columns.crossing(index[1])
        left = range(own_columns.start, right.start)
        return BlockPlan(
            index,
            window,
            window.clip(self.region),
            Window.from_bounds(
                *(
                    end
                    for pair in zip(rows.drawn(index[0]), columns.drawn(index[1]), strict=True)
                    for end in pair
                )
            ),
            inner=PatchRect(range(own_rows.start, low.start), left),
            right=PatchRect(own_rows, right),
            below=PatchRect(low, left),
        )

    def sources(self, index: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the blocks whose boundary patches write into block `index`, itself last."""
        row, column = index
        around = [(row - 1, column - 1), (row - 1, column), (row, column - 1), (row, column)]
        return [(i, j) for i, j in around if i >= 0 and j >= 0]

    def consumers(self, index: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the blocks that the boundary patches of block `index` write into, itself first."""
        row, column = index
        rows, columns = self.block_shape
        around = [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]
        return [(i, j) for i, j in around if i < rows and j < columns]

    @property
    def patches(self) -> int:
        """Number of patches that write at least one pixel of the region."""
        drawn = self.drawn
        return len(self.grid.rows.touching(drawn.y, drawn.y_stop)) * len(
            self.grid.columns.touching(drawn.x, drawn.x_stop)
        )

    @property
    def block_levels(self) -> int:
        """The last level at which a block consists of whole tiles."""
        level = 0
        while (self.block >> (level + 1)) % self.slide.tile == 0 and self.block % (2 << level) == 0:
            level += 1
        return level

    @property
    def thumbnail_level(self) -> int:
        """The level that each block leaves in scratch. Higher levels and the preview are made from it."""
        return min(self.block_levels + 1, self.preview_level)

    @property
    def preview_level(self) -> int:
        """The first level that is small enough for the preview."""
        levels = self.working_pyramid.levels
        return next(level.index for level in levels if max(level.height, level.width) <= PREVIEW_PIXELS)

    @cached_property
    def working_pyramid(self) -> Pyramid:
        """All levels down to one pixel: those of the slide, then those that only scratch needs."""
        most = max(self.slide.height, self.slide.width).bit_length()
        return Pyramid(self.slide.height, self.slide.width, self.slide.tile, most)

    @lru_cache(maxsize=256)  # noqa: B019 - as above
    def boundary_windows(self, index: tuple[int, int]) -> dict[str, Window]:
        """Return the drawn pixels that the boundary patches of a block write, by name."""
        boundary = self.block_plan(index).boundary
        return {name: rect.window(self.grid).clip(self.drawn) for name, rect in boundary.items()}

    def inputs(self, *, mask_fingerprint: str, model_sha256: str) -> dict[str, str]:
        """Return everything that decides a pixel or a tag, under the name that users know."""
        # What the slide says of its origin repeats these inputs and the versions.
        names = {item.name for item in fields(self.slide)} - {"metadata", "mask_content", "software"}
        slide = {_OPTIONS.get(name, f"slide {name}"): getattr(self.slide, name) for name in names}
        return {
            name: json.dumps(value)
            for name, value in {
                "mask content": mask_fingerprint,
                "--model": model_sha256,
                "--tile": self.grid.tile,
                "context": self.grid.context,
                "--overlap": self.grid.overlap,
                "--taper": self.taper.name,
                "--scale": [self.scale.numerator, self.scale.denominator],
                "--region": [self.region.x, self.region.y, self.region.width, self.region.height],
                "--block": self.block,
                "--batch": self.batch,
                "--seed": self.seed,
                "fixed-point bits": self.bits,
                **({"--stain": self.stain.facts} if self.stain else {}),
                **slide,
                **{_OPTIONS.get(spec.name, spec.name): spec.content for spec in self.planes if spec.content},
                **({"sampler": self.passes.content, "--state": self.passes.state} if self.passes else {}),
            }.items()
        }


def fingerprint(inputs: Mapping[str, str]) -> str:
    """Return one hash of `RenderPlan.inputs`."""
    return hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()


def check_tile_size(tile: int) -> None:
    """Raise `BadInput` unless patches of this size can be planned."""
    if not 1 <= tile <= MOST_TILE:
        raise BadInput(f"--tile {tile}: must be 1 to {MOST_TILE} pixels")


def make_grid(*, height: int, width: int, tile: int, overlap: int, context: int) -> PatchGrid:
    """Check the geometry of a render and return its grid.

    Raises
    ------
    BadInput
        The tile or the overlap is out of range.
    """
    check_tile_size(tile)
    if not 0 <= overlap < tile:
        raise BadInput(f"--overlap {overlap}: must be at least 0 and smaller than --tile {tile}")
    return PatchGrid(height, width, tile, overlap, context)


def choose_bits(grid: PatchGrid, taper: Taper, *, returns_uint8: bool) -> int:
    """Choose the fraction bits of patch values: 0 if the generator returns whole grey levels.

    Raises
    ------
    BadInput
        So many patches overlap that their sums do not fit into 32 bits with 1/16 of a grey level.
    """
    bits = fraction_bits(grid, taper)
    if bits < (0 if returns_uint8 else 4):
        raise BadInput(
            f"--overlap {grid.overlap}: with --tile {grid.tile} and --taper {taper.name} too many patches share a "
            "pixel to be summed exactly; lower the overlap or use --taper flat"
        )
    return 0 if returns_uint8 else bits
