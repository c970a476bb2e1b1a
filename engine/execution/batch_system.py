"""How does a batch system give us workers?

``--cluster FILE`` is YAML with the few things that differ from site to site; dask-jobqueue writes the job
scripts and submits them. Each job is one worker::

    kind: slurm            # or pbs, lsf, sge
    workers: 16            # jobs; one block in work each, four where it has a GPU
    cores: 8               # of a job
    memory: 32GB           # of a job
    gpus: 1                # of a job; 0 without
    walltime: "12:00:00"
    queue: gpu             # partition, queue
    account: pathology     # project, account
    interface: ib0         # the network that driver and workers share
    options: {}            # anything else that dask-jobqueue's class takes
"""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct
from safron.engine.system.gpus import GPU_BLOCKS
from safron.io.errors import BadInput, Failed, one_line
from safron.io.fields import Count, NotNegative

from .tls import read_settings

_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
# A worker leaves this long before its walltime, so that its end counts as no failure of the block in work.
LEAVE_SECONDS = 60
# How often to ask for workers in the place of those that are gone.
REFILL_SECONDS = 30.0
# A batch system that takes no job in this time is taken to be down.
SUBMIT_SECONDS = 120

Text = str | int | float  # YAML takes a queue called 7 for a number


class JobSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What the file of ``--cluster`` says; see above."""

    kind: Annotated[str, Meta(pattern="(?i)^(slurm|pbs|lsf|sge)$", description="slurm, pbs, lsf or sge")]
    workers: Count
    cores: Count
    memory: Text
    gpus: NotNegative = 0
    walltime: Text | None = None
    queue: Text | None = None
    account: Text | None = None
    interface: str | None = None
    options: Annotated[dict[str, Any], Meta(description="lines of NAME: VALUE")] | None = None

    def __post_init__(self) -> None:
        self.lifetime()  # raises ValueError

    @property
    def blocks(self) -> int:
        """Blocks in flight in one job."""
        return GPU_BLOCKS if self.gpus else 1

    def lifetime(self) -> list[str]:
        """Give the arguments that tell a worker to leave before its job ends."""
        if self.walltime is None:
            return []
        match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", str(self.walltime))
        if match is None:
            raise ValueError(f'walltime {self.walltime!r} must be "HOURS:MINUTES:SECONDS", in quotes')
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        if total <= 2 * LEAVE_SECONDS:
            raise ValueError(f"walltime {self.walltime!r} must be more than {2 * LEAVE_SECONDS} seconds")
        return ["--lifetime", f"{total - LEAVE_SECONDS}s", "--lifetime-stagger", f"{LEAVE_SECONDS // 2}s"]


def start_jobs(file: Path, *, security: Any = None, dashboard: str | None = None) -> Any:
    """Start a Dask cluster whose workers are jobs of a batch system.

    Parameters
    ----------
    file : what differs from site to site; see above.
    security : `distributed.Security`, or None.
    dashboard : address of Dask's pages, or None.

    Raises
    ------
    BadInput
        When the file is wrong, or dask-jobqueue is not installed.
    Failed
        When the batch system takes no job.
    """
    settings = read_settings(file, "--cluster", JobSettings)
    kind, arguments = job_arguments(settings)
    try:
        make = getattr(importlib.import_module("dask_jobqueue"), _CLASSES[kind])
    except ImportError as error:
        raise BadInput(f"--cluster {file}: needs dask-jobqueue: pip install 'safron[cluster]'") from error
    from .dask_pool import dashboard_options

    program = make.job_cls.submit_command.split()[0]
    if shutil.which(program) is None:
        raise Failed(
            f"--cluster {file}: {kind} takes no jobs: there is no program {program} here; run this where there is"
        )
    # Dask prints what goes wrong in its own thread; we say it in one line.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    try:
        cluster = make(
            **arguments,
            security=security,
            scheduler_options=dashboard_options(dashboard),
            silence_logs=logging.CRITICAL,
        )
    except Exception as error:
        raise BadInput(f"--cluster {file}: dask-jobqueue does not take it ({one_line(error)})") from error
    try:
        # What `scale` does, but for its leaving failures to Dask's thread.
        while len(cluster.worker_spec) < settings.workers:
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state, callback_timeout=SUBMIT_SECONDS)
    except Exception as error:
        # Dask closes no cluster with a worker that never came to be.
        cluster._created -= {worker for worker in cluster._created if worker.status.name == "created"}
        with suppress(Exception):
            cluster.close(timeout=5)
        raise Failed(f"--cluster {file}: {kind} takes no jobs ({one_line(error)})") from error
    _keep_full(cluster, settings.workers)
    return cluster


def job_blocks(file: Path) -> int:
    """Blocks in work at a time when all jobs of a file are there."""
    settings = read_settings(file, "--cluster", JobSettings)
    return settings.workers * settings.blocks


def job_arguments(settings: JobSettings) -> tuple[str, dict[str, Any]]:
    """Turn the file's names into those of dask-jobqueue.

    Parameters
    ----------
    settings : what the file says.

    Returns
    -------
    The kind of batch system, and arguments of its class.
    """
    kind, gpus = settings.kind.lower(), settings.gpus
    threads = ["--nthreads", str(settings.blocks), "--memory-limit", "0"]
    named = {
        "walltime": settings.walltime,
        "queue": settings.queue,
        "interface": settings.interface,
        "project" if kind in ("sge", "lsf") else "account": settings.account and str(settings.account),
    }
    if kind == "pbs" and gpus:
        named["resource_spec"] = f"select=1:ncpus={settings.cores}:ngpus={gpus}:mem={settings.memory}"
    more = dict(settings.options or {})
    directives = [*gpu_directives(kind, gpus), *more.pop("job_extra_directives", [])]
    arguments = {
        "cores": settings.cores,
        "processes": 1,
        "memory": str(settings.memory),
        "python": sys.executable,
        "worker_extra_args": [*threads, *settings.lifetime()],
    }
    given = {name: value for name, value in named.items() if value is not None}
    return kind, arguments | given | more | {"job_extra_directives": directives}


def gpu_directives(kind: str, gpus: int) -> list[str]:
    """Ask for GPUs in the words of a batch system; PBS has them in its resource line."""
    if not gpus:
        return []
    return {
        "slurm": [f"--gres=gpu:{gpus}"],
        "lsf": [f'-gpu "num={gpus}"'],
        "sge": [f"-l gpu={gpus}"],
        "pbs": [],
    }[kind]


def _keep_full(cluster: Any, workers: int) -> None:
    """Ask again and again for as many workers as there should be: jobs end at their walltime."""

    def refill() -> None:
        while not closed.wait(REFILL_SECONDS):
            if cluster.status.name != "running":
                return
            with suppress(Exception):  # the batch system may be down for a while
                cluster.scale(jobs=workers)

    closed = threading.Event()
    threading.Thread(target=refill, name="safron-jobs", daemon=True).start()
