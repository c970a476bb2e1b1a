"""How do a job and its tasks reach workers in other processes, and how is known what becomes of them?"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from distributed import Status
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.failures import Lost, Stuck
from safron.engine.system.memory import peak_bytes
from safron.io.errors import Failed, one_line

from .call_timer import ends
from .dask_pool import DaskPool
from .dask_worker import JobPayload, JobPlugin, ModelSource, WorkerFacts, facts_of_worker, run_task
from .device_queue import Stopped
from .scheduling import Task, run_tasks
from .tasks import Job, notify

log = logging.getLogger("safron")

# After so long without a worker the user is told that the render waits for one.
PATIENCE_SECONDS = 10.0
# How often workers are counted and checked.
COUNT_SECONDS = 5.0
# A worker that has tasks and shows no progress for so long is told of, once.
SLOW_SECONDS = 60.0
ENDED = (Status.closed, Status.failed)


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
