"""What happens in one task?

Three kinds of task, each a plain function of a `Job` and a block index, so that any executor, thread
or machine may run it, again if need be: `scan_block` looks at the mask, `boundary_task` generates the patches that
also write into other blocks, `block_task` generates the others and makes the block's pixels and tiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from math import lcm
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from safron.engine.blending.accumulator import Accumulator
from safron.engine.blending.dense import DenseSums, merge_sums, new_sums
from safron.engine.blending.resample import resample
from safron.engine.generator.inputs import Labels, read_labels, where_fill
from safron.engine.generator.model import GeneratorInfo
from safron.engine.generator.planes import Inputs, PlaneSource, card_sources, patch_windows
from safron.engine.generator.row_by_row import row_by_row
from safron.engine.plan.blocks import BlockPlan, PatchRect
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import Scratch, glimpse_level
from safron.engine.scratch.boundary_store import boundary_parts, empty_boundary
from safron.engine.scratch.task_result import Tally, TaskDone
from safron.engine.system.large_arrays import kept
from safron.io.masks.mask import LabelMask
from safron.io.masks.scaled import ScaledEdges, ScaledMask
from safron.io.slides.pyramid import reduce_region
from safron.io.slides.writer import EncodedTile, encode_region

from .batching import Batches, Pool, Strip
from .device_queue import Stopped
from .sampling import STRIP, Begun, Held, Sampling

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Job:
    """Everything that a task needs besides its block index.

    Attributes
    ----------
    model
        What is known of the generator.
    pool
        Runs the generator; None where other processes do.
    sampling
        The step of a sampler that this pass over the canvas takes; None of a generator that gives the picture itself.
    """

    plan: RenderPlan
    mask: LabelMask
    model: GeneratorInfo
    scratch: Scratch
    pool: Pool | None = None
    sampling: Sampling | None = None

    @property
    def labels(self) -> Labels:
        """The mask in drawn pixels."""
        return self._drawn(self.mask)

    def _drawn(self, mask: LabelMask, name: str = "labels") -> Labels:
        plan = self.plan if self.sampling is None else self.sampling.whole
        grid, scale = plan.grid, plan.scale
        if scale.is_one:
            return mask
        if name == "edges" and scale.ratio < 1:
            return ScaledEdges(mask, (grid.height, grid.width), scale.first_slide_index)
        return ScaledMask(mask, (grid.height, grid.width), scale.slide_index)

    @property
    def sources(self) -> tuple[PlaneSource, ...]:
        """Where the generator's inputs beside labels come from."""
        beside = {name: self._drawn(other, name) for name, other in self.mask.beside.items()}
        return card_sources(self.model.card, self.labels, seed=self.plan.seed, beside=beside)

    def on_canvas(self, window: Window) -> Window:
        """Return a window of the plan in drawn pixels of the canvas."""
        return window if self.sampling is None else self.sampling.on_canvas(window)


# Tasks of this process look here between batches: who wants to hear of finished patches, and whether to
# stop. Keyed by scratch path, since a Job travels to other processes and a callback does not.
_listeners: dict[Path, Callable[[int], None]] = {}


@contextmanager
def listening(scratch: Scratch, listener: Callable[[int], None]) -> Iterator[None]:
    """Call `listener` with the number of patches after each batch.

    When what happens inside breaks off, tasks still at work in other threads of this process end at their
    next batch instead of working on for nobody.
    """
    _listeners[scratch.path] = listener
    try:
        yield
    except BaseException:
        _listeners[scratch.path] = _stop
        raise
    del _listeners[scratch.path]


def _stop(count: int) -> None:
    raise Stopped


def notify(scratch: Scratch, count: int) -> None:
    """Tell the listener of this process, if there is one."""
    listener = _listeners.get(scratch.path)
    if listener is not None:
        listener(count)


def _batches(job: Job, tally: Tally) -> Batches:
    """Where the patches of a task go."""
    assert job.pool is not None, "the generator runs in other processes"
    return job.pool.open(tally, partial(notify, job.scratch))


class PatchTarget(Protocol):
    """Takes patches; see `Accumulator`."""

    def add(self, patches: npt.NDArray[Any], first: Window) -> None:
        """Add patches that lie side by side."""

    def paint(self, labels: UInt8, colors: UInt8, first: Window) -> None:
        """Add rows of patches that give each label its colour."""


