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
from safron.engine.generator.host_memory import HostMemory
from safron.engine.generator.planes import Inputs, call_with, each
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.task_result import Tally

Call = Callable[..., npt.NDArray[Any]]
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
    inputs
        What they are made of, "labels" uint8 [n, side, side] first; views.
    first
        Write window of the first patch.
    stride
        Pixels from one patch to the next.
    deliver
        Takes what is generated, on the thread of the task.
    """

    inputs: Inputs
    first: Window
    stride: int
    deliver: Deliver

    def __len__(self) -> int:
        return len(self.inputs["labels"])

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


@dataclass(frozen=True)
class Batch:
    """Memory for the inputs of one batch.

    Attributes
    ----------
    inputs
        Arrays [n, ...] for each input.
    """

    inputs: Inputs

    @classmethod
    def empty(cls, plan: RenderPlan, memory: HostMemory) -> Self:
        """Room for one batch, of zeros."""
        side = plan.grid.tile + 2 * plan.grid.context
        inputs: Inputs = {"labels": memory.empty((plan.batch, side, side), np.uint8)}
        for spec in plan.planes:
            inputs[spec.name] = memory.empty((plan.batch, *spec.shape(side)), spec.dtype)
        for values in inputs.values():
            values[:] = 0
        return cls(inputs)

    def put(self, slots: slice, inputs: Inputs) -> None:
        """Copy patches into some slots."""
        for name, values in inputs.items():
            self.inputs[name][slots] = values

    def filled_up(self, count: int) -> Inputs:
        """Give the whole batch, with copies of the first patch after the first `count`."""
        for values in self.inputs.values():
            values[count:] = values[0]
        return self.inputs


class OwnBatches:
    """Batches with patches of one task alone.

    Parameters
    ----------
    call
        The generator.
    plan
        Says how many patches make a batch.
    memory
        For the batch.
    tally
        Of the task.
    ran
        Told of each batch.
    """

    def __init__(self, call: Call, plan: RenderPlan, memory: HostMemory, tally: Tally, ran: Ran) -> None:
        self._call, self._plan, self._tally, self._ran = call, plan, tally, ran
        self._batch = Batch.empty(plan, memory)
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
            self._batch.put(slots, each(strip.inputs, part))
            self._waiting.append((slots, strip.window(done), strip.deliver))
            self._count, done = slots.stop, part.stop
            if self._count == self._plan.batch:
                self._run()

    def _run(self) -> None:
        with self._tally.stage("model"):
            inputs = self._batch.filled_up(self._count)
            values = call_with(self._call, inputs)
        with self._tally.stage("blend"):
            for slots, first, deliver in self._waiting:
                deliver(values[slots], first)
        self._waiting.clear()
        self._tally.run += self._count
        self._ran(self._count)
        self._count = 0
