"""Where do tasks run, if not on threads of this process?

Dask starts processes on this machine (``--executor processes``), joins a running scheduler (``--scheduler``), or requests
jobs from a batch system (``--cluster``, see `safron.engine.execution.batch_system`). This module decides how many workers
there are, which GPU each of them sees, and how a job reaches them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, Status
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.failures import Lost, Stuck
from safron.engine.system.gpus import process_blocks, worker_gpus
from safron.engine.system.memory import peak_bytes
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

from .call_timer import ends
from .dask_pool import DASK_SETTINGS, DaskPool, dashboard_options, quiet_asyncio
from .dask_worker import JobPayload, JobPlugin, ModelSource, WorkerFacts, facts_of_worker, run_task
from .device_queue import Stopped
from .scheduling import Task, run_tasks
from .tasks import Job, notify
from .tls import load_security
from .workers import Placement

log = logging.getLogger("safron")

CONNECT_SECONDS = 15
# After so long without a worker the user is told that the render waits for one.
PATIENCE_SECONDS = 10.0
# How often workers are counted and checked.
COUNT_SECONDS = 5.0
# A worker that has tasks and shows no progress for so long is told of, once.
SLOW_SECONDS = 60.0
ENDED = (Status.closed, Status.failed)
# Open files that a scheduler in this process may need, and more for each worker; 34 and 12 were seen.
OPEN_FILES = 64
FILES_PER_WORKER = 16


@dataclass
class Cluster:
    """Workers in other processes, and the jobs that were sent to them.

    Attributes
    ----------
    client
        Of the scheduler.
    where
        Its name in messages.
    processes
        Those of this machine that start workers, and start them again; empty where workers come from elsewhere.
    """

    client: Any
    where: str
    processes: tuple[Any, ...] = ()
    _jobs: dict[str, Job] = field(default_factory=dict)
    _seen: dict[str, int] = field(default_factory=dict)
    # By worker: when it last showed progress, and the tasks that it had then.
    _progress: dict[str, tuple[float, frozenset[str]]] = field(default_factory=dict)
    _slow: set[str] = field(default_factory=set)
    _stuck: list[str] = field(default_factory=list)
    _checked: float = 0.0

    def warm_up(self, source: ModelSource, plan: RenderPlan, batch: int | None) -> WorkerFacts:
        """Wait for a first worker, and let it run the generator once."""
        future = self.client.submit(facts_of_worker, source, plan, batch, pure=False)
        told = False
        while True:
            try:
                facts: WorkerFacts = future.result(timeout=PATIENCE_SECONDS)
                return facts
            except TimeoutError:
                self.check()
                if not told and not self.width:
                    log.warning("%s: no worker has started yet; waiting", self.where)
                    told = True
            except CancelledError as error:
                raise self.lost() from error

    @property
    def width(self) -> int:
        """Number of tasks that all workers together run at a time."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return sum(int(worker["nthreads"]) for worker in workers)

    def lost(self) -> Lost:
        """Return the error for a scheduler that no longer answers."""
        return Lost(
            f"{self.where}: the connection was lost; finished blocks are kept, the same command continues"
        )

    def send(self, job: Job, source: ModelSource) -> str:
        """Send a job to all workers, including those that join later; return its token."""
        token = f"safron-{uuid4().hex}"
        self._jobs[token] = job
        self.client.subscribe_topic(token, lambda event: self._hear(token, event[1]))
        try:
            self.client.register_plugin(JobPlugin(JobPayload.pack(token, job, source)), name=token)
        except Exception as error:
            raise Failed(
                f"{self.where}: its workers cannot unpack the job ({one_line(error)}); see docs/cluster.md"
            ) from error
        return token

    def take_back(self, token: str) -> None:
        """Make workers forget a job and stop its tasks."""
        with suppress(Exception):  # the scheduler may be lost
            self.client.unsubscribe_topic(token)
            self.client.unregister_worker_plugin(token)
        self._jobs.pop(token, None)

    def _hear(self, token: str, message: dict[str, Any]) -> None:
        """Receive a worker's message; runs in Dask's thread."""
        job = self._jobs.get(token)
        if job is None:
            return
        if "warning" in message:
            log.warning("%s", message["warning"])
        elif "stuck" in message:
            self._stuck.append(message["stuck"])
        else:
            self._progress.pop(message["worker"], None)
            self.count(job, message["task"], message["patches"])

    def count(self, job: Job, name: str, patches: int) -> None:
        """Report how many more patches of a task are done; a task that starts again counts them again."""
        more = patches - self._seen.get(name, 0)
        if more > 0:
            self._seen[name] = patches
            with suppress(Stopped):
                notify(job.scratch, more)

    def forget(self, name: str) -> None:
        """Forget a task that has ended."""
        self._seen.pop(name, None)

    def check(self) -> None:
        """Tell of workers that show no progress.

        Raises
        ------
        Stuck
            A worker says that its generator does not return.
        Lost
            All processes have ended, and none starts again.
        """
        if self._stuck:
            raise ends(Stuck(self._stuck[0]))
        if self.processes and all(process.status in ENDED for process in self.processes):
            raise Lost(
                f"{self.where}: all of them have ended and cannot start again; finished blocks are kept, the same "
                "command continues"
            )
        now = time.monotonic()
        if now - self._checked < min(COUNT_SECONDS, SLOW_SECONDS):
            return
        self._checked = now
        with suppress(Exception):  # a lost scheduler shows when a task ends
            for worker, names in self.client.processing().items():
                tasks = frozenset(names)
                since, before = self._progress.get(worker, (now, tasks))
                if not tasks or tasks != before:
                    since = now
                self._progress[worker] = since, tasks
                if now - since >= SLOW_SECONDS and worker not in self._slow:
                    self._slow.add(worker)
                    log.warning(
                        "%s: waiting for worker %s since %.0f s; it has %d tasks and shows no progress",
                        self.where,
                        worker,
                        now - since,
                        len(tasks),
                    )

    def peak_bytes(self) -> int | None:
        """Return the peak memory of the worker process that took most."""
        with suppress(Exception):
            return max(self.client.run(peak_bytes).values(), default=None)
        return None


