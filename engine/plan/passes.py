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


def read_chunks(
    plan: RenderPlan, offset: tuple[int, int], *, whole: RenderPlan
) -> tuple[list[range], list[range]]:
    """Return which chunks of the running picture the blocks of a pass read, along each axis.

    Parameters
    ----------
    plan, offset
        Of the pass, see `PassPlan`.
    whole
        The render.

    Returns
    -------
    tuple[list[range], list[range]]
        Chunks for each row, and for each column of blocks: those under its patches and their context, and under its own pixels.
    """
    rows, columns = plan.axis_blocks(plan.block)
    drawn, tile, context = whole.drawn, plan.slide.tile, plan.grid.context
    return (
        [
            _reads(rows, index, -offset[0] - drawn.y, drawn.height, tile, context)
            for index in range(len(rows))
        ],
        [
            _reads(columns, index, -offset[1] - drawn.x, drawn.width, tile, context)
            for index in range(len(columns))
        ],
    )


def _reads(blocks: AxisBlocks, index: int, shift: int, length: int, chunk: int, context: int) -> range:
    """Return the chunks of `chunk` pixels that one block reads along an axis of `length` pixels, both of whose ends mirror."""
    start, stop = blocks.drawn(index)
    owned, axis = blocks.owned(index), blocks.axis
    if owned:
        start = min(start, axis.origin(owned[0]) - context)
        stop = max(stop, axis.origin(owned[-1]) + axis.tile + context)
    start, stop = start + shift, stop + shift
    if start >= stop:
        return range(0)
    if stop - start >= 2 * length:
        return range(-(-length // chunk))
    # What lies beyond an end is seen as far inside of it.
    first, last = max(0, min(start, 2 * length - stop)), min(length, max(stop, -start))
    return range(first // chunk, -(-last // chunk))
