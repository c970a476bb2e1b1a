"""In which order do tasks run, and what happens if one fails?

A render is a stream of tasks, block by block: the boundary patches of a block, then the rest of it. Each task names the
earlier tasks that it needs. `run_tasks` feeds the stream to a pool and keeps only a bounded number of tasks in flight, so
that neither the graph nor the waiting results grow with the canvas. A task that fails is retried, up to `TRIES` times in
all. Then it is given up together with the tasks that need it, and all others continue. A failure that no retry can mend
(wrong input, full disk) ends the stream at once.

`Serial` defines the meaning: one task after the other. `Threads` runs them on threads of this process and `DaskThreads` on
Dask threads of this process, for users who want the Dask dashboard. `safron.engine.execution.dask_cluster` runs them in
other processes and on other hosts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any, Protocol

from safron.engine.system.failures import WorkersDied, is_worth_another_try

TRIES = 3
# After so many tasks given up without a success in between, the fault is not in the blocks.
HOPELESS = 32
# A pool that waits for a task returns this often, so that signals and slow calls are noticed.
WAKE_SECONDS = 0.2


@dataclass(frozen=True)
class Task:
    """A function call with a name.

    Attributes
    ----------
    key
        Unique in the stream.
    call
        Function of `job` and `index` that any process can import.
    job
        Shared by all tasks of a stream; sent to another process once.
    index
        Block of this task; small.
    after
        Keys of earlier tasks that must be finished first.
    """

    key: str
    call: Callable[[Any, Any], Any]
    job: Any
    index: Any
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenUp:
    """Takes the place of a result.

    Attributes
    ----------
    task
        The task that was given up.
    error
        Why its last try failed; None if it needs another task that was given up.
    """

    task: Task
    error: BaseException | None


Ended = tuple[Task, Any, BaseException | None]
"""A task with its result, or with the exception that it raised."""


class Pool(Protocol):
    """Runs tasks.

    Attributes
    ----------
    ahead
        Largest number of tasks in flight.
    """

    ahead: int

    def submit(self, task: Task) -> None:
        """Take a task whose needs are finished."""

    def next(self) -> Ended | None:
        """Wait for a task to end; None if none has for a while.

        Raises
        ------
        Exception
            The pool cannot continue.
        """

    def drop(self) -> None:
        """Give back unfinished tasks, and stop them if possible."""


Runner = Callable[[Iterable[Task]], Iterator[tuple[str, Any]]]


def run_tasks(tasks: Iterable[Task], pool: Pool) -> Iterator[tuple[str, Any]]:
    """Run a stream of tasks; yield (key, result or `GivenUp`) as they finish.

    Raises
    ------
    BaseException
        A task raised it, and a retry or another task would meet the same.
    """
    stream = _Stream(iter(tasks), pool)
    in_a_row = 0
    try:
        while True:
            for item in stream.ready():
                if isinstance(item, GivenUp):
                    yield item.task.key, item
                else:
                    pool.submit(item)
            if not stream.running:
                return
            ended = pool.next()
            if ended is None:
                continue
            task, result, error = ended
            if error is None:
                in_a_row = 0
                stream.finished(task)
                yield task.key, result
                continue
            if not is_worth_another_try(error):
                raise error
            # It is not known which task killed so many workers, so each of them gets one more try.
            if stream.failed(task, times=TRIES - 1 if isinstance(error, WorkersDied) else 1):
                in_a_row += 1
                if in_a_row == HOPELESS:
                    raise error
                _forget_frames(error)
                yield task.key, GivenUp(task, error)
    finally:
        pool.drop()


def _forget_frames(error: BaseException) -> None:
    """Release the images and batches in the frames of a failure; its message is kept to the end of the render."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


@dataclass
class _Stream:
    """Unfinished tasks, and which of them may run."""

    tasks: Iterator[Task]
    pool: Pool
    running: dict[str, Task] = field(default_factory=dict)
    _waiting: dict[str, Task] = field(default_factory=dict)
    _again: deque[Task] = field(default_factory=deque)
    _failures: dict[str, int] = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)

    def ready(self) -> Iterator[Task | GivenUp]:
        """Yield tasks that may run now, read from the stream as far as there is room for them."""
        while self._again:
            yield self._again.popleft()
        for key in [key for key, task in self._waiting.items() if self._may_run(task)]:
            yield self._start(self._waiting.pop(key))
        while len(self.running) + len(self._waiting) < self.pool.ahead:
            task = next(self.tasks, None)
            if task is None:
                return
            if self._may_run(task):
                yield self._start(task)
            else:
                self._waiting[task.key] = task

    def _may_run(self, task: Task) -> bool:
        """Whether all tasks that it needs are finished: a finished task left its work in scratch."""
        return not any(key in self.running or key in self._waiting for key in task.after)

    def _start(self, task: Task) -> Task | GivenUp:
        if not self._given_up.isdisjoint(task.after):
            self._given_up.add(task.key)
            return GivenUp(task, None)
        self.running[task.key] = task
        return task

    def finished(self, task: Task) -> None:
        """Record that a task is done."""
        del self.running[task.key]
        self._failures.pop(task.key, None)

    def failed(self, task: Task, *, times: int = 1) -> bool:
        """Queue a task again; True if it has no tries left."""
        failures = self._failures.pop(task.key, 0) + times
        if failures < TRIES:
            self._failures[task.key] = failures
            self._again.append(task)
            return False
        del self.running[task.key]
        self._given_up.add(task.key)
        return True
