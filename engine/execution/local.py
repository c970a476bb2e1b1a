"""How do tasks run in this process: one after the other, or on threads?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from .dask_pool import DASK_SETTINGS, DaskThreads, quiet_asyncio
from .scheduling import Runner, Task, run_tasks


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
