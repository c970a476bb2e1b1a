"""How much memory, scratch and output will a render need? Upper bounds, known before anything is rendered."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from safron.engine.system.native import compiled

from .blocks import BAND, AxisBlocks
from .render_plan import RenderPlan

Int64 = npt.NDArray[np.int64]

# Blocks whose boundary sums fit into a process's memory if each has the largest possible size, plus one that is being read.
# Most have half that size, so this is enough for the row above in the band and for the row in flight.
BOUNDARIES_KEPT = 5


@dataclass(frozen=True)
class _BoundarySizes:
    """Sizes of the boundary sums of all blocks along one axis.

    Attributes
    ----------
    owned, crossing, beside
        int64 [blocks, 2]: pixels, and pixels that several patches share, of all owned patches of each block,
        of its boundary patches, and of the others.
    """

    owned: Int64
    crossing: Int64
    beside: Int64

    @classmethod
    def of(cls, blocks: AxisBlocks) -> _BoundarySizes:
        """Measure every block along an axis."""
        owned = [blocks.owned(index) for index in range(len(blocks))]
        crossing = [blocks.crossing(index) for index in range(len(blocks))]
        beside = [range(mine.start, low.start) for mine, low in zip(owned, crossing, strict=True)]
        sizes = [np.array([blocks.reach(part) for part in parts]) for parts in (owned, crossing, beside)]
        return cls(*sizes)


@lru_cache(maxsize=8)
def _boundary_sizes(plan: RenderPlan) -> tuple[_BoundarySizes, _BoundarySizes]:
    """Sizes along both axes."""
    rows, columns = plan.axis_blocks(plan.block)
    return _BoundarySizes.of(rows), _BoundarySizes.of(columns)


def boundary_capacity(plan: RenderPlan) -> tuple[int, int]:
    """Number of pixel values, and of sums, that the boundary of any block needs; at least 1, which Blosc requires."""
    rows, columns = _boundary_sizes(plan)
    if plan.passes is not None:
        right, below = rows.owned[:, 0].max(), rows.crossing[:, 0].max()
        sums = right * columns.crossing[:, 0].max() + below * columns.beside[:, 0].max()
        return 1, max(1, plan.passes.channels * int(sums))
    right = (rows.owned.max(axis=0), columns.crossing.max(axis=0))
    below = (rows.crossing.max(axis=0), columns.beside.max(axis=0))
    pixels = 3 * sum(int(down[0] * across[0]) for down, across in (right, below))
    sums = 3 * sum(int(down[1] * across[0] + down[0] * across[1]) for down, across in (right, below))
    return max(1, pixels), max(1, sums)


def largest_boundary(plan: RenderPlan) -> int:
    """Upper bound on the bytes in scratch of one block's boundary sums."""
    pixels, sums = boundary_capacity(plan)
    return pixels + sums * np.dtype(plan.blend.sum_dtype).itemsize


