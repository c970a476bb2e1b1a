"""Who generates the patches of a task on a CPU? The thread that asks for them, and others while cores are idle.

A thread that handed its patches to others and waited would wake, and be woken, once a patch, and leave its core idle
meanwhile. So it works itself, and calls for help only as long as fewer threads than cores generate patches.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safron.engine.generator.halving import Halving
from safron.engine.generator.host_memory import HostMemory
from safron.engine.generator.model import GeneratorInfo, PatchModel
from safron.engine.generator.planes import further
from safron.engine.generator.sampler import guided
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.scratch.task_result import Tally

from .batching import Batches, Call, OwnBatches, Pool, Ran, Strip
from .device_queue import BUFFERS, RUNNERS, DeviceQueue
from .joined_patches import cut, join
from .shared_pixels import Part, SharedPixels

Values = npt.NDArray[Any]


def open_pool(model: PatchModel, info: GeneratorInfo, plan: RenderPlan) -> Pool:
    """Decide how patches come to the generator; see `safron.engine.execution.batching`."""
    model = guided(model, info.card.sampler, info.card.is_fill)
    if plan.batch == 1 or (info.batch_invariant and not info.on_gpu):
        size = plan.batch if info.per_call is None else info.per_call
        shared = plan.grid.overlap if info.shared else 0
        return PatchPool(model, max(size, info.joined), info.calls, joined=info.joined > 1, shared=shared)
    call = Halving(model, info) if info.on_gpu else model
    memory = HostMemory(info.device)
    return DeviceQueue(call, plan, memory) if info.same_places else OwnBatchPool(call, plan, memory)


def batches_held(info: GeneratorInfo, blocks: int) -> tuple[int, int]:
    """How many batches, and calls, there are at a time where so many blocks are in flight."""
    # The thread of a block calls the generator itself, and others help it where fewer blocks than calls are allowed.
    return (BUFFERS, RUNNERS) if info.same_places else (blocks, max(blocks, info.calls or 1))


@dataclass(frozen=True)
class OwnBatchPool:
    """A generator whose bits depend on the batch: tasks have nothing in common."""

    call: Call
    plan: RenderPlan
    memory: HostMemory

    def open(self, tally: Tally, ran: Ran) -> Batches:
        """See `Pool`."""
        return OwnBatches(self.call, self.plan, self.memory, tally, ran)

    def close(self) -> None:
        """Do nothing: it has no threads."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        pass


@dataclass
class _Work:
    """A strip that is being generated.

    Attributes
    ----------
    strip
        The patches.
    parts
        What is not delivered yet, by the first of its patches, from left to right.
    waiting
        What nobody generates yet.
    made
        What is generated, by the first of its patches.
    helpers
        Threads that were called for help.
    """

    strip: Strip
    parts: dict[int, Part]
    waiting: deque[Part]
    made: dict[int, Values] = field(default_factory=dict)
    helpers: deque[Future[None]] = field(default_factory=deque)

    def ready(self, *, in_order: bool) -> tuple[Part, Values] | None:
        """Hand out what is generated and not delivered; None where there is none, or, in order, where it is not the next."""
        start = next(iter(self.parts if in_order else list(self.made)), None)
        if start is None or start not in self.made:
            return None
        return self.parts.pop(start), self.made.pop(start)


class PatchPool:
    """Patches of all tasks of this process, each computed by itself.

    Parameters
    ----------
    call
        The generator.
    size
        Patches of a call.
    calls
        Calls at a time, whoever asks for them; None makes one for each task, and nobody helps.
    joined
        Whether the patches of a call are one wide window.
    shared
        Rows, and columns, that a patch takes from the patches above it and on its left; with 0 each is generated whole.
    """

    def __init__(
        self, call: Call, size: int, calls: int | None, *, joined: bool = False, shared: int = 0
    ) -> None:
        self._call, self._size, self._calls, self._joined = call, size, calls or 0, joined
        self.shared = shared
        self._places = threading.Semaphore(calls) if calls else nullcontext()
        self._helpers = ThreadPoolExecutor(
            calls or 1, "safron-model"
        )  # which starts threads when they are needed
        self._guard = threading.Lock()
        self._at_work = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """See `Pool`."""
        self._helpers.shutdown()

    def open(self, tally: Tally, ran: Ran) -> Batches:
        """See `Pool`."""
        return _Patches(self, tally, ran)

    def begin(self, strip: Strip, pixels: SharedPixels) -> _Work:
        """Take a strip; the thread that asks counts as one at work until `end`."""
        with self._guard:
            self._at_work += 1
        parts = pixels.parts(strip, self._size)
        return _Work(strip, {part.patches.start: part for part in parts}, deque(parts))

    def next(self, work: _Work) -> bool:
        """Generate the next patches of a strip; False where none are left."""
        if len(work.waiting) > 1:
            self._call_for_help(work)
        with self._places:
            try:
                part = work.waiting.popleft()
            except IndexError:
                return False
            work.made[part.patches.start] = self._generate(work.strip, part)
            return True

    def _generate(self, strip: Strip, part: Part) -> Values:
        if self._joined or self.shared:
            inputs = join(strip.inputs, part.patches, strip.stride, top=part.top, left=part.left)
        else:
            inputs = {
                name: np.ascontiguousarray(values[part.patches]) for name, values in strip.inputs.items()
            }
        # Not by `call_with`: few frames lie between a render and the generator.
        return self._call(inputs["labels"], inputs.get("noise"), **further(inputs))

    def end(self, work: _Work) -> None:
        """Leave what is waiting; wait for helpers, and raise what they raised."""
        work.waiting.clear()
        with self._guard:
            self._at_work -= 1
        ended = []
        while work.helpers:  # one who helps may have called for more help
            ended.append(work.helpers.popleft())
            ended[-1].exception()
        for helper in ended:
            helper.result()

    def _call_for_help(self, work: _Work) -> None:
        with self._guard:
            if self._at_work >= self._calls:
                return
            self._at_work += 1
        work.helpers.append(self._helpers.submit(self._help, work))

    def _help(self, work: _Work) -> None:
        try:
            while self.next(work):
                pass
        except BaseException:
            work.waiting.clear()
            raise
        finally:
            with self._guard:
                self._at_work -= 1


class _Patches:
    """The patches of one task on their way through a `PatchPool`."""

    def __init__(self, pool: PatchPool, tally: Tally, ran: Ran) -> None:
        self._pool, self._tally, self._ran = pool, tally, ran
        self._pixels = SharedPixels(pool.shared)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        pass

    def push(self, strip: Strip) -> None:
        """Generate patches, and deliver each while it is in the core's cache; see `Batches`."""
        work = self._pool.begin(strip, self._pixels)
        try:
            while True:
                with self._tally.stage("model"):
                    if not self._pool.next(work):
                        break
                self._deliver(work)
        finally:
            with self._tally.stage("model"):
                self._pool.end(work)
        self._deliver(work)

    def _deliver(self, work: _Work) -> None:
        """Deliver what is there; where patches take pixels from those before them, from left to right."""
        strip = work.strip
        while (ready := work.ready(in_order=self._pool.shared > 0)) is not None:
            part, made = ready
            with self._tally.stage("blend"):
                values = self._pixels.complete(strip, part, made)
                if len(values) < len(part):
                    values = cut(values, strip.first.width, strip.stride)
                strip.deliver(values, strip.window(part.patches.start))
            self._tally.run += len(part)
            self._ran(len(part))