def strips(job: Job, rect: PatchRect, target: PatchTarget | DenseSums, tally: Tally) -> Iterator[Strip]:
    """Give the patches of `rect` that need the generator; fill those that hold background only.

    Parameters
    ----------
    target
        Where the patches go.
    tally
        Of the task.
    """
    if not len(rect):
        return
    grid, model, written = job.plan.grid, job.model, rect.window(job.plan.grid)
    down, across, context = grid.rows.stride, grid.columns.stride, grid.context
    side = grid.tile + 2 * context
    area = job.on_canvas(written.expand(context))
    with tally.stage("read"):
        labels = read_labels(job.labels, area, outside=model.card.outside)
        held = None if job.sampling is None else job.sampling.hold(area)
    inner = labels[context:][: written.height, context:][:, : written.width]
    corner = Window(written.y, written.x, grid.tile, grid.tile)
    if model.colors is not None:
        with tally.stage("blend"):
            _paint(job, target, inner, model.colors, corner)
        tally.run += len(rect)
        notify(job.scratch, len(rect))
        return
    is_fill, fill_colors = model.card.is_fill, model.card.fill_colors
    more = () if held is None or job.sampling is None else job.sampling.sources(held)
    sources = row_by_row((*job.sources, *more), job.labels.shape[0])
    # A view: a row of patches after the other, [rows, columns, side, side].
    windows = sliding_window_view(labels, (side, side))[::down, ::across]
    for row, in_row in enumerate(windows):
        start = 0
        for filled, alike in groupby(_all_fill(labels[row * down :][:side], in_row, is_fill)):
            count = len(list(alike))
            y, x = row * down, start * across
            first, part = corner.shift(y, x), in_row[start : start + count]
            start += count
            if not filled:
                inputs = {"labels": part} | _planes(job, sources, first, count, tally)
                yield Strip(inputs, first, across, target.add)
                continue
            with tally.stage("blend"):
                strip = inner[y : y + grid.tile, x : x + (count - 1) * across + grid.tile]
                _paint(job, target, strip, fill_colors, first, held)
            tally.painted += count
            notify(job.scratch, count)


def _all_fill(strip: UInt8, windows: UInt8, is_fill: npt.NDArray[np.bool_]) -> list[bool]:
    """Which windows [n, side, side] of a strip [side, width] hold background only."""
    count, _, side = windows.shape
    if not is_fill[windows[:, 0, 0]].any():
        return [False] * count
    columns = np.logical_and.reduce(where_fill(strip, is_fill), axis=0)
    step = (len(columns) - side) // max(1, count - 1)
    return [bool(columns[index * step : index * step + side].all()) for index in range(count)]


def _paint(
    job: Job,
    target: PatchTarget | DenseSums,
    labels: UInt8,
    colors: UInt8,
    first: Window,
    held: Held | Begun | None = None,
) -> None:
    """Give labels their colours, in patches that lie side by side; a sampler is led to them."""
    if not isinstance(target, DenseSums):
        target.paint(labels, colors, first)
        return
    assert held is not None
    assert job.sampling is not None
    for start in range(0, len(labels), STRIP):
        part = labels[start : start + STRIP]
        area = job.on_canvas(Window(first.y + start, first.x, *part.shape))
        target.add_sheet(job.sampling.of_fill(held, colors[part], area), first, start)


def _planes(job: Job, sources: list[PlaneSource], first: Window, count: int, tally: Tally) -> Inputs:
    """Give the inputs beside labels of patches that lie side by side; the first has this write window."""
    read, inputs = job.on_canvas(first.expand(job.plan.grid.context)), {}
    for source in sources:
        with tally.stage(source.spec.name):
            inputs[source.spec.name] = patch_windows(source, read, count, job.plan.grid.columns.stride)
    return inputs


def boundary_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Generate the boundary patches of a block, and store their sums for its neighbours."""
    plan, start = job.plan, time.perf_counter()
    tally = Tally()
    pixels, sums = empty_boundary(plan, index)
    parts = boundary_parts(plan, index, pixels, sums)
    with _batches(job, tally) as batches:
        for name, rect in plan.block_plan(index).boundary.items():
            for strip in strips(job, rect, parts[name], tally):
                batches.push(strip)
    with tally.stage("scratch"):
        job.scratch.boundaries.write(index, pixels, sums, seconds=time.perf_counter() - start)
    return TaskDone("boundary", index, tally)


def block_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Make a block: inner patches and seams to pixels, pixels to levels, levels to encoded tiles."""
    plan = job.plan
    block = plan.block_plan(index)
    tally = Tally()
    if job.sampling is not None and not job.sampling.is_last:
        _step_task(job, job.sampling, block, tally)
        return TaskDone("block", index, tally)
    image = kept("image", (block.window.height, block.window.width, 3), np.uint8)
    if block.rendered != block.window:
        image[:] = job.model.card.background
    if not block.rendered.empty:
        rendered = image[block.rendered.slices(block.window)]
        drawing = rendered
        if not plan.scale.is_one:
            drawing = np.empty((block.drawn.height, block.drawn.width, 3), np.uint8)
        target = _block_sums(job, block.drawn, drawing)
        _add_all(job, block, target, tally)
        _finish(job, target, drawing, tally)
        if not plan.scale.is_one:
            with tally.stage("resample"):
                resample(drawing, block.drawn, rendered, block.rendered, plan.scale, canvas=plan.canvas)
    if plan.stain is not None:
        with tally.stage("stain"):
            plan.stain.apply(image, block.window.y, block.window.x)
    return TaskDone("block", index, tally, list(_encode_levels(job, block, image, tally)))


def _block_sums(job: Job, window: Window, drawing: UInt8 | None = None) -> Accumulator | DenseSums:
    """Give what adds up the patches of a block; a sampler's sums are in memory that this thread keeps."""
    blend = job.plan.blend
    if not blend.channels:
        return new_sums(window, blend, drawing)
    sums = kept("sums", (DenseSums.size(window, blend),), np.int32)
    sums[:] = 0
    return new_sums(window, blend, drawing, sums)


