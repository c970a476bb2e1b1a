"""How do tasks run on a Dask scheduler?"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any

from safron.engine.system.failures import Lost, WorkersDied
from safron.io.errors import counted

from .call_timer import CallTimer
from .scheduling import TRIES, WAKE_SECONDS, Ended, Task


def dashboard_options(address: str | None) -> dict[str, Any]:
    """Return options of a scheduler for the dashboard at an address; without one it listens on loopback only."""
    if address is None:
        return {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    return {"dashboard": True, "dashboard_address": address}


# Results brought to this process at one time.
FETCHED = 8


class DaskPool(ABC):
    """Tasks on a Dask scheduler; subclasses define what is submitted for a task.

    Parameters
    ----------
    client
        A `distributed.Client`.
    ahead
        Largest number of tasks in flight.
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
        """Submit a call that runs `task`; return the future."""

    @abstractmethod
    def received(self, name: str, task: Task, result: Any) -> None:
        """Record that a task has ended, with its result or None; nothing more comes from it."""

    @abstractmethod
    def check(self) -> None:
        """Look for workers that are slow or stuck; called while no task ends."""

    def lost(self) -> Lost:
        """Return the error for a lost scheduler."""
        return Lost("the Dask scheduler of this process was lost; the same command continues")

    def next(self) -> Ended | None:
        """Wait for a task to end, not so long that a signal waits for it."""
        if not self._fetched and not self._fetch():
            self.check()
            return None
        future, result = self._fetched.popleft()
        task, _ = self._futures.pop(future.key)
        error = result.error if isinstance(result, _Raised) else None
        self.received(future.key, task, None if error else result)
        return task, None if error else result, error

    def _fetch(self) -> bool:
        """Bring a few results here; the others stay with their workers, and `ahead` bounds them. False if there are none."""
        if not self._finished:
            with self._done.thread_condition:
                if not self._done.has_ready():
                    self._done.thread_condition.wait(WAKE_SECONDS)
            self._finished += self._done.next_batch(block=False)
        part = [self._finished.popleft() for _ in range(min(FETCHED, len(self._finished)))]
        if not part:
            return False
        try:
            values = self.client.gather(part)
        except Exception:  # one of them failed: ask for each
            values = [self._result(future) for future in part]
        self._fetched.extend(zip(part, values, strict=True))
        return True

    def _result(self, future: Any) -> Any:
        from concurrent.futures import CancelledError

        from distributed import KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            deaths = error.allowed_failures + 1
            return _Raised(
                WorkersDied(
                    f"its worker died {counted(deaths, 'time')}, the last one {error.last_worker.address}"
                )
            )
        except CancelledError as error:  # not by us: we would not be waiting for it
            raise self.lost() from error
        except Exception as error:
            return _Raised(error)

    def drop(self) -> None:
        """Cancel unfinished tasks."""
        for name, (task, _) in self._futures.items():
            self.received(name, task, None)
        self.client.cancel([future for _, future in self._futures.values()], force=True)
        self._futures.clear()


@dataclass(frozen=True)
class _Raised:
    """Exception of a task, in the place of its result."""

    error: Exception


# Dask pickles what it submits, with it a mask in memory; for threads of this process only a name is sent.
_tasks_here: dict[str, tuple[Task, CallTimer]] = {}
_numbers = count()


def _run_here(name: str) -> Any:
    """Run a task of this process."""
    found = _tasks_here.get(name)
    if found is None:  # cancelled meanwhile
        return None
    task, timer = found
    with timer.task(task.index):
        return task.call(task.job, task.index)


class DaskThreads(DaskPool):
    """Tasks on Dask worker threads of this process.

    Parameters
    ----------
    client, ahead
        See `DaskPool`.
    timer
        Of generator calls.
    """

    def __init__(self, client: Any, ahead: int, timer: CallTimer) -> None:
        super().__init__(client, ahead)
        self._timer = timer

    def send(self, name: str, task: Task) -> Any:
        """Submit the name of a task."""
        _tasks_here[name] = task, self._timer
        return self.client.submit(_run_here, name, pure=False, key=name)

    def received(self, name: str, task: Task, result: Any) -> None:
        """Forget a task."""
        _tasks_here.pop(name, None)

    def check(self) -> None:
        """Raise if a generator call takes too long."""
        self._timer.check()


DASK_SETTINGS = {
    # The plan bounds memory; these would pause or kill workers by an estimate of their own.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # Dask's profiler keeps an hour of call trees, which looks like a leak, and samples every 10 ms.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.low-level-log-length": 100,
    "distributed.admin.system-monitor.log-length": 100,
    # How late its event loops are is not asked for. Every 20 ms, as is usual, this took 2 % of a core.
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.tick.limit": "60s",
    # A process that died starts again. If that takes longer than this, as on a busy machine, Dask gives it up for good.
    "distributed.deploy.lost-worker-timeout": "1h",
    # A task is given up once its workers died more often than this.
    "distributed.scheduler.allowed-failures": TRIES - 1,
}


def quiet_asyncio() -> None:
    """Keep asyncio from printing exceptions that Dask left behind when it closed under load: nobody waits for them."""
    logger = logging.getLogger("asyncio")
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio reports more than an exception that nobody fetched."""
    return "exception was never retrieved" not in record.getMessage()
