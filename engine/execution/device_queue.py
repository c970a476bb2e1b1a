"""How do all blocks in flight share the batches of one GPU?"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safron.engine.generator.host_memory import HostMemory
from safron.engine.generator.planes import Inputs, call_with, each
from safron.engine.generator.warm_up import GPU_CALLS
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.plan.window import Window
from safron.engine.scratch.task_result import Tally

from .batching import Batch, Batches, Call, Deliver, Ran, Strip

RUNNERS = GPU_CALLS
"""Calls at a time on a device: while it works on one batch, the next is on its way there."""
BUFFERS = RUNNERS + 3
"""Batches that are held: one more to be filled, one that is being delivered, and one for parts of a batch that failed."""


class Stopped(Exception):
    """The render was interrupted; raised inside tasks of the same process so that they end early."""


@dataclass(eq=False)
class _Batch:
    """A batch of several tasks.

    Attributes
    ----------
    inputs
        Its patches.
    taken
        Slots that are given away.
    slots
        Of each part.
    unfilled, undelivered
        Parts that are still being copied into it, and that are not delivered yet.
    wanted
        A task has nothing left to do but to wait for it.
    done, seconds
        Whether it was run, and how long that took.
    values
        What the generator gave.
    errors
        What it raised, by the first slot of a part.
    """

    inputs: Batch
    taken: int = 0
    slots: list[slice] = field(default_factory=list)
    unfilled: int = 0
    undelivered: int = 0
    wanted: bool = False
    done: bool = False
    seconds: float = 0.0
    values: npt.NDArray[Any] | None = None
    errors: dict[int, BaseException] = field(default_factory=dict)


class DeviceQueue:
    """Batches of patches from all tasks of this process, run by threads of its own.

    A batch that is not full is run where a task waits for it and the device would else do nothing.

    Parameters
    ----------
    call
        The generator; the place of a patch in a batch may not change a bit of it.
    plan
        Says how many patches make a batch.
    memory
        For the batches.
    """

    def __init__(self, call: Call, plan: RenderPlan, memory: HostMemory) -> None:
        self.plan = plan
        self._call = call
        self.changed = threading.Condition()
        self._free = deque(Batch.empty(plan, memory) for _ in range(BUFFERS - 1))
        self._spare, self._apart = Batch.empty(plan, memory), threading.Lock()
        self._open: _Batch | None = None
        self._full: deque[_Batch] = deque()
        self._running = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"safron-device-{index}", daemon=True)
            for index in range(RUNNERS)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """End the runners; tasks that still wait for them raise `Stopped`."""
        self._closed = True
        with self.changed:
            self.changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def open(self, tally: Tally, ran: Ran) -> Batches:
        """See `safron.engine.execution.batching.Pool`."""
        return SharedBatches(self, tally, ran)

    # What tasks call; all but `filled` with `changed` held.

    def reserve(self, most: int) -> tuple[_Batch, slice] | None:
        """Give slots of the open batch, at most so many; None where all batches are in flight."""
        self.check()
        if self._open is None:
            if not self._free:
                return None
            self._open = _Batch(self._free.popleft())
        batch = self._open
        slots = slice(batch.taken, min(batch.taken + most, self.plan.batch))
        batch.taken = slots.stop
        batch.unfilled += 1
        batch.undelivered += 1
        batch.slots.append(slots)
        if batch.taken == self.plan.batch:
            self._open = None
        return batch, slots

    def filled(self, batch: _Batch) -> None:
        """Take note that reserved slots hold their patches."""
        with self.changed:
            batch.unfilled -= 1
            if not batch.unfilled:
                if batch.taken == self.plan.batch:
                    self._full.append(batch)
                self.changed.notify_all()

    def want(self, batch: _Batch) -> None:
        """Take note that a task can do nothing but wait for this batch."""
        if not batch.wanted:
            batch.wanted = True
            self.changed.notify_all()

    def release(self, batch: _Batch) -> None:
        """Take note that a part needs the batch no longer."""
        batch.undelivered -= 1
        self._recycle(batch)

    def check(self) -> None:
        """Raise `Stopped` after the end."""
        if self._closed:
            raise Stopped

    def _recycle(self, batch: _Batch) -> None:
        if batch.done and not batch.undelivered:
            batch.values = None
            self._free.append(batch.inputs)
            self.changed.notify_all()

    # What runners do.

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            start = time.perf_counter()
            try:
                batch.values = self._run(batch.inputs.filled_up(batch.taken))
            except BaseException as error:
                self._run_parts(batch, error)
            batch.seconds = time.perf_counter() - start
            with self.changed:
                self._running -= 1
                batch.done = True
                self.changed.notify_all()
                self._recycle(batch)

    def _run(self, inputs: Inputs) -> npt.NDArray[Any]:
        return call_with(self._call, inputs)

    def _run_parts(self, batch: _Batch, error: BaseException) -> None:
        """Run the parts of a batch that failed one by one: a patch that cannot be run fails its own task alone."""
        if len(batch.slots) == 1:
            batch.errors[0] = error
            return
        with self._apart:
            for slots in batch.slots:
                count = slots.stop - slots.start
                self._spare.put(slice(count), each(batch.inputs.inputs, slots))
                try:
                    values = self._run(self._spare.filled_up(count))[:count]
                except BaseException as error_of_part:
                    batch.errors[slots.start] = error_of_part
                    continue
                if batch.values is None:
                    batch.values = np.zeros((batch.taken, *values.shape[1:]), values.dtype)
                batch.values[slots] = values

    def _next(self) -> _Batch | None:
        """Wait for a batch that may run; None at the end."""
        with self.changed:
            while not self._closed:
                batch = None
                if self._full:
                    batch = self._full.popleft()
                elif self._open and self._open.wanted and not self._open.unfilled and not self._running:
                    batch, self._open = self._open, None
                if batch is not None:
                    self._running += 1
                    return batch
                self.changed.wait()
        return None


@dataclass
class SharedBatches:
    """The patches of one task on their way through a `DeviceQueue`.

    Attributes
    ----------
    queue
        The queue.
    tally
        Of the task: "model" gets its share of the batches' time, "wait" the time that this thread waited.
    ran
        Called with a number of patches when they are delivered.
    """

    queue: DeviceQueue
    tally: Tally
    ran: Ran
    _waiting: list[tuple[_Batch, slice, Window, Deliver]] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            while kind is None and self._waiting:
                self._wait_for_one()
                self._deliver()
        finally:
            with self.queue.changed:
                for batch, *_ in self._waiting:
                    self.queue.release(batch)

    def push(self, strip: Strip) -> None:
        """Take patches, and deliver those that were generated meanwhile; see `Batches`."""
        done = 0
        while done < len(strip):
            batch, slots = self._reserve(len(strip) - done)
            # From here on it is ours to release.
            self._waiting.append((batch, slots, strip.window(done), strip.deliver))
            part = slice(done, done + slots.stop - slots.start)
            try:
                batch.inputs.put(slots, each(strip.inputs, part))
            finally:
                self.queue.filled(batch)
            done = part.stop
        self._deliver()

    def _reserve(self, most: int) -> tuple[_Batch, slice]:
        """Get slots; while there are none, deliver, since others may wait for the batches that we hold."""
        while True:
            with self.queue.changed:
                found = self.queue.reserve(most)
                if found is not None:
                    return found
                if not self._has_ready():
                    with self.tally.stage("wait"):
                        self.queue.changed.wait()
            self._deliver()

    def _wait_for_one(self) -> None:
        """Wait until there is something to deliver."""
        with self.tally.stage("wait"), self.queue.changed:
            while not self._has_ready():
                self.queue.check()
                for batch, *_ in self._waiting:
                    self.queue.want(batch)
                self.queue.changed.wait()

    def _has_ready(self) -> bool:
        return any(batch.done for batch, *_ in self._waiting)

    def _deliver(self) -> None:
        """Deliver what was run."""
        for ready in [part for part in self._waiting if part[0].done]:
            batch, slots, first, deliver = ready
            self._waiting.remove(ready)
            count = slots.stop - slots.start
            try:
                if slots.start in batch.errors:
                    raise batch.errors[slots.start]
                assert batch.values is not None
                with self.tally.stage("blend"):
                    deliver(batch.values[slots], first)
            finally:
                with self.queue.changed:
                    self.queue.release(batch)
            self.tally.add("model", batch.seconds * count / batch.taken)
            self.tally.run += count
            self.ran(count)