def _step_task(job: Job, sampling: Sampling, block: BlockPlan, tally: Tally) -> None:
    """Take a step of a sampler in a block, and keep the running picture for the next pass."""
    target = _block_sums(job, block.drawn)
    assert isinstance(target, DenseSums)
    _add_all(job, block, target, tally)
    channels, here = sampling.sampler.channels, sampling.in_picture(sampling.on_canvas(block.drawn))
    glimpse = _Glimpse(job, sampling, here)
    # Rows of whole chunks are stored as soon as they are there: the picture of a block is large.
    side = lcm(job.plan.slide.tile, STRIP)
    band = kept("band", (channels, side, here.width), np.float32)
    steps = sampling.after(target)
    while True:
        with tally.stage("step"):
            step = next(steps, None)
            if step is None:
                break
            rows, values = step
            band[:, rows.start % side :][:, : values.shape[1]] = values
        if rows.stop % side == 0 or rows.stop == here.height:
            start = (rows.stop - 1) // side * side
            part = Window(here.y + start, here.x, rows.stop - start, here.width)
            with tally.stage("scratch"):
                job.scratch.state.write(part, band[:, : part.height])
                glimpse.see(start, band[:, : part.height])
    with tally.stage("scratch"):
        glimpse.keep(block.index)


class _Glimpse:
    """One pixel in so many of a block's running picture, to be looked at: of a large canvas nobody can read all for that.

    Parameters
    ----------
    job, sampling
        Of the pass.
    here
        The block, in pixels of the running picture.
    """

    def __init__(self, job: Job, sampling: Sampling, here: Window) -> None:
        self._job, self._sampling, self._level = job, sampling, glimpse_level(job.plan)
        step, size = 1 << self._level, job.plan.working_pyramid.level(self._level)
        self._rows, self._columns = (
            np.minimum(np.arange(start, min(-(-stop // step), count) * step, step) + step // 2, stop - 1)
            - start
            for start, stop, count in ((here.y, here.y_stop, size.height), (here.x, here.x_stop, size.width))
        )
        wanted = bool(self._level)
        self._colors = np.zeros((wanted * self._rows.size, wanted * self._columns.size, 3), np.uint8)

    def see(self, start: int, values: npt.NDArray[np.float32]) -> None:
        """Take pixels of some rows from `start` on, float32 [channels, rows, columns]."""
        inside = (self._rows >= start) & (self._rows < start + values.shape[1])
        if self._colors.size and inside.any():
            passes = self._job.plan.passes
            assert passes is not None
            picked = values[:, (self._rows[inside] - start)[:, None], self._columns]
            stored = picked.astype(passes.state).astype(np.float32)
            self._colors[inside] = self._sampling.step.colors_of(stored).transpose(1, 2, 0)

    def keep(self, block: tuple[int, int]) -> None:
        """Store it."""
        if self._colors.size:
            self._job.scratch.write_part(self._level, block, self._colors)


def _finish(job: Job, target: Accumulator | DenseSums, drawing: UInt8, tally: Tally) -> None:
    """Make pixels of all patches of a block, uint8 [h, w, 3]; a sampler takes its last step."""
    if isinstance(target, Accumulator):
        with tally.stage("blend"):
            target.finalize()
        return
    assert job.sampling is not None
    with tally.stage("step"):
        for rows, picture in job.sampling.after(target):
            drawing[rows] = job.sampling.step.colors_of(picture).transpose(1, 2, 0)


def _add_all(job: Job, block: BlockPlan, target: Accumulator | DenseSums, tally: Tally) -> None:
    """Add up the inner patches of a block, and the boundary patches, this block's and its neighbours'."""
    plan = job.plan
    with _batches(job, tally) as batches:
        for strip in strips(job, block.inner, target, tally):
            batches.push(strip)
    for source in plan.sources(block.index):
        if not plan.block_plan(source).boundary:
            continue
        with tally.stage("scratch"):
            pixels, sums = job.scratch.boundaries.read(source)
        with tally.stage("blend"):
            for part in boundary_parts(plan, source, pixels, sums).values():
                merge_sums(target, part)


def _encode_levels(job: Job, block: BlockPlan, image: UInt8, tally: Tally) -> Iterator[EncodedTile]:
    """Halve the block level by level, encode its tiles, and keep its thumbnail in scratch."""
    plan = job.plan
    y, x = block.window.y - plan.region.y, block.window.x - plan.region.x
    last = max(plan.thumbnail_level, min(plan.block_levels, plan.slide.level_count - 1))
    levels = reduce_region(image, y, x, plan.working_pyramid, last)
    while True:
        with tally.stage("downsample"):
            step = next(levels, None)
        if step is None:
            return
        level, top, left, part = step
        if level < plan.slide.level_count and level <= plan.block_levels:
            with tally.stage("encode"):
                yield from encode_region(part, level, top, left, plan.slide)
        if level == plan.thumbnail_level and part.size:
            with tally.stage("scratch"):
                job.scratch.write_part(level, block.index, part)