class DaskWorkers(DaskPool):
    """Tasks on the workers of a cluster, which receive their job through a plugin.

    Parameters
    ----------
    cluster
        The workers.
    source
        How they get the generator.
    """

    def __init__(self, cluster: Cluster, source: ModelSource) -> None:
        self._cluster = cluster
        self._source = source
        self._tokens: dict[int, str] = {}
        self._counted = 0.0
        super().__init__(cluster.client, 1)

    def submit(self, task: Task) -> None:
        """Hand a task to the scheduler; from time to time count how many it may have."""
        if time.monotonic() - self._counted > COUNT_SECONDS or not self._counted:
            self._counted = time.monotonic()
            with suppress(Exception):  # a lost scheduler shows when a task ends
                # One task running and one queued for each worker.
                self.ahead = 2 * self._cluster.width + 2
        super().submit(task)

    def send(self, name: str, task: Task) -> Any:
        """Submit a task by the token of its job."""
        token = self._tokens.get(id(task.job))
        if token is None:
            token = self._tokens[id(task.job)] = self._cluster.send(task.job, self._source)
        return self.client.submit(run_task, name, token, task.call, task.index, pure=False, key=name)

    def received(self, name: str, task: Task, result: Any) -> None:
        """Count the patches of a finished task that its worker has not reported yet."""
        tally = getattr(result, "tally", None)
        if tally is not None:
            self._cluster.count(task.job, name, tally.run + tally.painted)
        self._cluster.forget(name)

    def check(self) -> None:
        """Look for workers that are slow or stuck."""
        self._cluster.check()

    def lost(self) -> Lost:
        """Return the error for a lost scheduler."""
        return self._cluster.lost()

    def drop(self) -> None:
        """Cancel unfinished tasks and stop those that run."""
        with suppress(Exception):  # the scheduler may be lost
            super().drop()
        for token in self._tokens.values():
            self._cluster.take_back(token)
        self._tokens.clear()


@dataclass(frozen=True)
class ClusterRunner:
    """Runs streams of tasks on a cluster.

    Attributes
    ----------
    cluster
        The workers.
    source
        How they get the generator.
    """

    cluster: Cluster
    source: ModelSource

    def __call__(self, tasks: Iterable[Task]) -> Iterator[tuple[str, Any]]:
        """Run a stream of tasks; see `run_tasks`."""
        return run_tasks(tasks, DaskWorkers(self.cluster, self.source))


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
        try:
            # Dask can neither use nor close a cluster that is partly open.
            with interrupts_later(), time_to_end(end_seconds):
                cluster = _open(placement, security, stack)
            yield cluster
        finally:
            with interrupts_later(), time_to_end(end_seconds):
                stack.close()


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
