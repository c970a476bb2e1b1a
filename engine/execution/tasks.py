"""What happens in one task?

Three kinds of task, each a plain function of a `Job` and a block index, so that any executor, thread
or machine may run it, again if need be: `scan_block` looks at the mask, `boundary_task` runs the patches
that reach into the next block, `block_task` runs the others and makes the block's pixels and tiles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from safron.engine.blending.accumulator import Accumulator
from safron.engine.blending.resample import resample
from safron.engine.generator.inputs import Labels, read_labels, where_fill
from safron.engine.generator.label_colors import paint_labels
from safron.engine.generator.model import PatchModel
from safron.engine.generator.noise import normal_noise
from safron.engine.plan.blocks import BlockPlan, PatchRect
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import Scratch
from safron.engine.scratch.boundary_store import boundary_parts, empty_boundary
from safron.engine.scratch.task_result import Tally, TaskDone
from safron.io.masks.mask import LabelMask
from safron.io.masks.scaled import ScaledMask
from safron.io.slides.pyramid import reduce_region
from safron.io.slides.writer import EncodedTile, encode_region

from .batching import Batches, Deliver, OwnBatches
from .device_queue import DeviceQueue, SharedBatches, Stopped

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Job:
    """Everything that a task needs besides its block index.

    Attributes
    ----------
    queue : where the patches of all tasks of this process meet; None where each task has its own batches.
    """

    plan: RenderPlan
    mask: LabelMask
    model: PatchModel
    scratch: Scratch
    queue: DeviceQueue | None = None

    @property
    def labels(self) -> Labels:
        """The mask in drawn pixels."""
        grid, scale = self.plan.grid, self.plan.scale
        if scale.is_one:
            return self.mask
        return ScaledMask(self.mask, (grid.height, grid.width), scale.slide_index)


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

    def ran(count: int) -> None:
        notify(job.scratch, count)

    if job.queue is not None:
        return SharedBatches(job.queue, tally, ran)
    return OwnBatches(job.model, job.plan, tally, ran)


def run_patches(job: Job, rect: PatchRect, batches: Batches, tally: Tally, deliver: Deliver) -> None:
    """Queue the patches of `rect`, painting those whose whole window is glass."""
    if not len(rect):
        return
    grid, card = job.plan.grid, job.model.card
    area = rect.window(grid).expand(grid.context)
    with tally.stage("read"):
        labels = read_labels(job.labels, area, outside=card.outside)
    side, is_fill = grid.tile + 2 * grid.context, card.is_fill
    # A view: a row of patches after the other, [rows, columns, side, side].
    windows = sliding_window_view(labels, (side, side))[:: grid.rows.stride, :: grid.columns.stride]
    for index, row in enumerate(rect.rows):
        strip = labels[index * grid.rows.stride :][:side]
        start = 0
        for glass, alike in groupby(_all_fill(strip, windows[index], is_fill)):
            count = len(list(alike))
            write = grid[row, rect.columns.start + start].write
            part = windows[index, start : start + count]
            if glass:
                with tally.stage("blend"):
                    deliver(_paint_fill(job, part), write)
                tally.painted += count
                notify(job.scratch, count)
            else:
                batches.push(part, _noise_windows(job.plan, write, count, tally), write, deliver)
            start += count


def _all_fill(strip: UInt8, windows: UInt8, is_fill: npt.NDArray[np.bool_]) -> list[bool]:
    """Which windows [n, side, side] of a strip [side, width] hold glass only."""
    count, _, side = windows.shape
    if not is_fill[windows[:, 0, 0]].any():
        return [False] * count
    columns = np.logical_and.reduce(where_fill(strip, is_fill), axis=0)
    step = (len(columns) - side) // max(1, count - 1)
    return [bool(columns[index * step : index * step + side].all()) for index in range(count)]


def _paint_fill(job: Job, windows: UInt8) -> UInt8:
    """Patches of glass: uint8 [n, tile, tile, 3]."""
    halo = job.plan.grid.context
    inner = windows[:, halo : windows.shape[1] - halo, halo : windows.shape[2] - halo]
    return paint_labels(inner, job.model.card.fill_colors)


def _noise_windows(plan: RenderPlan, first: Window, count: int, tally: Tally) -> Float32 | None:
    """The noise under patches that lie side by side, made once where they overlap: a view [n, k, side, side]."""
    if not plan.noise_scales:
        return None
    read = first.expand(plan.grid.context)
    stride = plan.grid.columns.stride
    window = Window(read.y, read.x, read.height, read.width + (count - 1) * stride)
    with tally.stage("noise"):
        noise = normal_noise(window, seed=plan.seed, scales=plan.noise_scales)
    return sliding_window_view(noise, read.width, axis=2)[:, :, ::stride].transpose(2, 0, 1, 3)


def boundary_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Run the patches of a block that reach into other blocks, and store what they leave."""
    plan, start = job.plan, time.perf_counter()
    tally = Tally()
    pixels, sums = empty_boundary(plan, index)
    parts = boundary_parts(plan, index, pixels, sums)
    with _batches(job, tally) as batches:
        for name, rect in plan.block_plan(index).boundary.items():
            run_patches(job, rect, batches, tally, parts[name].add)
    with tally.stage("scratch"):
        job.scratch.boundaries.write(index, pixels, sums, seconds=time.perf_counter() - start)
    return TaskDone("boundary", index, tally)


def block_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Make a block: inner patches and seams to pixels, pixels to levels, levels to encoded tiles."""
    plan = job.plan
    block = plan.block_plan(index)
    tally = Tally()
    image = _image_memory(block.window.height, block.window.width)
    if block.rendered != block.window:
        image[:] = job.model.card.background
    if not block.rendered.empty:
        rendered = image[block.rendered.slices(block.window)]
        if plan.scale.is_one:
            _paint(job, block, rendered, tally)
        else:
            drawing = np.empty((block.drawn.height, block.drawn.width, 3), np.uint8)
            _paint(job, block, drawing, tally)
            with tally.stage("resample"):
                resample(drawing, block.drawn, rendered, block.rendered, plan.scale, canvas=plan.canvas)
    return TaskDone("block", index, tally, list(_encode_levels(job, block, image, tally)))


_memory = threading.local()


def _image_memory(height: int, width: int) -> UInt8:
    """Pixels of one block, in memory that this thread keeps.

    Fresh pages for every block would cost time, and make peak memory depend on luck and so on the canvas.
    """
    size = height * width * 3
    if getattr(_memory, "image", None) is None or _memory.image.size < size:
        _memory.image = np.empty(size, np.uint8)
    image: UInt8 = _memory.image[:size].reshape(height, width, 3)
    return image


def _paint(job: Job, block: BlockPlan, image: UInt8, tally: Tally) -> None:
    """Draw what a block is made of."""
    plan = job.plan
    accumulator = Accumulator(block.drawn, plan.blend, image)
    with _batches(job, tally) as batches:
        run_patches(job, block.inner, batches, tally, accumulator.add)
    for source in plan.sources(block.index):
        if not plan.block_plan(source).boundary:
            continue
        with tally.stage("scratch"):
            pixels, sums = job.scratch.boundaries.read(source)
        with tally.stage("blend"):
            for part in boundary_parts(plan, source, pixels, sums).values():
                accumulator.merge(part)
    with tally.stage("blend"):
        accumulator.finalize()


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
