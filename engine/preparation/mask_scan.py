"""Which labels does the mask have? One parallel pass over all of them before the generator runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt
from safron.engine.execution.scheduling import GivenUp, Runner, Task
from safron.engine.execution.tasks import Job
from safron.engine.generator.inputs import where_fill
from safron.engine.plan.blocks import PatchRect
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.scale import ONE
from safron.engine.plan.window import Window
from safron.io.errors import BadInput, Failed

from .number_notes import number_notes

# Fixed, so that the fingerprint of a mask does not depend on the blocks of its render.
SCAN_BLOCK = 4096


@dataclass(frozen=True)
class Scan:
    """The result of reading the whole mask.

    Attributes
    ----------
    fingerprint
        Changes when the mask does.
    filled
        Number of patches whose whole window is background.
    notes
        What the user should know of what was read.
    """

    fingerprint: str
    filled: int
    notes: tuple[str, ...] = ()


def scan_mask(job: Job, runner: Runner) -> Scan:
    """Read every label at most once: refuse labels that the card does not have, count filled patches, hash the mask.

    Raises
    ------
    BadInput
        The card lacks a label; the message names the first in raster order and its position.
    """
    plan, card = job.plan, job.model.card
    if card.known.all() and not card.is_fill.any() and job.mask.plane.dtype in (np.uint8, np.bool_):
        # Nothing to find, and a hash of the files tells a changed mask as well, where they can be read.
        with suppress(OSError):
            return Scan(job.mask.fingerprint(), 0, number_notes(job))
    rows, columns = (len(axis) for axis in drawn_alone(plan).axis_blocks(SCAN_BLOCK))
    order = product(range(rows), range(columns))
    total = sha256(f"{plan.grid.height} {plan.grid.width}".encode())
    filled, unknown = 0, None
    waiting: dict[tuple[int, int], Scanned] = {}
    expected = next(order)
    units = product(range(rows), range(columns))
    for _, unit in runner(
        Task(f"scan-{row}-{column}", scan_block, job, (row, column)) for row, column in units
    ):
        if isinstance(unit, GivenUp):
            raise unit.error or Failed(f"mask {job.mask.source}: cannot be read")
        waiting[unit.index] = unit
        while expected in waiting:
            unit = waiting.pop(expected)
            total.update(unit.digest)
            filled += unit.filled
            if unit.unknown is not None and (unknown is None or unit.unknown < unknown):
                unknown = unit.unknown
            expected = next(order, (-1, -1))
    if unknown is not None:
        raise unknown_label(job, *unknown)
    return Scan(total.hexdigest(), filled, number_notes(job))


def unknown_label(job: Job, y: int, x: int, value: int) -> BadInput:
    """Return the error for a label at a drawn pixel."""
    card, inside = job.model.card, np.array(job.mask.shape) - 1
    y, x = np.minimum(job.plan.scale.slide_index(np.array([y, x])), inside).tolist()
    names = ", ".join(f"{label.value} {label.name}" for label in card.labels)
    return BadInput(
        f"{job.mask.source}: label {value} at x={x}, y={y} is unknown to generator {card.name!r}, "
        f"which knows {names}; relabel the mask or choose another --model"
    )


def drawn_alone(plan: RenderPlan) -> RenderPlan:
    """Return a plan of the drawn pixels alone, as if they were the slide: labels are read as the generator will see them."""
    if plan.scale.is_one:
        return plan
    slide = replace(plan.slide, height=plan.drawn.height, width=plan.drawn.width)
    return replace(plan, canvas=plan.grid.canvas, region=plan.drawn, scale=ONE, slide=slide)


@dataclass(frozen=True)
class Scanned:
    """The result of one scan unit, a square of `SCAN_BLOCK` drawn pixels.

    Attributes
    ----------
    index
        (row, column) of the unit.
    digest
        SHA-256 of its labels.
    unknown
        (y, x, value) of the first label that the card lacks, or None.
    filled
        Number of its patches whose whole window is background.
    """

    index: tuple[int, int]
    digest: bytes
    unknown: tuple[int, int, int] | None
    filled: int


def scan_block(job: Job, index: tuple[int, int]) -> Scanned:
    """Read all labels that the patches of one scan unit read."""
    plan, card = job.plan, job.model.card
    unit = drawn_alone(plan).block_plan(index, block=SCAN_BLOCK)
    canvas = plan.grid.canvas
    area = unit.drawn
    if area.empty:  # the whole unit lies in the slide's padding
        return Scanned(index, b"", None, 0)
    patches = [rect for rect in (unit.inner, unit.right, unit.below) if len(rect)]
    for rect in patches:
        read = rect.window(plan.grid).expand(plan.grid.context).clip(canvas)
        area = Window.from_bounds(
            min(area.y, read.y),
            min(area.x, read.x),
            max(area.y_stop, read.y_stop),
            max(area.x_stop, read.x_stop),
        )
    labels = np.ascontiguousarray(job.labels[area.slices()])
    least, most = (int(value) for value in cv2.minMaxLoc(labels)[:2])
    between = slice(least, most + 1)
    unknown = None
    if not card.known[between].all():
        # OpenCV needs a seventh of NumPy's time for this.
        is_known = np.asarray(cv2.LUT(labels, card.known.view(np.uint8)))
        y, x = divmod(int(is_known.argmin()), labels.shape[1])
        unknown = None if is_known[y, x] else (area.y + y, area.x + x, int(labels[y, x]))
    filled = 0
    if card.is_fill[between].any():
        fill = where_fill(labels, card.is_fill)
        filled = sum(_count_filled(job, rect, fill, area) for rect in patches)
    return Scanned(index, sha256(labels.data).digest(), unknown, filled)


def _count_filled(job: Job, rect: PatchRect, fill: npt.NDArray[np.bool_], area: Window) -> int:
    """Count the patches of `rect` whose whole window is background, one row of patches at a time.

    Parameters
    ----------
    fill
        Where `area` is background, bool [height, width].
    """
    plan, card = job.plan, job.model.card
    # A window that reaches beyond the canvas is background only if the padding label is.
    beyond = card.outside is not None and not card.is_fill[card.outside]
    first = plan.grid[rect.rows[0], 0].read
    across = []
    for column in rect.columns:
        read = plan.grid[rect.rows[0], column].read
        inside = read.clip(Window(read.y, area.x, read.height, area.width))
        if not (beyond and inside != read):
            across.append((inside.x - area.x, inside.x_stop - area.x))
    count = 0
    for index in range(len(rect.rows)):
        read = first.shift(index * plan.grid.rows.stride, 0)
        inside = read.clip(Window(area.y, read.x, area.height, read.width))
        if beyond and inside != read:
            continue
        columns = np.logical_and.reduce(fill[inside.y - area.y : inside.y_stop - area.y], axis=0)
        count += sum(bool(columns[start:stop].all()) for start, stop in across)
    return count
