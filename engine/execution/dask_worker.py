"""What happens in a worker process?

A job is sent to each worker once, as a plugin that the scheduler also sends to workers that join later. It is unpacked when
its first task runs. The generator is loaded once per process, for any number of slides. A task is then sent as a token, a
function and a block index. While it runs, the worker reports finished patches to the driver.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from distributed import WorkerPlugin
from distributed.protocol import pickle
from safron.engine.generator.model import GeneratorInfo, PatchModel, load_model
from safron.engine.plan.estimates import boundary_room
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.failures import Stuck
from safron.engine.system.gpus import kind_of
from safron.engine.system.memory import resident_bytes, trim_heap
from safron.engine.system.versions import deciding_versions
from safron.io.errors import Failed, SafronError

from .call_timer import CallTimer, first_call
from .device_queue import Stopped
from .patch_pool import open_pool
from .tasks import Job, listening

INTERVAL_SECONDS = 0.5
# Network drives cache the content of a file for up to a minute.
PATIENCE_SECONDS = 65.0


@dataclass(frozen=True)
class ModelSource:
    """How a worker gets the generator.

    Attributes
    ----------
    model
        Name of a shipped generator, absolute path of a file, or any `PatchModel`, which is pickled.
    device, threads, precision, runtime
        See `load_model`; all threads of a worker share one generator.
    call_seconds
        The longest time that a call may take; None for any.
    """

    model: str | PatchModel
    device: str
    threads: int
    precision: str = "float32"
    call_seconds: float | None = None
    runtime: str = "auto"

    def load(self) -> PatchModel:
        """Load the generator, or return the one that this process has loaded."""
        if not isinstance(self.model, str):
            return self.model
        with _models_lock:
            if self not in _models:
                _models[self] = load_model(
                    self.model,
                    device=self.device,
                    threads=self.threads,
                    precision=self.precision,
                    runtime=self.runtime,
                )
            return _models[self]


_models: dict[ModelSource, PatchModel] = {}
_models_lock = threading.Lock()


@dataclass(frozen=True)
class JobPayload:
    """A job as it is sent to the workers.

    Attributes
    ----------
    token
        Its name.
    source
        How to get the generator.
    sha256, device
        What the generator must turn out to be; the device is "cpu" or "cuda".
    arithmetic
        Runtime and precision that it must be run with.
    content
        The rest of the job, pickled, so that the scheduler need not understand it.
    scratch
        Identity of the job's scratch; None while there is none.
    versions
        Library versions of the driver; others could make other pixels.
    """

    token: str
    source: ModelSource
    sha256: str
    device: str
    arithmetic: tuple[str, str]
    content: bytes
    scratch: bytes | None
    versions: dict[str, str]

    @classmethod
    def pack(cls, token: str, job: Job, source: ModelSource) -> JobPayload:
        """Pack a job; of the generator only its source is sent."""
        content = pickle.dumps((job.plan, job.mask, job.scratch, job.model, job.sampling))
        return cls(
            token=token,
            source=source,
            sha256=job.model.sha256,
            device=kind_of(job.model.device),
            arithmetic=(job.model.runtime, job.model.precision),
            content=content,
            scratch=_identity(job),
            versions=deciding_versions(),
        )

    def unpack(self, *, sharers: int, timer: CallTimer | None = None) -> Job:
        """Return the job.

        Parameters
        ----------
        sharers
            Threads of this worker; they share the chunk cache of the mask.
        timer
            Of generator calls; None times none.

        Raises
        ------
        Failed
            This worker would render another slide.
        """
        mine = deciding_versions()
        for name, wanted in self.versions.items():
            if mine.get(name) != wanted:
                raise Failed(
                    f"{name} {mine.get(name)} where the driver has {wanted}; install the same versions"
                )
        model = self.source.load()
        info = GeneratorInfo.of(model)
        if model.sha256 != self.sha256:
            raise Failed(f"--model {self.source.model}: differs from the driver's file of that name")
        if kind_of(model.device) != self.device:
            raise Failed(f"runs on {model.device}, the render on {self.device}; see --device")
        if (info.runtime, info.precision) != self.arithmetic:
            mine_is, theirs = " in ".join((info.runtime, info.precision)), " in ".join(self.arithmetic)
            raise Failed(
                f"runs {mine_is}, the render {theirs}; use like workers, or see --runtime and --precision"
            )
        plan, mask, scratch, seen, sampling = pickle.loads(self.content)
        timer = timer or CallTimer()
        timer.plan = plan
        mask.keep_chunks(block=plan.block, workers=sharers)
        scratch.boundaries.keep(boundary_room(plan), lazily=False)  # other processes need them, too
        # Options may have changed the card: its sampler, its style, its picture.
        info = replace(
            info,
            card=seen.card,
            same_halves=seen.same_halves,
            same_places=seen.same_places,
            joined=seen.joined,
            shared=seen.shared,
        )
        return Job(plan, mask, info, scratch, open_pool(timer.timed(model), info, plan), sampling)


def _identity(job: Job) -> bytes | None:
    """Return what identifies the render that the scratch belongs to; None if it cannot be read here."""
    try:
        return job.scratch.identity()
    except Exception:  # of a disk or a store: tasks will report it
        return None


class JobPlugin(WorkerPlugin):
    """Brings a job to a worker, and stops its tasks when it is taken away."""

    def __init__(self, payload: JobPayload) -> None:
        self.name = payload.token
        self._payload = payload

    def setup(self, worker: Any) -> None:
        """Open a session for the job."""
        with suppress(ValueError):  # not in the main thread: then Ctrl-C does not come here either
            # On a terminal Ctrl-C goes to every process; the driver ends the workers.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _sessions[self.name] = WorkerSession(self._payload, worker)

    def teardown(self, worker: Any) -> None:
        """Stop tasks of this job at their next batch."""
        session = _sessions.pop(self.name, None)
        if session is not None:
            session.close()


_sessions: dict[str, WorkerSession] = {}


class WorkerSession:
    """Runs the tasks of one job in this process."""

    def __init__(self, payload: JobPayload, worker: Any) -> None:
        self._payload = payload
        self._worker = worker
        self._timer = CallTimer(payload.source.call_seconds)
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._listening: Any = None
        self._tasks = 0
        self._closed = False
        self._current = threading.local()
        self._told = 0.0

    def run(self, name: str, call: Callable[[Any, Any], Any], index: Any) -> Any:
        """Run one task."""
        with self._opened() as job:
            self._require_ours(job, patience=PATIENCE_SECONDS)
            self._current.name, self._current.patches = name, 0
            try:
                with self._timer.task(index):
                    return call(job, index)
            finally:
                self._current.name = None

    @contextmanager
    def _opened(self) -> Iterator[Job]:
        with self._lock:
            if self._job is None:
                self._unpack()
            job = self._job
            self._tasks += 1
        assert job is not None
        try:
            yield job
        finally:
            with self._lock:
                self._tasks -= 1
                self._leave()

    def _unpack(self) -> None:
        try:
            self._job = self._payload.unpack(sharers=self._worker.state.nthreads, timer=self._timer)
        except SafronError as error:
            raise type(error)(f"worker {self._worker.address}: {error}") from error
        if self._timer.seconds is not None:
            threading.Thread(target=self._check_calls, name="safron-timer", daemon=True).start()
        self._listening = listening(self._job.scratch, self._count)
        self._listening.__enter__()

    def _check_calls(self) -> None:
        """Tell the driver if a generator call takes too long."""
        while not self._closed:
            try:
                self._timer.check()
            except Stuck as error:
                self.tell({"stuck": f"worker {self._worker.address}: {error}"})
                return
            time.sleep(INTERVAL_SECONDS)

    def _require_ours(self, job: Job, *, patience: float = 0.0) -> None:
        """Stop if the scratch now belongs to another render: the driver of this one died, and a later one started over.

        A network drive may show the previous content for a minute, so a task that starts waits that long.
        """
        end = time.monotonic() + patience
        while self._payload.scratch is not None:
            found = _identity(job)
            if found is None or found == self._payload.scratch:
                return
            if time.monotonic() >= end:
                raise Stopped
            time.sleep(0.5)

    def close(self) -> None:
        """Stop running tasks; forget the job when the last of them has ended."""
        with self._lock:
            self._closed = True
            self._leave()

    def _leave(self) -> None:
        if self._closed and not self._tasks and self._listening is not None:
            self._listening.__exit__(None, None, None)
            if self._job is not None and self._job.pool is not None:
                self._job.pool.close()
            self._listening = self._job = None
        trim_heap()

    def _count(self, patches: int) -> None:
        """Report the progress of this thread's task from time to time."""
        if self._closed:
            raise Stopped
        name = getattr(self._current, "name", None)
        if name is None:
            return
        self._current.patches += patches
        now = time.monotonic()
        if now - self._told >= INTERVAL_SECONDS:
            self._told = now
            if self._job is not None and self._job.scratch.store is None:
                self._require_ours(self._job)
            address = self._worker.address
            self.tell({"task": name, "patches": self._current.patches, "worker": address})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to the driver."""
        self._worker.log_event(self._payload.token, message)


class _ToDriver(logging.Handler):
    """Sends warnings to the driver of every job of this process."""

    def emit(self, record: logging.LogRecord) -> None:
        for session in list(_sessions.values()):
            session.tell({"warning": record.getMessage()})


def run_task(name: str, token: str, call: Callable[[Any, Any], Any], index: Any) -> Any:
    """Run a task of a job whose session is open."""
    session = _sessions.get(token)
    if session is None:
        raise RuntimeError(f"job {token} is not on this worker")
    logger = logging.getLogger("safron")
    if not logger.handlers:
        logger.addHandler(_ToDriver())
        logger.propagate = False
    return session.run(name, call, index)


@dataclass(frozen=True)
class WorkerFacts:
    """Facts about the first worker, from a warm-up.

    Attributes
    ----------
    info
        Facts about the generator there, with what the warm-up found.
    planned
        Batch size that suits the device, or was asked for.
    batch
        Batch size that its memory has room for.
    resident
        Resident bytes of its process, including the generator.
    blocks
        Blocks in flight.
    """

    info: GeneratorInfo
    planned: int
    batch: int
    resident: int
    blocks: int


def facts_of_worker(source: ModelSource, plan: RenderPlan, batch: int | None) -> WorkerFacts:
    """Try the generator in a worker, as a process that renders by itself does."""
    from distributed import get_worker
    from safron.engine.generator.warm_up import choose_batch, warm_up

    try:
        model = source.load()
        info = GeneratorInfo.of(model)
        planned = choose_batch(batch, info)
        seen = first_call(
            lambda: warm_up(model, info, replace(plan, batch=planned), joining=source.call_seconds is None),
            source.call_seconds,
        )
    except SafronError as error:
        raise type(error)(f"worker {get_worker().address}: {error}") from error
    return WorkerFacts(
        info=seen.info,
        planned=planned,
        batch=seen.batch,
        resident=resident_bytes(),
        blocks=get_worker().state.nthreads,
    )
