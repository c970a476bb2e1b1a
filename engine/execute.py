"""Who runs the tasks, in which order, and what becomes of one that fails?

A render is a stream of tasks, block by block: the seams of a block, then the block. Each
task names the earlier tasks that it needs. `run_tasks` feeds the stream to a pool, a bounded number of
tasks at a time, so that neither the graph nor the results waiting grow with the canvas. A task that
fails is run again, and given up after `TRIES`; tasks that need it are given up with it, all others go
on. What no other try could mend (a wrong input, a full disk) ends the stream at once.

`Serial` defines the meaning: one task after the other. `Threads` runs them on threads of this process, `DaskThreads`
too, where somebody wants to watch on Dask's pages; `safron.engine.cluster` on other processes and hosts.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from queue import SimpleQueue
from traceback import clear_frames
from typing import Any, Protocol

from safron.engine.system.failures import Lost, WorkersDied, is_worth_another_try

TRIES = 3
# Tasks given up without a success between them after which it is not the blocks that are at fault.
HOPELESS = 32
# Results brought to this process at one time.
FETCHED = 8


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


class Serial:
    """One task after the other, here and now: what every other pool must equal."""

    ahead = 1

    def __init__(self) -> None:
        self._task: Task | None = None

    def submit(self, task: Task) -> None:
        """Take the next task."""
        self._task = task

    def next(self) -> tuple[Task, Any, BaseException | None]:
        """Run it."""
        assert self._task is not None
        try:
            return self._task, self._task.call(self._task.job, self._task.index), None
        except Exception as error:
            return self._task, None, error

    def drop(self) -> None:
        """Do nothing: no task is unfinished."""


class Threads:
    """Tasks on threads of this process. Dask would take a second to start, and open two ports.

    Parameters
    ----------
    threads : where they run; whoever made it waits for what `drop` leaves at work.
    ahead : tasks that may be unfinished at one time.
    """

    def __init__(self, threads: ThreadPoolExecutor, ahead: int) -> None:
        self.ahead = ahead
        self._threads = threads
        self._unfinished: set[Future[None]] = set()
        self._done: SimpleQueue[tuple[Task, Any, BaseException | None]] = SimpleQueue()

    def submit(self, task: Task) -> None:
        """Hand a task to the next thread that is free."""
        future = self._threads.submit(self._run, task)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)

    def _run(self, task: Task) -> None:
        try:
            self._done.put((task, task.call(task.job, task.index), None))
        except BaseException as error:  # an interrupt, too, must reach who waits
            self._done.put((task, None, error))

    def next(self) -> tuple[Task, Any, BaseException | None]:
        """Wait for a task that ends."""
        return self._done.get()

    def drop(self) -> None:
        """Cancel what has not begun."""
        for future in list(self._unfinished):
            future.cancel()


class DaskPool(ABC):
    """Tasks on a Dask scheduler; subclasses say what is submitted for a task.

    Parameters
    ----------
    client : a `distributed.Client`.
    ahead : tasks that may be unfinished at one time.
    """

    def __init__(self, client: Any, ahead: int) -> None:
        from distributed import as_completed

        self.ahead = ahead
        self.client = client
        self._done = as_completed(loop=client.loop)
        self._futures: dict[str, tuple[Task, Any]] = {}
        self._finished: deque[Any] = deque()
        self._fetched: deque[tuple[Any, Any]] = deque()

    def submit(self, task: Task) -> None:
        """Hand a task to the scheduler."""
        name = f"{task.key}-{next(_numbers)}"
        future = self.send(name, task)
        self._futures[name] = task, future
        self._done.add(future)

    @abstractmethod
    def send(self, name: str, task: Task) -> Any:
        """Submit what runs `task`; return the future."""

    @abstractmethod
    def received(self, name: str, task: Task, result: Any) -> None:
        """Take note of a task's result, None where it has none; nothing more will be heard of it."""

    def lost(self) -> Lost:
        """Give the error for a scheduler that is gone."""
        return Lost("the Dask scheduler of this process was lost; the same command continues")

    def next(self) -> tuple[Task, Any, BaseException | None]:
        """Wait for a task that ends."""
        if not self._fetched:
            self._fetch()
        future, result = self._fetched.popleft()
        task, _ = self._futures.pop(future.key)
        error = result.error if isinstance(result, _Raised) else None
        self.received(future.key, task, None if error else result)
        return task, None if error else result, error

    def _fetch(self) -> None:
        """Bring a few results here; the others wait where they were made, and `ahead` bounds them."""
        if not self._finished:
            self._finished += self._done.next_batch()
        part = [self._finished.popleft() for _ in range(min(FETCHED, len(self._finished)))]
        try:
            values = self.client.gather(part)
        except Exception:  # of one of them: ask each
            values = [self._result(future) for future in part]
        self._fetched.extend(zip(part, values, strict=True))

    def _result(self, future: Any) -> Any:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            return _Raised(
                WorkersDied(f"its worker died {deaths} times, the last one {error.last_worker.address}")
            )
        except CancelledError as error:  # not by us: we would not be waiting for it
            raise self.lost() from error
        except Exception as error:
            return _Raised(error)

    def drop(self) -> None:
        """Cancel what is unfinished."""
        for name, (task, _) in self._futures.items():
            self.received(name, task, None)
        self.client.cancel([future for _, future in self._futures.values()], force=True)
        self._futures.clear()


