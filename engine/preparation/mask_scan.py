"""What does the mask hold? One parallel look at every label before the generator runs."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256

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

# Fixed, so that the fingerprint of a mask does not depend on how its render is cut up.
SCAN_BLOCK = 4096


@dataclass(frozen=True)
class Scan:
    """What the mask holds, as far as a render is concerned.

    Attributes
    ----------
    fingerprint : changes when the mask does.
    painted : patches that need no generator.
    """

    fingerprint: str
    painted: int


def scan_mask(job: Job, runner: Runner) -> Scan:
    """Look at every label at most once: refuse those the card does not know, count glass, fingerprint the mask.

    Raises
    ------
    BadInput
        At the first unknown label in raster order, with its value and place.
    """
    plan, card = job.plan, job.model.card
    if card.known.all() and not card.is_fill.any() and job.mask.plane.dtype in (np.uint8, np.bool_):
        # Nothing to find, and a hash of the files tells a changed mask as well, where they can be read.
        with suppress(OSError):
            return Scan(job.mask.fingerprint(), 0)
    rows, columns = (len(axis) for axis in drawn_alone(plan).axis_blocks(SCAN_BLOCK))
    order = ((row, column) for row in range(rows) for column in range(columns))
    total = sha256(f"{plan.grid.height} {plan.grid.width}".encode())
    painted, unknown = 0, None
    waiting: dict[tuple[int, int], Scanned] = {}
    expected = next(order)
    tasks = (
        Task(f"scan-{row}-{column}", scan_block, job, (row, column))
        for row in range(rows)
        for column in range(columns)
    )
    for _, unit in runner(tasks):
        if isinstance(unit, GivenUp):
            raise unit.error or Failed(f"{job.mask.source}: cannot be read")
        waiting[unit.index] = unit
        while expected in waiting:
            unit = waiting.pop(expected)
            total.update(unit.digest)
            painted += unit.painted
            if unit.unknown is not None and (unknown is None or unit.unknown < unknown):
                unknown = unit.unknown
            expected = next(order, (-1, -1))
    if unknown is not None:
        y, x, value = unknown
        y, x = np.minimum(plan.scale.slide_index(np.array([y, x])), np.array(job.mask.shape) - 1).tolist()
        names = ", ".join(f"{label.value} {label.name}" for label in card.labels)
        raise BadInput(
            f"{job.mask.source}: label {value} at x={x}, y={y} is unknown to generator {card.name!r}, "
            f"which knows {names}; relabel the mask or choose another --model"
        )
    return Scan(total.hexdigest(), painted)


def drawn_alone(plan: RenderPlan) -> RenderPlan:
    """A plan of what is drawn, without its way into the slide: labels are looked at as the generator will see them."""
    if plan.scale.is_one:
        return plan
    slide = replace(plan.slide, height=plan.drawn.height, width=plan.drawn.width)
    return replace(plan, canvas=plan.grid.canvas, region=plan.drawn, scale=ONE, slide=slide)


@dataclass(frozen=True)
class Scanned:
    """What one scan unit saw.

    Attributes
    ----------
    index : the unit.
    digest : sha256 of its labels.
    unknown : (y, x, value) of the first label that the card does not know, or None.
    painted : owned patches whose whole window is glass.
    """

    index: tuple[int, int]
    digest: bytes
    unknown: tuple[int, int, int] | None
    painted: int


def scan_block(job: Job, index: tuple[int, int]) -> Scanned:
    """Look at all labels that the patches of one scan unit read."""
    plan, card = job.plan, job.model.card
    unit = drawn_alone(plan).block_plan(index, block=SCAN_BLOCK)
    canvas = plan.grid.canvas
    area = unit.drawn
    if area.empty:  # all of it lies in the slide's padding
        return Scanned(index, b"", None, 0)
    patches = [rect for rect in (unit.inner, unit.right, unit.below) if len(rect)]
    for rect in patches:
        seen = rect.window(plan.grid).expand(plan.grid.context).clip(canvas)
        area = Window.from_bounds(
            min(area.y, seen.y),
            min(area.x, seen.x),
            max(area.y_stop, seen.y_stop),
            max(area.x_stop, seen.x_stop),
        )
    labels = np.ascontiguousarray(job.labels[area.slices()])
    least, most = (int(value) for value in cv2.minMaxLoc(labels)[:2])
    between = slice(least, most + 1)
    unknown = None
    if not card.known[between].all():
        # OpenCV takes a seventh of NumPy's time for it.
        known = np.asarray(cv2.LUT(labels, card.known.view(np.uint8)))
        y, x = divmod(int(known.argmin()), labels.shape[1])
        unknown = None if known[y, x] else (area.y + y, area.x + x, int(labels[y, x]))
    painted = 0
    if card.is_fill[between].any():
        fill = where_fill(labels, card.is_fill)
        painted = sum(_count_glass(job, rect, fill, area) for rect in patches)
    return Scanned(index, sha256(labels.data).digest(), unknown, painted)


def _count_glass(job: Job, rect: PatchRect, fill: npt.NDArray[np.bool_], area: Window) -> int:
    """Patches of `rect` whose whole window is glass, row by row of patches.

    Parameters
    ----------
    fill : where `area` is glass, bool [height, width].
    """
    plan, card = job.plan, job.model.card
    # A window that reaches beyond the canvas is glass only where what lies there is taken for glass.
    beyond = card.outside is not None and not card.is_fill[card.outside]
    first = plan.grid[rect.rows[0], 0].read
    across = []
    for column in rect.columns:
        read = plan.grid[rect.rows[0], column].read
        seen = read.clip(Window(read.y, area.x, read.height, area.width))
        if not (beyond and seen != read):
            across.append((seen.x - area.x, seen.x_stop - area.x))
    count = 0
    for index in range(len(rect.rows)):
        read = first.shift(index * plan.grid.rows.stride, 0)
        seen = read.clip(Window(area.y, read.x, area.height, read.width))
        if beyond and seen != read:
            continue
        columns = np.logical_and.reduce(fill[seen.y - area.y : seen.y_stop - area.y], axis=0)
        count += sum(bool(columns[start:stop].all()) for start, stop in across)
    return count
