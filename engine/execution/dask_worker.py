"""What happens in a worker process?

A job is sent to each worker once, as a plugin that the scheduler also gives to workers that come later. It
is unpacked when its first task runs, and the generator is loaded once a process, whatever the number of
slides. Tasks then travel as a token, a function and a block index. While one runs, its patches are
counted to whoever listens at the other end.
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
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.gpus import kind_of
from safron.engine.system.memory import resident_bytes, trim_heap
from safron.engine.system.versions import deciding_versions
from safron.io.errors import Failed, SafronError

from .device_queue import Stopped
from .patch_pool import open_pool
from .tasks import Job, listening

INTERVAL_SECONDS = 0.5
# Network drives keep what they know of a file for up to a minute.
PATIENCE_SECONDS = 65.0


@dataclass(frozen=True)
class ModelSource:
    """How a worker comes to the generator.

    Attributes
    ----------
    model : name of a shipped generator, absolute path of a file, or any `PatchModel`, which is pickled.
    device : as `load_model` takes it.
    threads, precision : as `load_model` takes them; all threads of a worker share one generator.
    """

    model: str | PatchModel
    device: str
    threads: int
    precision: str = "float32"

    def load(self) -> PatchModel:
        """Load the generator, or give the one that this process has."""
        if not isinstance(self.model, str):
            return self.model
        with _models_lock:
            if self not in _models:
                _models[self] = load_model(
                    self.model, device=self.device, threads=self.threads, precision=self.precision
                )
            return _models[self]


_models: dict[ModelSource, PatchModel] = {}
_models_lock = threading.Lock()


@dataclass(frozen=True)
class Parcel:
    """A job on its way to the workers.

    Attributes
    ----------
    token : names it.
    source, sha256, device : the generator, and what it must turn out to be: cpu or cuda.
    content : the rest of the job, pickled, so that a scheduler need not understand it.
    scratch : what makes the scratch that of this job, or None while there is none.
    versions : those of the driver; others could make other pixels.
    """

    token: str
    source: ModelSource
    sha256: str
    device: str
    content: bytes
    scratch: bytes | None
    versions: dict[str, str]

    @classmethod
    def pack(cls, token: str, job: Job, source: ModelSource) -> Parcel:
        """Pack a job; the generator goes by its source."""
        content = pickle.dumps((job.plan, job.mask, job.scratch, job.model))
        return cls(
            token=token,
            source=source,
            sha256=job.model.sha256,
            device=kind_of(job.model.device),
            content=content,
            scratch=_identity(job),
            versions=deciding_versions(),
        )

    def unpack(self, *, sharers: int) -> Job:
        """Make the job again.

        Parameters
        ----------
        sharers : threads of this worker, which share what is kept of the mask.

        Raises
        ------
        Failed
            When this worker would make another slide of it.
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
            raise Failed(f"--model {self.source.model}: another generator than the driver's stands there")
        if kind_of(model.device) != self.device:
            raise Failed(f"runs on {model.device}, the render on {self.device}; see --device")
        plan, mask, scratch, seen = pickle.loads(self.content)
        mask.keep_chunks(block=plan.block, workers=sharers)
        scratch.boundaries.keep(plan.boundary_room, lazily=False)  # other processes need them, too
        info = replace(info, same_halves=seen.same_halves, same_places=seen.same_places)
        return Job(plan, mask, info, scratch, open_pool(model, info, plan))


def _identity(job: Job) -> bytes | None:
    """What the scratch says that it belongs to; None where that cannot be seen from here."""
    try:
        return job.scratch.identity()
    except Exception:  # of a disk or a store: what is wrong with it will show
        return None


class JobPlugin(WorkerPlugin):
    """Brings a job to a worker, and stops its tasks when it is taken away."""

    def __init__(self, parcel: Parcel) -> None:
        self.name = parcel.token
        self._parcel = parcel

    def setup(self, worker: Any) -> None:
        """Take the parcel in."""
        with suppress(ValueError):  # not in the main thread: then Ctrl-C does not come here either
            # On a terminal Ctrl-C goes to every process; the driver ends the workers.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        _desks[self.name] = Desk(self._parcel, worker)

    def teardown(self, worker: Any) -> None:
        """Stop tasks of this job at their next batch."""
        desk = _desks.pop(self.name, None)
        if desk is not None:
            desk.close()


_desks: dict[str, Desk] = {}


class Desk:
    """Where the tasks of one job are done in this process."""

    def __init__(self, parcel: Parcel, worker: Any) -> None:
        self._parcel = parcel
        self._worker = worker
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._listening: Any = None
        self._tasks = 0
        self._closed = False
        self._current = threading.local()
        self._told = 0.0

    def run(self, name: str, call: Callable[[Any, Any], Any], index: Any) -> Any:
        """Run one task."""
        with self._at_work() as job:
            self._require_ours(job, patience=PATIENCE_SECONDS)
            self._current.name, self._current.patches = name, 0
            try:
                return call(job, index)
            finally:
                self._current.name = None

    @contextmanager
    def _at_work(self) -> Iterator[Job]:
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
            self._job = self._parcel.unpack(sharers=self._worker.state.nthreads)
        except SafronError as error:
            raise type(error)(f"worker {self._worker.address}: {error}") from error
        self._listening = listening(self._job.scratch, self._count)
        self._listening.__enter__()

    def _require_ours(self, job: Job, *, patience: float = 0.0) -> None:
        """Stop where the scratch is another render's now: the driver of this one is gone, and its successor began anew.

        A network drive may show for a minute what stood there before, so a task that begins is patient.
        """
        end = time.monotonic() + patience
        while self._parcel.scratch is not None:
            found = _identity(job)
            if found is None or found == self._parcel.scratch:
                return
            if time.monotonic() >= end:
                raise Stopped
            time.sleep(0.5)

    def close(self) -> None:
        """Stop the tasks at work; forget the job when the last of them has left."""
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
        """Pass on how far the task of this thread is, now and then."""
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
            self.tell({"task": name, "patches": self._current.patches})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to the driver."""
        self._worker.log_event(self._parcel.token, message)


class _ToDriver(logging.Handler):
    """Sends what a user should know to the driver of every job of this process."""

    def emit(self, record: logging.LogRecord) -> None:
        for desk in list(_desks.values()):
            desk.tell({"warning": record.getMessage()})


def run_shipped(name: str, token: str, call: Callable[[Any, Any], Any], index: Any) -> Any:
    """Run a task of a job that a plugin has brought."""
    desk = _desks.get(token)
    if desk is None:
        raise RuntimeError(f"job {token} is not on this worker")
    logger = logging.getLogger("safron")
    if not logger.handlers:
        logger.addHandler(_ToDriver())
        logger.propagate = False
    return desk.run(name, call, index)


@dataclass(frozen=True)
class WorkerFacts:
    """What the first worker says of itself, before anything runs.

    Attributes
    ----------
    info : of the generator there, with what the warm-up saw.
    planned : batch size that suits the device, or was asked for.
    batch : batch size that its memory takes.
    resident : bytes of its process, the generator included.
    blocks : that it has in flight at a time.
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
        seen = warm_up(model, info, replace(plan, batch=planned))
    except SafronError as error:
        raise type(error)(f"worker {get_worker().address}: {error}") from error
    return WorkerFacts(
        info=seen.info,
        planned=planned,
        batch=seen.batch,
        resident=resident_bytes(),
        blocks=get_worker().state.nthreads,
    )
