"""How do tasks run on a Dask scheduler?"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from itertools import count
from typing import Any

from safron.engine.system.failures import Lost, WorkersDied

from .scheduling import TRIES, Task


def dashboard_options(address: str | None) -> dict[str, Any]:
    """Options of a scheduler for Dask's pages: none, or at an address, which is loopback's unless it says otherwise."""
    if address is None:
        return {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    return {"dashboard": True, "dashboard_address": address}


# Results brought to this process at one time.
FETCHED = 8


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


def quiet_asyncio() -> None:
    """Keep asyncio from printing what Dask left behind when it closed under load: nobody waits for that any more."""
    logger = logging.getLogger("asyncio")
    if _is_news not in logger.filters:
        logger.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a message of asyncio tells of more than an exception that nobody fetched."""
    return "exception was never retrieved" not in record.getMessage()
