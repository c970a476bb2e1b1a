"""The plan covers the canvas exactly, gives each patch to one block, and does not grow with the canvas."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import plan_for
from safron.engine.blending.accumulator import Accumulator
from safron.engine.plan.blocks import BAND, choose_block, least_block
from safron.engine.plan.estimates import (
    boundary_bytes,
    boundary_capacity,
    boundary_room,
    scratch_bytes,
    worker_bytes,
)
from safron.engine.plan.grid import AxisGrid, PatchGrid
from safron.engine.plan.render_plan import RenderPlan, choose_bits, make_grid
from safron.engine.plan.scale import ONE, Scale
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.io.errors import BadInput

SCALES = [ONE, Scale(1, 2), Scale(499, 1000), Scale(2, 1), Scale(37, 10), Scale(1, 5)]
axes = st.builds(
    lambda length, tile, share: AxisGrid(length, tile, int(share * tile)),
    st.integers(1, 3000), st.integers(1, 300), st.floats(0, 0.9),
)  # fmt: skip


@given(axes, st.data())
def test_touching_is_what_brute_force_says(axis: AxisGrid, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, axis.length - 1))
    stop = data.draw(st.integers(start, axis.length))
    writes = [
        index
        for index in range(len(axis))
        if axis.origin(index) < stop and axis.origin(index) + axis.tile > start and stop > start
    ]
    assert list(axis.touching(start, stop)) == writes
    origins = [index for index in range(len(axis)) if start <= axis.origin(index) < stop]
    assert list(axis.originating(start, stop)) == origins


@given(axes)
def test_every_pixel_is_covered_and_no_patch_is_needless(axis: AxisGrid) -> None:
    count = axis.count(0, axis.length)
    assert count.min() >= 1
    assert axis.origin(len(axis) - 1) < axis.length
    if len(axis) > 1:
        assert axis.origin(len(axis) - 2) + axis.tile < axis.length, "the last patch but one reached the end"


@pytest.mark.parametrize("name", ["flat", "linear", "cosine"])
@pytest.mark.parametrize("overlap", [0, 1, 20, 127, 200])
def test_weights_never_vanish_and_mirror(name: Any, overlap: int) -> None:
    weights = Taper(name).weights(tile=256, overlap=overlap)
    assert weights.min() >= 1
    np.testing.assert_array_equal(weights, weights[::-1])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 900), width=st.integers(1, 900), tile=st.integers(20, 128), share=st.floats(0, 0.8),
    block=st.sampled_from([128, 192, 256]), scale=st.sampled_from(SCALES), data=st.data(),
)  # fmt: skip
def test_blocks_own_each_patch_once_and_sources_are_complete(
    height: int, width: int, tile: int, share: float, block: int, scale: Scale, data: st.DataObject
) -> None:
    block = max(block, least_block(tile=tile, slide_tile=64, scale=scale))
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Window(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
    plan = plan_for(
        height,
        width,
        tile=tile,
        overlap=int(share * tile),
        block=block,
        region=region,
        slide_tile=64,
        scale=scale,
    )
    owner: dict[tuple[int, int], tuple[int, int]] = {}
    inner: set[tuple[int, int]] = set()
    for index in plan.blocks():
        part = plan.block_plan(index)
        for rect in (part.inner, part.right, part.below):
            for patch in ((row, column) for row in rect.rows for column in rect.columns):
                assert patch not in owner, "a patch has two owners"
                owner[patch] = index
                if rect is part.inner:
                    inner.add(patch)
    assert len(owner) == plan.patches
    for index in plan.blocks():
        drawn = plan.block_plan(index).drawn
        for job in plan.grid:
            if job.write.clip(drawn).empty:
                continue
            assert owner[job.index] in plan.sources(index)
            assert (owner[job.index] == index) or job.index not in inner
            assert index in plan.consumers(owner[job.index])


def test_the_plan_does_not_grow_with_the_canvas() -> None:
    tracemalloc.start()
    plan = plan_for(1_000_000, 1_000_000)
    assert plan.patches == 4238**2
    blocks = sum(1 for _ in plan.blocks())
    assert blocks == 489**2
    assert len(plan.block_plan((488, 488)).inner) > 0
    assert tracemalloc.get_traced_memory()[1] < 200_000
    tracemalloc.stop()
    assert len(pickle.dumps(plan)) < 3000
    assert worker_bytes(plan) == worker_bytes(plan_for(5000, 5000))


@pytest.mark.parametrize(
    ("tile", "overlap", "told"),
    [(0, 0, "--tile 0"), (256, 256, "--overlap 256"), (256, -1, "--overlap -1"), (10, 40, "--overlap 40")],
)
def test_bad_geometry_is_named(tile: int, overlap: int, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        make_grid(height=9, width=9, tile=tile, overlap=overlap, context=0)


def test_too_much_overlap_to_sum_exactly_is_refused() -> None:
    grid = PatchGrid(1000, 1000, 256, 255, 0)
    with pytest.raises(BadInput, match="too many patches share a pixel"):
        choose_bits(grid, Taper("linear"), returns_uint8=False)
    assert choose_bits(PatchGrid(1000, 1000, 256, 20, 0), Taper("flat"), returns_uint8=False) == 12


@pytest.mark.parametrize(("block", "tile"), [(1000, 256), (512, 600), (0, 256), (-512, 256)])
def test_bad_blocks_are_refused(block: int, tile: int) -> None:
    with pytest.raises(BadInput, match=f"--block {block}"):
        choose_block(block, tile=tile, slide_tile=512, scale=ONE, longest=1000)


def test_a_chosen_block_holds_a_patch() -> None:
    assert choose_block(None, tile=256, slide_tile=512, scale=ONE, longest=1000) == 2048
    assert choose_block(None, tile=3000, slide_tile=512, scale=ONE, longest=1000) == 3072
    assert choose_block(None, tile=256, slide_tile=4096, scale=ONE, longest=1000) == 4096


@pytest.mark.parametrize(
    ("height", "width"), [(4096, 5120), (20_000, 30_000), (300_000, 200_000), (2000, 90_000), (90_000, 2000)]
)
def test_scratch_is_bounded(height: int, width: int) -> None:
    """Play a render: seams come `at_a_time` blocks before their own, and go with the last block that needs them."""
    plan = plan_for(height, width)
    item = np.dtype(plan.blend.sum_dtype).itemsize
    (most_pixels, most_sums), most_bytes = boundary_capacity(plan), boundary_bytes(plan)
    sizes = {}
    for index in plan.blocks():
        windows = plan.boundary_windows(index).values()
        pixels = sum(3 * window.height * window.width for window in windows)
        sums = sum(Accumulator.size(window, plan.blend) for window in windows)
        assert pixels <= most_pixels
        assert sums <= most_sums
        sizes[index] = pixels + item * sums
        assert sizes[index] <= most_bytes, "memory is planned too small"
    for at_a_time in (1, 6):
        bound = scratch_bytes(plan, at_a_time=at_a_time)
        assert most_alive(plan, sizes, at_a_time) <= bound, "less is planned than there is"
        assert bound < (1.2 if min(height, width) > 5000 else 1.5) * height * width


def most_alive(plan: RenderPlan, sizes: dict[tuple[int, int], int], at_a_time: int) -> int:
    """The most bytes of seams that lie in scratch at a time."""
    waiting, done, alive, size, most = deque[tuple[int, int]](), set(), set(), 0, 0
    for index in [*sizes, *[None] * at_a_time]:
        if index is not None:
            waiting.append(index)
            alive.add(index)
            size += sizes[index]
            most = max(most, size)
        if index is None or len(waiting) > at_a_time:
            finished = waiting.popleft()
            done.add(finished)
            for source in plan.sources(finished):
                if done.issuperset(plan.consumers(source)):
                    alive.remove(source)
                    size -= sizes[source]
    assert not alive
    return most


def test_seams_of_a_band_fit_into_memory() -> None:
    """What two rows of a band and a block leave is kept, for the usual grid; so hardly any of it is written."""
    plan = plan_for(60_000, 60_000)
    item = np.dtype(plan.blend.sum_dtype).itemsize
    order = list(plan.blocks())
    sizes = []
    for index in order:
        windows = plan.boundary_windows(index).values()
        sizes.append(
            sum(3 * window.height * window.width for window in windows)
            + item * sum(Accumulator.size(window, plan.blend) for window in windows)
        )
    most = 2 * BAND + 1
    spans = [sum(sizes[first : first + most]) for first in range(len(sizes) - most + 1)]
    assert np.median(spans) <= boundary_room(plan)
