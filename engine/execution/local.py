"""How do tasks run in this process: one after the other, or on threads?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from safron.engine.system.open_files import require_open_files
from safron.engine.system.signals import END_SECONDS

from .call_timer import CallTimer
from .dask_pool import DASK_SETTINGS, DaskThreads, dashboard_options, quiet_asyncio
from .scheduling import WAKE_SECONDS, Ended, Runner, Task, run_tasks

if TYPE_CHECKING:
    from distributed import SpecCluster

# What is left of the time to end after threads were waited for is for the journal and the last line.
STOP_SECONDS = END_SECONDS - 1.0


# Open files that a render on threads may need; 17 were seen.
OPEN_FILES = 32


class Serial:
    """One task after the other in the thread that asks: every other pool must give the same."""

    ahead = 1

    def __init__(self) -> None:
        self._task: Task | None = None

    def submit(self, task: Task) -> None:
        """Take the next task."""
        self._task = task

    def next(self) -> Ended:
        """Run it."""
        assert self._task is not None
        try:
            return self._task, self._task.call(self._task.job, self._task.index), None
        except Exception as error:
            return self._task, None, error

    def drop(self) -> None:
        """Do nothing: no task is unfinished."""


class Threads:
    """Tasks on plain threads of this process, for short renders: Dask would take a second to start.

    Parameters
    ----------
    threads
        Where they run; the caller waits for tasks that `drop` leaves running.
    ahead
        Largest number of tasks in flight.
    timer
        Of generator calls.
    unfinished
        Takes the futures of tasks that have not ended.
    """

    def __init__(
        self, threads: ThreadPoolExecutor, ahead: int, timer: CallTimer, unfinished: set[Future[None]]
    ) -> None:
        self.ahead = ahead
        self._threads = threads
        self._timer = timer
        self._unfinished = unfinished
        self._stopped = False
        self._ended: SimpleQueue[Ended] = SimpleQueue()

    def submit(self, task: Task) -> None:
        """Hand a task to the next free thread."""
        future = self._threads.submit(self._run, task)
        self._unfinished.add(future)
        future.add_done_callback(self._unfinished.discard)

    def _run(self, task: Task) -> None:
        if self._stopped:
            return
        try:
            with self._timer.task(task.index):
                result = task.call(task.job, task.index)
        except BaseException as error:  # an interrupt, too, must reach the thread that waits
            self._stopped = self._stopped or not isinstance(error, Exception)
            self._ended.put((task, None, error))
        else:
            self._ended.put((task, result, None))

    def next(self) -> Ended | None:
        """Wait for a task to end, not so long that a signal waits for it."""
        try:
            return self._ended.get(timeout=WAKE_SECONDS)
        except Empty:
            self._timer.check()
            return None

    def drop(self) -> None:
        """Cancel tasks that have not begun."""
        self._stopped = True
        for future in list(self._unfinished):
            future.cancel()


@contextmanager
def local_runner(
    workers: int,
    *,
    in_threads: bool = False,
    dask: bool = False,
    dashboard: str | None = None,
    timer: CallTimer | None = None,
) -> Iterator[Runner]:
    """Give a runner of this process: serial for one worker, else threads.

    Parameters
    ----------
    workers
        Tasks running at a time.
    in_threads
        Whether a single worker has a thread of its own, too, so that the calling thread can be interrupted.
    dask
        Whether Dask schedules the threads.
    dashboard
        Address of its dashboard; None for none.
    timer
        Of generator calls; None times none.
    """
    require_open_files(OPEN_FILES, f"--workers {workers}")
    timer = timer or CallTimer()
    if workers == 1 and not in_threads and not dask:
        yield lambda tasks: run_tasks(tasks, Serial())
        return
    if not dask:
        with _threads(workers) as (threads, unfinished):
            yield lambda tasks: run_tasks(tasks, Threads(threads, workers + 2, timer, unfinished))
        return
    from dask import config
    from distributed import Client

    quiet_asyncio()
    with (
        config.set(DASK_SETTINGS),
        _dask_cluster(workers, dashboard) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield lambda tasks: run_tasks(tasks, DaskThreads(client, workers + 2, timer))


def _dask_cluster(workers: int, dashboard: str | None) -> SpecCluster:
    """Start a Dask scheduler and one worker in this process.

    `distributed.LocalCluster` would load the code of dashboards (Bokeh, 19 MiB) unless the worker's port were open to the network.
    """
    from distributed import Scheduler, SpecCluster, Worker

    usual = {"protocol": "inproc://"}
    own = {
        "nthreads": workers,
        "memory_limit": None,
        "dashboard_address": "127.0.0.1:0",
    }  # it opens a port in any case
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": usual | dashboard_options(dashboard)},
        workers={0: {"cls": Worker, "options": usual | own | {"silence_logs": logging.CRITICAL}}},
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def _threads(workers: int) -> Iterator[tuple[ThreadPoolExecutor, set[Future[None]]]]:
    """Give threads; if the body raises, wait for what runs in them for a bounded time only: a generator call may hang."""
    threads, unfinished = ThreadPoolExecutor(workers, "safron-block"), set[Future[None]]()
    try:
        yield threads, unfinished
    except BaseException:
        threads.shutdown(wait=False, cancel_futures=True)
        wait(list(unfinished), timeout=STOP_SECONDS)
        raise
    threads.shutdown()
