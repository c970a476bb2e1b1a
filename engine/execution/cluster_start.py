"""How are workers in other processes started, or joined?

Dask starts processes on this machine (``--executor processes``), joins a running scheduler (``--scheduler``), or requests
jobs from a batch system (``--cluster``, see `safron.engine.execution.batch_system`). This module decides how many workers
there are, and which GPU each of them sees.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster
from safron.engine.system.gpus import process_blocks, worker_gpus
from safron.engine.system.open_files import require_open_files
from safron.engine.system.signals import (
    BATCH_SYSTEM_SECONDS,
    END_SECONDS,
    children_deaf_to_terminals,
    interrupts_later,
    time_to_end,
)
from safron.io.errors import BadInput, Failed, one_line
from safron.io.files import parse_text

from .dask_cluster import Cluster
from .dask_pool import DASK_SETTINGS, dashboard_options, quiet_asyncio
from .tls import load_security
from .workers import Placement

CONNECT_SECONDS = 15
# Open files that a scheduler in this process may need, and more for each worker; 34 and 12 were seen.
OPEN_FILES = 64
FILES_PER_WORKER = 16


@contextmanager
def open_cluster(placement: Placement) -> Iterator[Cluster]:
    """Start or join the workers of a placement.

    Raises
    ------
    BadInput
        There is no scheduler at the address, or a file of settings is wrong.
    Failed
        Workers cannot be started.
    """
    quiet_asyncio()
    _quiet_dask()
    _require_open_files(placement)
    security = load_security(placement.security)
    stack = ExitStack()
    end_seconds = END_SECONDS if placement.cluster is None else BATCH_SYSTEM_SECONDS
    with dask.config.set(DASK_SETTINGS):
        nannies: tuple[Any, ...] = ()
        try:
            # Dask can neither use nor close a cluster that is partly open.
            with interrupts_later(), time_to_end(end_seconds):
                cluster = _open(placement, security, stack)
                nannies = cluster.processes
            yield cluster
        except KeyboardInterrupt:
            _end_processes(nannies)
            raise
        finally:
            with interrupts_later(), time_to_end(end_seconds):
                stack.close()


def _end_processes(nannies: tuple[Any, ...]) -> None:
    """End worker processes of this machine at once: a block takes longer than a signal leaves time, and is rendered again anyway."""
    for nanny in nannies:
        with suppress(Exception):  # it has ended
            nanny.close_gracefully()  # so that no other is started
            os.kill(nanny.pid, signal.SIGKILL)


def _require_open_files(placement: Placement) -> None:
    """Refuse workers whose connections and pipes this process may not open."""
    count, reason = OPEN_FILES, f"--workers {placement.workers}"
    if placement.scheduler is not None:
        reason = f"--scheduler {placement.scheduler}"
    elif placement.cluster is not None:
        from .batch_system import job_count

        count, reason = (
            count + FILES_PER_WORKER * job_count(placement.cluster),
            f"--cluster {placement.cluster}",
        )
    else:
        count += FILES_PER_WORKER * placement.workers
    require_open_files(count, reason)


def _open(placement: Placement, security: Any, stack: ExitStack) -> Cluster:
    """Start or join workers, which `stack` then closes."""
    if placement.scheduler is not None:
        client = stack.enter_context(_join(placement.scheduler, security))
        return Cluster(client, f"--scheduler {placement.scheduler}")
    workers = stack.enter_context(_start(placement, security))
    client = stack.enter_context(_connect(workers, security))
    if placement.cluster:
        return Cluster(client, f"--cluster {placement.cluster}")
    return Cluster(client, "the workers of this machine", tuple(workers.workers.values()))


def _quiet_dask() -> None:
    """Keep Dask's log off the screen: each failure is reported in one line."""
    for name in logging.root.manager.loggerDict:
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _start(placement: Placement, security: Any) -> Any:
    """Start workers: as processes here, or as jobs of a batch system."""
    if placement.cluster is not None:
        from .batch_system import start_jobs

        return start_jobs(placement.cluster, security=security, dashboard=placement.dashboard)
    try:
        return start_processes(
            placement.workers,
            gpus=worker_gpus(placement.device),
            blocks=process_blocks(placement.device),
            security=security,
            dashboard=placement.dashboard,
        )
    except Exception as error:
        raise Failed(
            f"--workers {placement.workers}: cannot start the processes ({one_line(error)})"
        ) from error


def _connect(cluster: Any, security: Any) -> Any:
    # Results come directly from their worker; otherwise they would pass through the scheduler's memory.
    return Client(
        cluster, security=security, set_as_default=False, direct_to_workers=True, timeout=CONNECT_SECONDS
    )


@contextmanager
def _join(scheduler: str, security: Any) -> Iterator[Any]:
    """Connect to a scheduler by its address or its file."""
    kind, named, _ = scheduler.partition("://")
    if named and kind not in ("tcp", "tls", "ws", "wss", "ucx"):
        raise BadInput(f"--scheduler {scheduler}: must be tcp://HOST:PORT, tls://HOST:PORT or a file")
    address = scheduler if named else _address_in(Path(scheduler))
    try:
        client = _connect(address, security)
    except Exception as error:  # networks, JSON files and TLS have no common base class
        raise BadInput(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({one_line(error)}); check the address, "
            "or the file that dask scheduler --scheduler-file wrote"
        ) from error
    try:
        yield client
    finally:
        with suppress(Exception):  # it may be lost
            client.close(timeout=5)


def _address_in(file: Path) -> str:
    """Read the file that a scheduler writes once it has started; wait for it a little."""
    end = time.monotonic() + CONNECT_SECONDS
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.1)
    remedy = "give tcp://HOST:PORT, or the file that dask scheduler --scheduler-file writes"
    if not file.exists():
        raise BadInput(f"--scheduler {file}: no such file; {remedy}")
    return parse_text(
        file,
        lambda text: str(json.loads(text)["address"]),
        kind="the file of a Dask scheduler",
        remedy=remedy,
        name="--scheduler ",
    )


def start_processes(
    workers: int, *, gpus: list[str], blocks: int = 1, security: Any = None, dashboard: str | None = None
) -> SpecCluster:
    """Start a Dask cluster of processes on this machine, reachable over loopback only.

    Parameters
    ----------
    workers
        Number of processes.
    gpus
        Shared out in turn; each process sees one of them and no other.
    blocks
        Blocks in flight per process.
    security
        `distributed.Security`, or None.
    dashboard
        Address of the Dask dashboard, or None.
    """
    _quiet_tracker()
    protocol = "tcp://" if security is None else "tls://"
    usual = {"host": "127.0.0.1", "protocol": protocol, "security": security}
    scheduler = {"cls": Scheduler, "options": usual | dashboard_options(dashboard)}
    specs = {}
    for number in range(workers):
        # Set in the environment before the process imports anything: CUDA reads it once.
        env = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {}
        options = usual | {
            "nthreads": blocks,
            "memory_limit": None,
            "dashboard_address": "127.0.0.1:0",
            "silence_logs": logging.CRITICAL,
            "env": env | {"MALLOC_ARENA_MAX": "1"},
        }
        specs[number] = {"cls": Nanny, "options": options}
    with children_deaf_to_terminals():
        return SpecCluster(
            scheduler=scheduler, workers=specs, security=security, silence_logs=logging.CRITICAL
        )


def _quiet_tracker() -> None:
    """Start Python's helper that cleans up after killed processes in such a way that it prints no warnings."""
    if sys.platform == "win32":
        return
    from multiprocessing import resource_tracker

    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore::UserWarning"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before