def boundary_bytes(plan: RenderPlan) -> int:
    """Upper bound on the bytes of one block's boundary sums, for any canvas."""
    tile, overlap, stride = plan.grid.tile, plan.grid.overlap, plan.grid.rows.stride
    # Boundary patches begin within a tile of the block's end, or among the drawn pixels that both blocks need.
    shared_pixels = tile + _drawn_block(plan) - int(plan.block * plan.scale.ratio)
    long, breadth = _drawn_block(plan) + tile, shared_pixels + (-(-tile // stride) - 1) * stride
    if plan.passes is not None:
        return 4 * plan.passes.channels * 2 * long * breadth
    shared = [min(length, (length // stride + 2) * overlap) for length in (long, breadth)]
    sums = 2 * (shared[0] * breadth + long * shared[1])
    return 3 * (2 * long * breadth + sums * np.dtype(plan.blend.sum_dtype).itemsize)


def _drawn_block(plan: RenderPlan) -> int:
    """The most drawn pixels a side that a block is made of."""
    return plan.block if plan.scale.is_one else int((plan.block + 2) * plan.scale.ratio) + 4


def boundary_room(plan: RenderPlan) -> int:
    """Bytes of memory in which a process keeps the boundary sums that it made."""
    return (BOUNDARIES_KEPT - 1) * boundary_bytes(plan)


def scratch_bytes(plan: RenderPlan, *, at_a_time: int) -> int:
    """Upper bound on the bytes of scratch in use at one time: boundary sums and thumbnails.

    Boundary sums are freed while the next row of their band is rendered, those at the band's edge while the next band
    is. So scratch holds those of two rows of a band and of one edge, partly this band's and partly the last one's.

    Parameters
    ----------
    at_a_time
        Blocks in flight, whose boundary sums may exist before the block does.
    """
    rows, columns = _boundary_sizes(plan)
    item = np.dtype(plan.blend.sum_dtype).itemsize

    def each_row(across: Int64, beside: Int64) -> Int64:
        """Bytes of the boundary sums of some columns, for each row."""
        pixels = rows.owned[:, 0] * across[0] + rows.crossing[:, 0] * beside[0]
        if plan.passes is not None:
            return np.asarray(item * plan.passes.channels * pixels)
        sums = rows.owned[:, 1] * across[0] + rows.owned[:, 0] * across[1]
        sums += rows.crossing[:, 1] * beside[0] + rows.crossing[:, 0] * beside[1]
        return np.asarray(3 * (pixels + item * sums))

    most, all_made, last_edge = 0, 0, np.zeros(len(rows.owned), np.int64)
    for first in range(0, len(columns.owned), BAND):
        band = slice(first, first + BAND)
        made = each_row(columns.crossing[band].sum(axis=0), columns.beside[band].sum(axis=0))
        edge = each_row(columns.crossing[band][-1], columns.beside[band][-1])
        if first + BAND >= len(columns.owned):
            edge = np.zeros_like(edge)  # not needed after the band
        two_rows = int((made + np.append(made[1:], 0)).max())
        most = max(most, two_rows + int(np.maximum(edge, last_edge).sum()))
        all_made += int(made.sum())
        last_edge = edge
    most = min(all_made, most + (at_a_time + 1) * largest_boundary(plan))
    levels = plan.working_pyramid.levels[plan.thumbnail_level :]
    thumbnails = sum(3 * level.height * level.width for level in levels)
    return most + thumbnails + state_bytes(plan, at_a_time=at_a_time)


def state_bytes(plan: RenderPlan, *, at_a_time: int) -> int:
    """Upper bound on the bytes of scratch of a sampler's running picture; 0 without a sampler.

    The picture before a step is freed while that after it is stored. Both are there for blocks in flight or not yet in the
    journal; for chunks under boundary patches, as long as the row below is not finished; and along the edge of a band.

    Parameters
    ----------
    at_a_time
        Blocks in flight.
    """
    if plan.passes is None:
        return 0
    height, width, block, chunk = plan.drawn.height, plan.drawn.width, _drawn_block(plan), plan.slide.tile
    # Whole chunks beside an edge of a block that patches across it read.
    reach = -(-(plan.grid.tile + plan.grid.context) // chunk) * chunk
    if block < 2 * reach:  # all of it lies under boundary patches
        both = 3 * (BAND + 2) * block**2 + 2 * block * height
    else:
        beside = block**2 - (block - 2 * reach) * (block - reach)
        both = (BAND + 1) * beside + 2 * BAND * reach * chunk + reach * (height + block)
    both += (at_a_time + 2) * block**2
    pixels = height * width
    return plan.passes.pixel_bytes * (
        pixels * min(1, plan.passes.steps - 1) + min(pixels, both) * (plan.passes.steps > 2)
    )


def output_bytes(plan: RenderPlan) -> int:
    """Estimate the bytes of the slide, all levels, from bytes per pixel measured on stained tissue."""
    per_pixel = {"jpeg": 0.35 if plan.slide.chroma == "420" else 0.45, "none": 3.0}.get(
        plan.slide.compression, 2.3
    )
    return int(plan.slide.height * plan.slide.width * per_pixel * 4 / 3)


def _most_tile_bytes(plan: RenderPlan) -> float:
    """Bytes per pixel of the tiles of all levels if the image is noise, which does not compress."""
    slide = plan.slide
    fine = slide.chroma == "444" and slide.quality > 90
    each = {"jpeg": 4.2 if fine else 2.0, "lzw": 4.2}.get(slide.compression, 3.1)
    return each * 4 / 3


def step_bytes(plan: RenderPlan) -> int:
    """Upper bound on the bytes of the large arrays of a block in a sampler's pass; 0 without a sampler.

    They are the sums of all pixels, the running picture under the patches, and one row of its chunks before and after the step.
    """
    if plan.passes is None:
        return 0
    side, read = _drawn_block(plan), plan.grid.tile + 2 * plan.grid.context
    around = (side + 2 * read) ** 2 * plan.passes.itemsize
    return plan.passes.channels * (4 * side * (side + plan.slide.tile) + around)


def worker_bytes(plan: RenderPlan) -> int:
    """Upper bound on the bytes of one block in flight, without batches and the generator's own buffers."""
    side, read = _drawn_block(plan), plan.grid.tile + 2 * plan.grid.context
    pixels = side * side
    image = plan.block**2 * 3
    labels = (side + 2 * read) ** 2
    if not plan.scale.is_one:
        image += pixels * 3
        labels += int((side + 2 * read) / plan.scale.ratio) ** 2
    shared = min(1.0, plan.grid.overlap / plan.grid.rows.stride)
    bands = int(2 * shared * pixels * 3 * np.dtype(plan.blend.sum_dtype).itemsize)
    long = read * (side + 2 * read) / read**2
    planes = int(sum(spec.patch_bytes(read) * (long if spec.spatial else 1) for spec in plan.planes))
    tiles = int(plan.block**2 * _most_tile_bytes(plan))
    # A finished block may wait to be written; as JPEG it is small.
    waiting = 0 if plan.slide.compression == "jpeg" else tiles
    if plan.passes is not None:
        bands = step_bytes(plan)
    # What a row of patches shares with the next, and a patch that is put together of it.
    tile, stride = plan.grid.tile, plan.grid.rows.stride
    kept = 12 * tile * ((-(-side // stride) + 2) * plan.grid.overlap + tile)
    generating = bands + labels + planes + kept
    # These follow one another: patches, boundary sums (stored and read), levels and tiles. A boundary task needs less.
    return image + waiting + max(generating, bands + 2 * boundary_bytes(plan), tiles + image // 3)


def batch_bytes(plan: RenderPlan, *, returns_uint8: bool) -> int:
    """Upper bound on the bytes of a batch of patches, inputs and outputs."""
    tile, read = plan.grid.tile, plan.grid.tile + 2 * plan.grid.context
    # The output of ONNX Runtime, its copy in the batch and, without the C extension, the fixed-point values.
    image_bytes = 1 if returns_uint8 else 12 if compiled is None else 8
    planes = sum(spec.patch_bytes(read) for spec in plan.planes)
    return plan.batch * (read * read + planes + tile * tile * 3 * image_bytes)
