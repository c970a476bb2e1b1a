"""How do the patches of a task come to the generator?

A task hands over strips: patches that lie side by side. Where they go is decided once, by
`safron.engine.execution.patch_pool.open_pool`:

- `PatchPool`, on CPUs: each patch is computed by itself, in a call of its own, on any thread that has time.
- `DeviceQueue`, on a GPU: batches are filled with patches of all tasks of the process. Hardly a copy is run, the device
  has the next batch while tasks blend and encode the last, and a few batches are held however many tasks there are.
- `OwnBatches`, for generators whose bits depend on the batch: each task fills batches of its own.

A batch always has one shape: ONNX Runtime keeps memory for every shape that it has seen, and some kernels round
differently for another. A batch that is not full is filled up with copies, which cost as much as patches do::

    tasks     push -> [ open batch ] -> full batches -> runners -> done -> each task delivers its own
                            ^---------------- free <------- when all have -------------'
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.task_result import Tally

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

Call = Callable[[UInt8, Float32 | None], npt.NDArray[Any]]
"""A generator, see `safron.engine.generator.model.PatchModel`."""
Deliver = Callable[[npt.NDArray[Any], Window], None]
"""Takes values [m, tile, tile, 3] of patches side by side, and the write window of the first of them."""
Ran = Callable[[int], None]
"""Is told how many patches were generated, after each batch."""


@dataclass(frozen=True)
class Strip:
    """Patches that lie side by side.

    Attributes
    ----------
    labels
        uint8 [n, side, side], their windows; a view.
    noise
        float32 [n, channels, side, side], or None; a view.
    first
        Write window of the first patch.
    stride
        Pixels from one patch to the next.
    deliver
        Takes what is generated, on the thread of the task.
    """

    labels: UInt8
    noise: Float32 | None
    first: Window
    stride: int
    deliver: Deliver

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, part: slice) -> tuple[UInt8, Float32 | None]:
        """Labels and noise of some patches."""
        return self.labels[part], None if self.noise is None else self.noise[part]

    def window(self, index: int) -> Window:
        """Write window of a patch."""
        return self.first.shift(0, index * self.stride)


class Batches(Protocol):
    """Takes the patches of one task, and hands back what the generator makes of them.

    As a context manager it waits for all of them at the end, or lets go of them where something is raised.
    """

    def push(self, strip: Strip) -> None:
        """Take patches; they are delivered on this thread, now or in a later call."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


class Pool(Protocol):
    """Where the patches of all tasks of this process go."""

    def open(self, tally: Tally, ran: Ran) -> Batches:
        """Take the patches of one task: `tally` is the task's, `ran` is told of progress."""

    def close(self) -> None:
        """End its threads."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...


@dataclass
class Inputs:
    """What a batch is made of: uint8 [n, side, side], and float32 [n, channels, side, side] or None."""

    labels: UInt8
    noise: Float32 | None

    @classmethod
    def empty(cls, plan: RenderPlan) -> Self:
        """Room for one batch."""
        side, channels = plan.grid.tile + 2 * plan.grid.context, len(plan.noise_scales)
        noise = np.zeros((plan.batch, channels, side, side), np.float32) if channels else None
        return cls(np.zeros((plan.batch, side, side), np.uint8), noise)

    def put(self, slots: slice, labels: UInt8, noise: Float32 | None) -> None:
        """Copy patches into some slots."""
        self.labels[slots] = labels
        if self.noise is not None:
            self.noise[slots] = noise

    def filled_up(self, count: int) -> tuple[UInt8, Float32 | None]:
        """Give the whole batch, with copies of the first patch after the first `count`."""
        self.labels[count:] = self.labels[0]
        if self.noise is not None:
            self.noise[count:] = self.noise[0]
        return self.labels, self.noise


class OwnBatches:
    """Batches with patches of one task alone.

    Parameters
    ----------
    call
        The generator.
    plan
        Says how many patches make a batch.
    tally
        Of the task.
    ran
        Told of each batch.
    """

    def __init__(self, call: Call, plan: RenderPlan, tally: Tally, ran: Ran) -> None:
        self._call, self._plan, self._tally, self._ran = call, plan, tally, ran
        self._inputs = Inputs.empty(plan)
        self._count = 0
        self._waiting: list[tuple[slice, Window, Deliver]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None and self._count:
            self._run()

    def push(self, strip: Strip) -> None:
        """Take patches, and run a batch whenever one is full; see `Batches`."""
        done = 0
        while done < len(strip):
            part = slice(done, done + min(len(strip) - done, self._plan.batch - self._count))
            slots = slice(self._count, self._count + part.stop - part.start)
            self._inputs.put(slots, *strip.inputs(part))
            self._waiting.append((slots, strip.window(done), strip.deliver))
            self._count, done = slots.stop, part.stop
            if self._count == self._plan.batch:
                self._run()

    def _run(self) -> None:
        with self._tally.stage("model"):
            values = self._call(*self._inputs.filled_up(self._count))
        with self._tally.stage("blend"):
            for slots, first, deliver in self._waiting:
                deliver(values[slots], first)
        self._waiting.clear()
        self._tally.run += self._count
        self._ran(self._count)
        self._count = 0
