"""Who runs the tasks, and in which order?

A render is a stream of tasks in raster order of blocks: the seams of a block, then the block. Each
task names the earlier tasks that it needs. `run_serial` defines the meaning: one after the other.
`run_dask` hands the same stream to a Dask scheduler, a bounded number at a time, so that neither the
graph nor the results waiting grow with the canvas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(frozen=True)
class Task:
    """A function call with a name.

    Attributes
    ----------
    key : unique in the stream.
    call : picklable function.
    args : its arguments.
    after : keys of earlier tasks that must be finished first.
    """

    key: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    after: tuple[str, ...] = ()


Runner = Callable[[Iterable[Task]], Iterator[tuple[str, Any]]]


def run_serial(tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
    """Run each task when its turn comes; yield (key, result)."""
    for task in tasks:
        yield task.key, task.call(*task.args)


def run_dask(tasks: Iterable[Task], *, client: Any, ahead: int) -> Iterator[tuple[str, Any]]:
    """Run tasks on Dask worker threads of this process; yield (key, result) as they finish.

    Parameters
    ----------
    tasks : the stream; read only as far as needed.
    client : a `distributed.Client` of a cluster in this process.
    ahead : tasks that may be submitted and not yet yielded.
    """
    from distributed import as_completed

    finished = as_completed(loop=client.loop)
    futures: dict[str, Any] = {}
    names: dict[str, str] = {}

    def drain() -> tuple[str, Any]:
        future = next(finished)
        key = names.pop(future.key)
        del futures[key], _here[future.key]
        return key, future.result()

    try:
        for task in tasks:
            while len(futures) >= ahead:
                yield drain()
            name = f"{task.key}-{next(_numbers)}"
            _here[name] = task
            names[name] = task.key
            # A finished task left its work in scratch; only unfinished ones are waited for.
            needs = [futures[key] for key in task.after if key in futures]
            futures[task.key] = client.submit(_run_here, name, needs, pure=False, key=name)
            finished.add(futures[task.key])
        while futures:
            yield drain()
    finally:
        client.cancel(list(futures.values()), force=True)
        for name in names:
            _here.pop(name, None)


# Dask pickles what it submits, an in-memory mask with it; for threads of this process only a name travels.
_here: dict[str, Task] = {}
_numbers = count()


def _run_here(name: str, needs: list[Any]) -> Any:
    """Run a task of this process once `needs`, which Dask resolves first, are there."""
    del needs
    task = _here.get(name)
    return None if task is None else task.call(*task.args)  # None: cancelled meanwhile


@contextmanager
def local_runner(workers: int) -> Iterator[Runner]:
    """Give a runner for this machine: serial for one worker, else a Dask cluster of threads in this process."""
    if workers == 1:
        yield run_serial
        return
    import logging

    import dask
    from distributed import Client, LocalCluster

    settings = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
        # Dask's profiler keeps an hour of call trees, which looks like a leak, and samples every 10 ms.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.low-level-log-length": 100,
        "distributed.admin.system-monitor.log-length": 100,
        "distributed.admin.tick.limit": "60s",
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            # Dask opens its status pages in any case: on loopback, at whatever port is free.
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield lambda tasks: run_dask(tasks, client=client, ahead=workers + 2)
