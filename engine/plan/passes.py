"""Over which grid of patches does each step of a sampler go?

A sampler makes its picture in steps, and each step is one pass over the canvas. The grid of patches moves from pass to
pass by a known offset, a multiple of the generator's alignment, so that no place of the canvas is always the edge of a
patch. The last pass, which makes the slide, has the grid of an ordinary render.

A moved grid is planned as an ordinary one on a larger canvas: the picture lies in it at the offset, and is its region::

    0      offset
    |------|--- patch 0 ----|
    |      |-------- the picture -------- ...
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .blocks import AxisBlocks, least_block
from .render_plan import RenderPlan
from .scale import ONE


@dataclass(frozen=True)
class PassPlan:
    """One pass of a sampler.

    Attributes
    ----------
    plan
        Its patches and blocks, of drawn pixels.
    offset
        (y, x): where the canvas's first drawn pixel lies in it; what `plan` says of pixels is `offset` more.
    """

    plan: RenderPlan
    offset: tuple[int, int]


def offset_of(after: int, *, stride: int, alignment: int) -> tuple[int, int]:
    """Return by how many pixels (y, x) the grid is moved in the pass that `after` more passes follow.

    Offsets lie evenly in the square of a stride: they follow the R2 sequence (Roberts, 2018), whose terms are multiples of
    1 / 1.3247 and of its square, modulo 1, here in 2**24ths.
    """
    places = max(1, stride // alignment)
    shares = (after * 12664746) % (1 << 24), (after * 9560334) % (1 << 24)
    return tuple((share * places >> 24) * alignment for share in shares)  # type: ignore[return-value]


def pass_plan(plan: RenderPlan, step: int) -> PassPlan:
    """Plan the pass of one step; that of the last one is the plan itself."""
    passes = plan.passes
    assert passes is not None
    if step == passes.steps - 1:
        return PassPlan(plan, (0, 0))
    grid, drawn = plan.grid, plan.drawn
    y, x = offset_of(passes.steps - 1 - step, stride=grid.rows.stride, alignment=passes.alignment)
    moved = replace(grid, height=grid.height + y, width=grid.width + x)
    least = least_block(tile=grid.tile, slide_tile=plan.slide.tile, scale=ONE)
    return PassPlan(
        replace(
            plan,
            grid=moved,
            canvas=moved.canvas,
            region=drawn.shift(y, x),
            scale=ONE,
            slide=replace(plan.slide, height=drawn.height, width=drawn.width, level_count=1),
            block=max(plan.block, least),
        ),
        (y, x),
    )


def all_patches(plan: RenderPlan) -> int:
    """Return the number of patches of all passes; of a plan without a sampler, of its only one."""
    if plan.passes is None:
        return plan.patches
    return sum(pass_plan(plan, step).plan.patches for step in range(plan.passes.steps))


def mirrored(start: int, stop: int, length: int) -> list[int]:
    """Give the pixels of an axis of `length` pixels that positions ``[start, stop)`` show, where both ends are mirrors.

    Examples
    --------
    >>> mirrored(-2, 6, 4)
    [1, 0, 0, 1, 2, 3, 3, 2]
    """
    turned = (place % (2 * length) for place in range(start, stop))
    return [place if place < length else 2 * length - 1 - place for place in turned]


@dataclass(frozen=True)
class ChunkReads:
    """Which chunks of the running picture the blocks of a pass read, along one axis.

    Attributes
    ----------
    all
        For each row or column of blocks: chunks under its patches and their context, and under its own pixels.
    crossing
        Of these, those under patches that also write into the next row or column, and their context.
    """

    all: list[range]
    crossing: list[range]


def read_chunks(
    plan: RenderPlan, offset: tuple[int, int], *, whole: RenderPlan
) -> tuple[ChunkReads, ChunkReads]:
    """Return which chunks of the running picture the rows and the columns of blocks of a pass read.

    Parameters
    ----------
    plan, offset
        Of the pass, see `PassPlan`.
    whole
        The render.
    """
    drawn, chunk, context = whole.drawn, plan.slide.tile, plan.grid.context
    rows, columns = plan.axis_blocks(plan.block)
    return (
        _axis_reads(rows, -offset[0] - drawn.y, drawn.height, chunk, context),
        _axis_reads(columns, -offset[1] - drawn.x, drawn.width, chunk, context),
    )


def _axis_reads(blocks: AxisBlocks, shift: int, length: int, chunk: int, context: int) -> ChunkReads:
    """Return what blocks read along an axis of `length` pixels, which lie `shift` pixels from those of the pass."""
    axis, reads = blocks.axis, ChunkReads([], [])
    for index in range(len(blocks)):
        start, stop = blocks.drawn(index)
        under = {"owned": blocks.owned(index), "crossing": blocks.crossing(index)}
        spans = {
            name: (axis.origin(patches[0]) - context, axis.origin(patches[-1]) + axis.tile + context)
            for name, patches in under.items()
            if patches
        }
        first, last = spans.get("owned", (start, stop))
        reads.all.append(_chunks(min(start, first) + shift, max(stop, last) + shift, length, chunk))
        first, last = spans.get("crossing", (0, 0))
        reads.crossing.append(_chunks(first + shift, last + shift, length, chunk))
    return reads


def _chunks(start: int, stop: int, length: int, chunk: int) -> range:
    """Return the chunks of `chunk` pixels that pixels ``[start, stop)`` show of an axis whose ends mirror."""
    if start >= stop:
        return range(0)
    if stop - start >= 2 * length:
        return range(-(-length // chunk))
    # What lies beyond an end is seen as far inside of it.
    first, last = max(0, min(start, 2 * length - stop)), min(length, max(stop, -start))
    return range(first // chunk, -(-last // chunk))