@dataclass(frozen=True)
class _Raised:
    """What a task raised, in the place of its result."""

    error: Exception


# Dask pickles what it submits, an in-memory mask with it; for threads of this process only a name travels.
_here: dict[str, Task] = {}
_numbers = count()


def _run_here(name: str) -> Any:
    """Run a task of this process."""
    task = _here.get(name)
    return None if task is None else task.call(task.job, task.index)  # None: cancelled meanwhile


class DaskThreads(DaskPool):
    """Tasks on Dask worker threads of this process."""

    def send(self, name: str, task: Task) -> Any:
        """Submit the name of a task."""
        _here[name] = task
        return self.client.submit(_run_here, name, pure=False, key=name)

    def received(self, name: str, task: Task, result: Any) -> None:
        """Forget a task."""
        _here.pop(name, None)


DASK_SETTINGS = {
    # The plan bounds memory beforehand; these pause or kill workers by a guess.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Dask's profiler keeps an hour of call trees, which looks like a leak, and samples every 10 ms.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.log-length": 100,
    "distributed.admin.tick.limit": "60s",
    # A task whose worker died this often, and once more, is given up.
    "distributed.scheduler.allowed-failures": TRIES - 1,
}


@contextmanager
def local_runner(workers: int, *, in_threads: bool = False, dashboard: str | None = None) -> Iterator[Runner]:
    """Give a runner of this process: serial for one worker, else threads.

    Parameters
    ----------
    workers : tasks at work at a time.
    in_threads : whether one worker shall have a thread of its own, too.
    dashboard : address of Dask's pages, which then runs the threads; None shows none.
    """
    if workers == 1 and not in_threads and dashboard is None:
        yield lambda tasks: run_tasks(tasks, Serial())
        return
    if dashboard is None:
        with ThreadPoolExecutor(workers, "safron-block") as threads:
            yield lambda tasks: run_tasks(tasks, Threads(threads, workers + 2))
        return
    import dask
    from distributed import Client, LocalCluster

    quiet_asyncio()
    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            dashboard_address=dashboard,
            # Dask opens a port in any case.
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield lambda tasks: run_tasks(tasks, DaskThreads(client, workers + 2))


def quiet_asyncio() -> None:
    """Keep asyncio from printing what Dask left behind when it closed under load: nobody waits for that any more."""
    logger = logging.getLogger("asyncio")
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio tells of more than an exception that nobody fetched."""
    return "exception was never retrieved" not in record.getMessage()
