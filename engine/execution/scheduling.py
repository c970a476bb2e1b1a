"""Who runs the tasks, in which order, and what becomes of one that fails?

A render is a stream of tasks, block by block: the boundary of a block, then the block. Each
task names the earlier tasks that it needs. `run_tasks` feeds the stream to a pool, a bounded number of
tasks at a time, so that neither the graph nor the results waiting grow with the canvas. A task that
fails is run again, and given up after `TRIES`; tasks that need it are given up with it, all others go
on. What no other try could mend (a wrong input, a full disk) ends the stream at once.

`Serial` defines the meaning: one task after the other. `Threads` runs them on threads of this process, `DaskThreads`
too, where somebody wants to watch on Dask's pages; `safron.engine.execution.dask_cluster` on other processes and hosts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from traceback import clear_frames
from typing import Any, Protocol

from safron.engine.system.failures import WorkersDied, is_worth_another_try

TRIES = 3
# Tasks given up without a success between them after which it is not the blocks that are at fault.
HOPELESS = 32


@dataclass(frozen=True)
class Task:
    """A function call with a name.

    Attributes
    ----------
    key : unique in the stream.
    call : function of `job` and `index` that any process can import.
    job : what all tasks of a stream share; sent to another process once.
    index : what this task is about; small.
    after : keys of earlier tasks that must be finished first.
    """

    key: str
    call: Callable[[Any, Any], Any]
    job: Any
    index: Any
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class GivenUp:
    """Stands in the place of a result.

    Attributes
    ----------
    task : what was given up.
    error : why its last try failed; None where it waits for another task that was given up.
    """

    task: Task
    error: BaseException | None


class Pool(Protocol):
    """Runs tasks.

    Attributes
    ----------
    ahead : tasks that may be in it at one time.
    """

    ahead: int

    def submit(self, task: Task) -> None:
        """Take a task whose needs are finished."""

    def next(self) -> tuple[Task, Any, BaseException | None]:
        """Wait for a task; give it with its result, or with what it raised."""

    def drop(self) -> None:
        """Give back what is unfinished, and stop it where that can be done."""


Runner = Callable[[Iterable[Task]], Iterator[tuple[str, Any]]]


def run_tasks(tasks: Iterable[Task], pool: Pool) -> Iterator[tuple[str, Any]]:
    """Run a stream of tasks; yield (key, result or `GivenUp`) as they finish.

    Raises
    ------
    BaseException
        What a task raised, where trying again, or another task, would meet the same.
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
            task, result, error = pool.next()
            if error is None:
                in_a_row = 0
                stream.finished(task)
                yield task.key, result
                continue
            if not is_worth_another_try(error):
                raise error
            # Whose death it was that so many workers died is not known, so there is one more round.
            if stream.failed(task, times=TRIES - 1 if isinstance(error, WorkersDied) else 1):
                in_a_row += 1
                if in_a_row == HOPELESS:
                    raise error
                _forget_frames(error)
                yield task.key, GivenUp(task, error)
    finally:
        pool.drop()


def _forget_frames(error: BaseException) -> None:
    """Let go of the images and batches in the frames of a failure; what it says is kept to the end of the render."""
    link: BaseException | None = error
    while link is not None:
        clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


@dataclass
class _Stream:
    """Which tasks are unfinished, and which of them may run."""

    tasks: Iterator[Task]
    pool: Pool
    running: dict[str, Task] = field(default_factory=dict)
    _waiting: dict[str, Task] = field(default_factory=dict)
    _again: deque[Task] = field(default_factory=deque)
    _failures: dict[str, int] = field(default_factory=dict)
    _given_up: set[str] = field(default_factory=set)

    def ready(self) -> Iterator[Task | GivenUp]:
        """Tasks that may run now, read from the stream as far as there is room for them."""
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
        """Whether nothing that it needs is unfinished: a task that is finished left its work in scratch."""
        return not any(key in self.running or key in self._waiting for key in task.after)

    def _start(self, task: Task) -> Task | GivenUp:
        if not self._given_up.isdisjoint(task.after):
            self._given_up.add(task.key)
            return GivenUp(task, None)
        self.running[task.key] = task
        return task

    def finished(self, task: Task) -> None:
        """Take note that a task is done."""
        del self.running[task.key]
        self._failures.pop(task.key, None)

    def failed(self, task: Task, *, times: int = 1) -> bool:
        """Queue a task again; True where it had its tries."""
        failures = self._failures.pop(task.key, 0) + times
        if failures < TRIES:
            self._failures[task.key] = failures
            self._again.append(task)
            return False
        del self.running[task.key]
        self._given_up.add(task.key)
        return True
