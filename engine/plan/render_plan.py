"""What will be done, before anything is done?

A `RenderPlan` says which patches there are, which block owns each, what a block takes from its
neighbours, and how much memory, scratch and output that needs. It is pure data: it can be printed
(``--dry-run``), compared, pickled and handed to any executor, and nothing in it grows with the canvas.

A patch belongs to the block that holds its origin. Patches that reach into the next block are the
block's *seams*; they run first, once, and their weighted sums are kept in scratch::

    block (0, 0)          | block (0, 1)
    i i i i i i i i i i r |                   i  inner: touches this block only
    i i i i i i i i i i r |                   r  right seam: also written into (0, 1)
    b b b b b b b b b b r |                   b  lower seam: also written into (1, 0)
    ----------------------+------------
    block (1, 0)                              the corner r reaches all four blocks
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from safron.engine.system.native import compiled
from safron.io.errors import BadInput
from safron.io.slides.pyramid import Pyramid
from safron.io.slides.writer import SlideSpec

from .blocks import BAND, AxisBlocks, BlockPlan, PatchRect
from .fixed_point import Blend, fraction_bits
from .grid import PatchGrid
from .taper import Taper
from .window import Window

Int64 = npt.NDArray[np.int64]

PREVIEW_PIXELS = 2048
# Options that decide a field of `SlideSpec`.
_OPTIONS = {
    "tile": "--tiff-tile",
    "level_count": "--level-count",
    "mpp": "--mpp",
    "flavor": "--flavor",
    "compression": "--compression",
    "quality": "--quality",
    "chroma": "--chroma",
}
# Seams that a process has room for in memory, if all are as large as they can be, and one that is read. They are mostly half of
# that: so it is what is needed of the band's row above, and of the row in work.
SEAMS_KEPT = 5


@dataclass(frozen=True)
class _SeamSizes:
    """How far the seams of blocks reach along one axis.

    Attributes
    ----------
    owned, crossing, beside : int64 [blocks, 2]: pixels, and multi pixels, of all owned patches of each
        block, of those that cross into the next block, and of the others.
    """

    owned: Int64
    crossing: Int64
    beside: Int64

    @classmethod
    def of(cls, blocks: AxisBlocks) -> _SeamSizes:
        """Measure every block of an axis."""
        owned = [blocks.owned(index) for index in range(len(blocks))]
        crossing = [blocks.crossing(index) for index in range(len(blocks))]
        beside = [range(mine.start, low.start) for mine, low in zip(owned, crossing, strict=True)]
        sizes = [np.array([blocks.reach(part) for part in parts]) for parts in (owned, crossing, beside)]
        return cls(*sizes)


@dataclass(frozen=True)
class RenderPlan:
    """All decisions of a render.

    Attributes
    ----------
    grid : patches of the whole mask.
    taper : blend weights.
    region : the part of the canvas that becomes the slide.
    slide : what is written; at least as large as `region`.
    block : pixels a side of one task.
    batch : patches a call.
    bits : fixed-point bits of patch values.
    seed : of the noise.
    noise_scales : see `safron.engine.generator.noise`.
    """

    grid: PatchGrid
    taper: Taper
    region: Window
    slide: SlideSpec
    block: int
    batch: int
    bits: int
    seed: int
    noise_scales: tuple[int, ...]

    @property
    def blend(self) -> Blend:
        """Weights and fixed point."""
        return Blend(self.grid, self.taper, self.bits)

    @property
    def pyramid(self) -> Pyramid:
        """Levels of the slide."""
        return self.slide.pyramid

    def axis_blocks(self, block: int) -> tuple[AxisBlocks, AxisBlocks]:
        """Cut both axes into blocks of any size."""
        region = self.region
        return (
            AxisBlocks(self.grid.rows, region.y, region.y_stop, self.slide.height, block),
            AxisBlocks(self.grid.columns, region.x, region.x_stop, self.slide.width, block),
        )

    @property
    def block_shape(self) -> tuple[int, int]:
        """Number of blocks down and across."""
        rows, columns = self.axis_blocks(self.block)
        return len(rows), len(columns)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Block indices, one at a time: band after band of a few columns, and each row by row.

        What seams leave is needed by the blocks below them. So these come soon, however wide the canvas is.
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
            inner=PatchRect(range(own_rows.start, low.start), left),
            right=PatchRect(own_rows, right),
            below=PatchRect(low, left),
        )

    def sources(self, index: tuple[int, int]) -> list[tuple[int, int]]:
        """Blocks whose seams write into block `index`, itself last."""
        row, column = index
        around = [(row - 1, column - 1), (row - 1, column), (row, column - 1), (row, column)]
        return [(i, j) for i, j in around if i >= 0 and j >= 0]

    def consumers(self, index: tuple[int, int]) -> list[tuple[int, int]]:
        """Blocks that the seams of block `index` write into, itself first."""
        row, column = index
        rows, columns = self.block_shape
        around = [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]
        return [(i, j) for i, j in around if i < rows and j < columns]

    @property
    def patches(self) -> int:
        """Patches that write at least one pixel of the region."""
        region = self.region
        return len(self.grid.rows.touching(region.y, region.y_stop)) * len(
            self.grid.columns.touching(region.x, region.x_stop)
        )

    @property
    def block_levels(self) -> int:
        """The last level whose tiles are whole inside a block."""
        level = 0
        while (self.block >> (level + 1)) % self.slide.tile == 0 and self.block % (2 << level) == 0:
            level += 1
        return level

    @property
    def thumbnail_level(self) -> int:
        """The level that blocks leave in scratch, from which higher levels and the preview are made."""
        return min(self.block_levels + 1, self.preview_level)

    @property
    def preview_level(self) -> int:
        """The first level that is small enough to be shown whole."""
        level = 0
        while max(self.slide.height, self.slide.width) >> level > PREVIEW_PIXELS:
            level += 1
        return level

    @property
    def working_pyramid(self) -> Pyramid:
        """All levels down to one pixel: the slide's, and those that only scratch needs."""
        most = max(self.slide.height, self.slide.width).bit_length()
        return Pyramid(self.slide.height, self.slide.width, self.slide.tile, most)

    @lru_cache(maxsize=256)  # noqa: B019 - as above
    def seam_windows(self, index: tuple[int, int]) -> dict[str, Window]:
        """The rendered canvas pixels that the seams of a block write, by name."""
        seams = self.block_plan(index).seams
        return {name: rect.window(self.grid).clip(self.region) for name, rect in seams.items()}

    @cached_property
    def _seam_sizes(self) -> tuple[_SeamSizes, _SeamSizes]:
        rows, columns = self.axis_blocks(self.block)
        return _SeamSizes.of(rows), _SeamSizes.of(columns)

    @cached_property
    def seam_capacity(self) -> tuple[int, int]:
        """Pixel values, and sums, that are enough for the seams of any block; one at least, for Blosc unpacks no fewer."""
        rows, columns = self._seam_sizes
        right = (rows.owned.max(axis=0), columns.crossing.max(axis=0))
        below = (rows.crossing.max(axis=0), columns.beside.max(axis=0))
        pixels = 3 * sum(int(down[0] * across[0]) for down, across in (right, below))
        sums = 3 * sum(int(down[1] * across[0] + down[0] * across[1]) for down, across in (right, below))
        return max(1, pixels), max(1, sums)

    @property
    def largest_seam(self) -> int:
        """Bytes that the seams of one block may take in scratch."""
        pixels, sums = self.seam_capacity
        return pixels + sums * np.dtype(self.blend.sum_dtype).itemsize

    @property
    def seam_bytes(self) -> int:
        """Upper bound on what one block leaves in scratch for its neighbours, for any canvas."""
        tile, overlap, stride = self.grid.tile, self.grid.overlap, self.grid.rows.stride
        long, breadth = self.block + tile, tile + (-(-tile // stride) - 1) * stride
        shared = [min(length, (length // stride + 2) * overlap) for length in (long, breadth)]
        sums = 2 * (shared[0] * breadth + long * shared[1])
        return 3 * (2 * long * breadth + sums * np.dtype(self.blend.sum_dtype).itemsize)

    @property
    def seam_room(self) -> int:
        """Memory in which a process keeps the seams that it made."""
        return (SEAMS_KEPT - 1) * self.seam_bytes

    def scratch_bytes(self, *, at_a_time: int) -> int:
        """Upper bound on scratch in use at one time: seams, and thumbnails.

        Seams are freed while the next row of their band is made, those at its edge while the next band is: so there are
        those of two rows of a band, and of one edge, in part the last band's and in part this one's.

        Parameters
        ----------
        at_a_time : blocks in work, whose seams may be there before they are.
        """
        rows, columns = self._seam_sizes
        item = np.dtype(self.blend.sum_dtype).itemsize

        def each_row(across: Int64, beside: Int64) -> Int64:
            """Bytes of the seams of some columns, in each row."""
            pixels = rows.owned[:, 0] * across[0] + rows.crossing[:, 0] * beside[0]
            sums = rows.owned[:, 1] * across[0] + rows.owned[:, 0] * across[1]
            sums += rows.crossing[:, 1] * beside[0] + rows.crossing[:, 0] * beside[1]
            return np.asarray(3 * (pixels + item * sums))

        most, all_seams, last_edge = 0, 0, np.zeros(len(rows.owned), np.int64)
        for first in range(0, len(columns.owned), BAND):
            band = slice(first, first + BAND)
            made = each_row(columns.crossing[band].sum(axis=0), columns.beside[band].sum(axis=0))
            edge = each_row(columns.crossing[band][-1], columns.beside[band][-1])
            if first + BAND >= len(columns.owned):
                edge = np.zeros_like(edge)  # nobody needs it after the band
            two_rows = int((made + np.append(made[1:], 0)).max())
            most = max(most, two_rows + int(np.maximum(edge, last_edge).sum()))
            all_seams += int(made.sum())
            last_edge = edge
        most = min(all_seams, most + (at_a_time + 1) * self.largest_seam)
        thumbnails = self.slide.height * self.slide.width * 3 * 4 // 3 >> (2 * self.thumbnail_level)
        return most + thumbnails

    def output_bytes(self) -> int:
        """Estimate of the slide's size: bytes per pixel as measured on stained tissue, all levels."""
        per_pixel = {"jpeg": 0.35 if self.slide.chroma == "420" else 0.45, "none": 3.0}.get(
            self.slide.compression, 2.3
        )
        return int(self.slide.height * self.slide.width * per_pixel * 4 / 3)

    @property
    def _most_tile_bytes(self) -> float:
        """Bytes of the tiles of all levels, for each pixel, where the picture is noise and nothing can be packed."""
        slide = self.slide
        fine = slide.chroma == "444" and slide.quality > 90
        each = {"jpeg": 4.2 if fine else 2.0, "lzw": 4.2}.get(slide.compression, 3.1)
        return each * 4 / 3

    def worker_bytes(self) -> int:
        """Upper bound on what one block in work holds, without batches and the generator's own buffers."""
        side, read = self.block, self.grid.tile + 2 * self.grid.context
        pixels = side * side
        image = pixels * 3
        labels = (side + 2 * read) ** 2
        shared = min(1.0, self.grid.overlap / self.grid.rows.stride)
        bands = int(2 * shared * pixels * 3 * np.dtype(self.blend.sum_dtype).itemsize)
        noise = len(self.noise_scales) * 4 * read * (side + 2 * read)
        tiles = int(pixels * self._most_tile_bytes)
        # A block that is finished may wait to be written; as JPEG it is small.
        waiting = 0 if self.slide.compression == "jpeg" else tiles
        # One after the other: patches, seams (as stored and as read), levels and tiles. A seam task holds less than a block's.
        return image + waiting + max(bands + labels + noise, bands + 2 * self.seam_bytes, tiles + image // 3)

    def batch_bytes(self, *, returns_uint8: bool) -> int:
        """Upper bound on a batch of patches, before and after the generator."""
        tile, read = self.grid.tile, self.grid.tile + 2 * self.grid.context
        # What ONNX Runtime gives, the batch that it is put in, and where nothing is compiled the fixed-point values.
        image_bytes = 1 if returns_uint8 else 12 if compiled is None else 8
        return self.batch * (read * read * (1 + 4 * len(self.noise_scales)) + tile * tile * 3 * image_bytes)

    def inputs(self, *, mask_fingerprint: str, model_sha256: str) -> dict[str, str]:
        """Everything that decides a pixel or a tag, by the name that a user knows it by."""
        # The slide's metadata and software repeat what stands here and in the versions.
        names = asdict(self.slide).keys() - {"metadata", "software"}
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
                "--region": [self.region.x, self.region.y, self.region.width, self.region.height],
                "--block": self.block,
                "--batch": self.batch,
                "--seed": self.seed,
                "fixed-point bits": self.bits,
                **slide,
            }.items()
        }


def fingerprint(inputs: Mapping[str, str]) -> str:
    """One hash of `RenderPlan.inputs`."""
    return hashlib.sha256(json.dumps(dict(sorted(inputs.items()))).encode()).hexdigest()


def make_grid(*, height: int, width: int, tile: int, overlap: int, context: int) -> PatchGrid:
    """Check the geometry of a render and return its grid.

    Raises
    ------
    BadInput
        When the tile or the overlap is out of range.
    """
    if tile < 1:
        raise BadInput(f"--tile {tile}: must be at least 1 pixel")
    if not 0 <= overlap < tile:
        raise BadInput(f"--overlap {overlap}: must be at least 0 and smaller than --tile {tile}")
    return PatchGrid(height, width, tile, overlap, context)


def choose_bits(grid: PatchGrid, taper: Taper, *, returns_uint8: bool) -> int:
    """Return the fixed-point bits of patch values: 0 where the generator returns whole grey levels.

    Raises
    ------
    BadInput
        When so many patches overlap that their sums would not fit 32 bits with 1/16 of a level.
    """
    bits = fraction_bits(grid, taper)
    if bits < (0 if returns_uint8 else 4):
        raise BadInput(
            f"--overlap {grid.overlap}: with --tile {grid.tile} and --taper {taper.name} too many patches share a "
            "pixel to be summed exactly; lower the overlap or use --taper flat"
        )
    return 0 if returns_uint8 else bits
