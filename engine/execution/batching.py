"""How do patches come to the generator in whole batches?

A batch always has one shape: ONNX Runtime keeps memory for every shape that it has seen, and some kernels round
differently for another. Who has too few patches for one fills it up with copies, and pays for them.

`OwnBatches` holds the patches of one task. `DeviceQueue` fills batches with those of all tasks of a process, for a
generator on a device of its own: hardly a copy is run, the device has the next batch while tasks blend and encode the
last, and a few batches are held however many tasks there are::

    tasks     push -> [ open batch ] -> full batches -> runners -> done -> each task delivers its own
                            ^---------------- free <------- when all have -------------'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from safron.engine.generator.model import PatchModel, runs_apart
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.task_result import Tally

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

Deliver = Callable[[npt.NDArray[Any], Window], None]
"""Takes values [m, tile, tile, 3] of patches side by side, and the write window of the first of them."""


class Batches(Protocol):
    """Takes the patches of one task, and hands back what the generator makes of them.

    As a context manager it waits for all of them at the end, or lets go of them where something is raised.
    """

    def push(self, labels: UInt8, noise: Float32 | None, first: Window, deliver: Deliver) -> None:
        """Take patches that lie side by side.

        Parameters
        ----------
        labels : uint8 [n, side, side], the patches' windows.
        noise : float32 [n, channels, side, side], or None.
        first : write window of the first patch.
        deliver : called on this thread, now or in a later call.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


@dataclass
class _Inputs:
    """What a batch is made of: uint8 [n, side, side], and float32 [n, channels, side, side] or None."""

    labels: UInt8
    noise: Float32 | None

    @classmethod
    def empty(cls, plan: RenderPlan) -> Self:
        side, channels = plan.grid.tile + 2 * plan.grid.context, len(plan.noise_scales)
        noise = np.zeros((plan.batch, channels, side, side), np.float32) if channels else None
        return cls(np.zeros((plan.batch, side, side), np.uint8), noise)

    def put(self, slots: slice, labels: UInt8, noise: Float32 | None) -> None:
        self.labels[slots] = labels
        if self.noise is not None:
            self.noise[slots] = noise

    def run(self, model: PatchModel, count: int, size: int) -> npt.NDArray[Any]:
        """Call the generator with the first `size`, of which copies follow the first `count`."""
        noise = self.noise
        self.labels[count:size] = self.labels[0]
        if noise is not None:
            noise[count:size] = noise[0]
            noise = noise[:size]
        return model(self.labels[:size], noise)


class OwnBatches:
    """Batches with patches of one task alone; the last has copies, unless the generator runs patches apart.

    Parameters
    ----------
    model : the generator.
    plan : says how many patches make a batch.
    tally : of the task.
    ran : called with the number of patches after each batch.
    """

    def __init__(self, model: PatchModel, plan: RenderPlan, tally: Tally, ran: Callable[[int], None]) -> None:
        self._model, self._plan, self._tally, self._ran = model, plan, tally, ran
        self._inputs = _Inputs.empty(plan)
        self._count = 0
        self._waiting: list[tuple[slice, Window, Deliver]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._run()

    def push(self, labels: UInt8, noise: Float32 | None, first: Window, deliver: Deliver) -> None:
        """Take patches, and run a batch whenever one is full; see `Batches`."""
        done = 0
        while done < len(labels):
            take = min(len(labels) - done, self._plan.batch - self._count)
            slots, part = slice(self._count, self._count + take), slice(done, done + take)
            self._inputs.put(slots, labels[part], _part(noise, part))
            self._waiting.append((slots, _beside(first, done, self._plan), deliver))
            self._count += take
            done += take
            if self._count == self._plan.batch:
                self._run()

    def _run(self) -> None:
        count = self._count
        if not count:
            return
        with self._tally.stage("model"):
            size = count if runs_apart(self._model) else self._plan.batch
            values = self._inputs.run(self._model, count, size)
        with self._tally.stage("blend"):
            for slots, first, deliver in self._waiting:
                deliver(values[slots], first)
        self._waiting.clear()
        self._count = 0
        self._tally.run += count
        self._ran(count)


def _part(noise: Float32 | None, part: slice) -> Float32 | None:
    return None if noise is None else noise[part]


def _beside(first: Window, index: int, plan: RenderPlan) -> Window:
    """Write window of the patch that lies so many strides to the right."""
    return first.shift(0, index * plan.grid.columns.stride)
