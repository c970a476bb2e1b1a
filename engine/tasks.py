"""What happens in one task?

Three kinds of task, each a plain function of a `Job` and a block index, so that any executor, thread
or machine may run it, again if need be: `scan_block` looks at the mask, `seam_task` runs the patches
that reach into the next block, `block_task` runs the others and makes the block's pixels and tiles.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.labels import LabelMask
from safron.io.pyramid import reduce_region
from safron.io.slides import EncodedTile, encode_region

from .accumulate import Accumulator, SeamSums
from .model import PatchModel
from .noise import normal_noise
from .plan import BlockPlan, PatchRect, RenderPlan
from .scratch import Scratch
from .window import Window

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Deliver = Callable[[npt.NDArray[Any], Window], None]


@dataclass(frozen=True)
class Job:
    """Everything that a task needs besides its block index."""

    plan: RenderPlan
    mask: LabelMask
    model: PatchModel
    scratch: Scratch


class Stopped(Exception):
    """The render was interrupted; raised inside tasks of the same process so that they end early."""


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


@dataclass
class Tally:
    """What a task did: patches run and painted, and seconds by stage."""

    run: int = 0
    painted: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class TaskDone:
    """What a seam or block task hands back.

    Attributes
    ----------
    kind : "seam" or "block".
    index : the block.
    tally : counts and times.
    tiles : the block's encoded TIFF tiles of every level that it completes; none for a seam.
    """

    kind: str
    index: tuple[int, int]
    tally: Tally
    tiles: list[EncodedTile] = field(default_factory=list)


def read_labels(mask: LabelMask, window: Window, *, outside: int | None) -> UInt8:
    """Read labels where `window` may reach beyond the canvas.

    Parameters
    ----------
    mask : the canvas.
    window : canvas pixels; at least one lies inside.
    outside : label beyond the canvas, or None for the nearest canvas label.

    Returns
    -------
    uint8 [window.height, window.width].
    """
    inside = window.clip(Window(0, 0, *mask.shape))
    labels = mask[inside.slices()]
    if inside == window:
        return labels
    margins = (
        (inside.y - window.y, window.y_stop - inside.y_stop),
        (inside.x - window.x, window.x_stop - inside.x_stop),
    )
    if outside is None:
        return np.pad(labels, margins, mode="edge")
    return np.pad(labels, margins, constant_values=outside)


class _Batches:
    """Collects windows into batches of one fixed shape and hands each patch on, encoded.

    The last batch is filled up with copies, since ONNX Runtime keeps memory for every batch shape that
    it has seen, and some kernels round differently for another shape.
    """

    def __init__(self, job: Job, tally: Tally) -> None:
        self._job = job
        self._tally = tally
        plan = job.plan
        side = plan.grid.tile + 2 * plan.grid.context
        channels = len(plan.noise_scales)
        self._labels = np.zeros((plan.batch, side, side), np.uint8)
        self._noise = np.zeros((plan.batch, channels, side, side), np.float32) if channels else None
        self._waiting: list[tuple[Window, Deliver]] = []

    def push(self, labels: UInt8, noise: Float32 | None, write: Window, deliver: Deliver) -> None:
        """Queue one patch; run the batch when it is full."""
        slot = len(self._waiting)
        self._labels[slot] = labels
        if self._noise is not None:
            self._noise[slot] = noise
        self._waiting.append((write, deliver))
        if len(self._waiting) == len(self._labels):
            self.flush()

    def flush(self) -> None:
        """Run what is queued."""
        count = len(self._waiting)
        if not count:
            return
        self._labels[count:] = self._labels[0]
        if self._noise is not None:
            self._noise[count:] = self._noise[0]
        with self._tally.stage("model"):
            values = self._job.model(self._labels, self._noise)
        with self._tally.stage("blend"):
            fixed = self._job.plan.blend.encode(values)
            for patch, (write, deliver) in zip(fixed, self._waiting, strict=False):
                deliver(patch, write)
        self._waiting.clear()
        self._tally.run += count
        notify(self._job.scratch, count)


def notify(scratch: Scratch, count: int) -> None:
    """Tell the listener of this process, if there is one."""
    listener = _listeners.get(scratch.path)
    if listener is not None:
        listener(count)


def run_patches(job: Job, rect: PatchRect, batches: _Batches, tally: Tally, deliver: Deliver) -> None:
    """Queue the patches of `rect`, painting those whose whole window is glass."""
    if not len(rect):
        return
    plan, card = job.plan, job.model.card
    halo = plan.grid.context
    area = rect.window(plan.grid).expand(halo)
    with tally.stage("read"):
        labels = read_labels(job.mask, area, outside=card.outside)
    is_fill, fill_colors = card.is_fill, card.fill_colors
    any_fill = bool(is_fill.any())
    for row in rect.rows:
        patches = [plan.grid[row, column] for column in rect.columns]
        windows = [labels[patch.read.slices(area)] for patch in patches]
        glass = [any_fill and _all_fill(window, is_fill) for window in windows]
        strip = _noise_strip(
            plan, [patch.read for patch, skip in zip(patches, glass, strict=True) if not skip], tally
        )
        for patch, window, painted in zip(patches, windows, glass, strict=True):
            if painted:
                inner = window[halo : window.shape[0] - halo, halo : window.shape[1] - halo]
                deliver(plan.blend.encode(fill_colors[inner]), patch.write)
                tally.painted += 1
                notify(job.scratch, 1)
                continue
            noise = None
            if strip is not None:
                rows, columns = patch.read.slices(strip[0])
                noise = strip[1][:, rows, columns]
            batches.push(window, noise, patch.write, deliver)


def _all_fill(labels: UInt8, is_fill: npt.NDArray[np.bool_]) -> bool:
    """Whether every label is glass; most windows are settled by one pixel."""
    return bool(is_fill[labels[0, 0]] and is_fill[labels].all())


def _noise_strip(plan: RenderPlan, reads: list[Window], tally: Tally) -> tuple[Window, Float32] | None:
    """The noise under a row of patches, made once where they overlap; None where nothing runs."""
    if not reads or not plan.noise_scales:
        return None
    window = Window.from_bounds(reads[0].y, reads[0].x, reads[-1].y_stop, reads[-1].x_stop)
    with tally.stage("noise"):
        return window, normal_noise(window, seed=plan.seed, scales=plan.noise_scales)


def seam_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Run the patches of a block that reach into other blocks, and store their weighted sums."""
    plan = job.plan
    tally = Tally()
    batches = _Batches(job, tally)
    sums: dict[str, SeamSums] = {}
    for name, rect in plan.block_plan(index).seams.items():
        sums[name] = SeamSums(rect.window(plan.grid).clip(plan.region), plan.blend)
        run_patches(job, rect, batches, tally, sums[name].add)
    batches.flush()
    with tally.stage("scratch"):
        for name, seam in sums.items():
            job.scratch.write_seam(index, name, seam.sums)
    return TaskDone("seam", index, tally)


def block_task(job: Job, index: tuple[int, int]) -> TaskDone:
    """Make a block: inner patches and seams to pixels, pixels to levels, levels to encoded tiles."""
    plan = job.plan
    block = plan.block_plan(index)
    tally = Tally()
    image = _image_memory(block.window.height, block.window.width)
    if block.paint != block.window:
        image[:] = job.model.card.background
    if not block.paint.empty:
        _paint(job, block, image[block.paint.slices(block.window)], tally)
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
    """Fill the rendered part of a block."""
    plan = job.plan
    accumulator = Accumulator(block.paint, plan.blend, image)
    batches = _Batches(job, tally)
    run_patches(job, block.inner, batches, tally, accumulator.add)
    batches.flush()
    for source in plan.sources(block.index):
        for name, rect in plan.block_plan(source).seams.items():
            whole = rect.window(plan.grid).clip(plan.region)
            part = whole.clip(block.paint)
            if part.empty:
                continue
            with tally.stage("scratch"):
                sums = job.scratch.read_seam(source, name, part, whole)
            with tally.stage("blend"):
                accumulator.merge(sums, part)
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
                job.scratch.level(level)[top : top + part.shape[0], left : left + part.shape[1]] = part
