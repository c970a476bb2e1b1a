"""How does a batch system give us workers?

``--cluster FILE`` is YAML with the few things that differ from site to site; dask-jobqueue writes the job
scripts and submits them. Each job is one worker::

    kind: slurm            # or pbs, lsf, sge
    workers: 16            # jobs; each has one block in flight, or four if it has a GPU
    cores: 8               # of a job
    memory: 32GB           # of a job
    gpus: 1                # of a job; 0 without
    walltime: "12:00:00"
    queue: gpu             # partition, queue
    account: pathology     # project, account
    interface: ib0         # the network that driver and workers share
    options: {}            # any other argument of dask-jobqueue's class

Lists and scheduler options given under ``options`` are added to ours, so that a site's ``worker_extra_args`` does not drop
the lifetime that ends a worker before its job does.
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

from dask.utils import parse_bytes
from msgspec import Meta, Struct
from safron.engine.system.gpus import gpu_blocks
from safron.io.errors import BadInput, Failed, one_line
from safron.io.fields import Count, NotNegative, shown

from .tls import read_settings

_CLASSES = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster"}
# A worker leaves this long before its walltime, so that blocks in flight are not counted as failed.
LEAVE_SECONDS = 60
# How often to replace workers that have ended.
REFILL_SECONDS = 30.0
# A batch system that has not accepted a job by then is regarded as down.
SUBMIT_SECONDS = 120
# Less than this is a number whose unit was forgotten.
LEAST_MEMORY = 1_000_000

Text = str | int | float  # in YAML a queue called 7 is a number
# Options that are lists of lines of the job script or of arguments; dask-jobqueue would take a text letter by letter.
_LISTS = (
    "worker_extra_args",
    "job_extra_directives",
    "job_directives_skip",
    "job_script_prologue",
    "extra",
    "job_extra",
    "env_extra",
    "header_skip",
)
# Former names in dask-jobqueue.
_RENAMED = {
    "extra": "worker_extra_args",
    "job_extra": "job_extra_directives",
    "env_extra": "job_script_prologue",
    "header_skip": "job_directives_skip",
}


class JobSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Content of the file of ``--cluster``; see above."""

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
        self._check_memory()
        for name, value in (self.options or {}).items():
            if name in _LISTS:
                _lines(name, value)
            elif name == "scheduler_options" and not isinstance(value, dict):
                raise ValueError(f"options.{name} {shown(value)} must be lines of NAME: VALUE")
            elif name in ("security", "silence_logs"):
                raise ValueError(f"options.{name}: is set by safron-render; leave it out")

    def _check_memory(self) -> None:
        try:
            size = parse_bytes(str(self.memory))
        except ValueError:
            size = 0
        if size < LEAST_MEMORY:
            raise ValueError(f"memory {self.memory!r} must be a size with its unit, at least 1MB, as 32GB")

    def lines(self, name: str) -> list[str]:
        """Return a list under ``options``, under its present or former name."""
        given = self.options or {}
        return [
            line
            for key in (name, *(old for old, new in _RENAMED.items() if new == name))
            for line in _lines(key, given.get(key))
        ]

    @property
    def blocks(self) -> int:
        """Blocks in flight per job."""
        return gpu_blocks(self.cores) if self.gpus else 1

    def lifetime(self) -> list[str]:
        """Return the arguments that make a worker leave before its job ends."""
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


def _lines(name: str, value: Any) -> list[str]:
    """Return a list of lines; raise ValueError for anything else, such as a text."""
    lines = [] if value is None else value
    if not isinstance(lines, list) or not all(
        isinstance(line, str | int | float) and "\n" not in str(line) for line in lines
    ):
        raise ValueError(
            f"options.{name} {shown(value)} must be a list of texts of one line, as ['--constraint=a100']"
        )
    return [str(line) for line in lines]


def start_jobs(file: Path, *, security: Any = None, dashboard: str | None = None) -> Any:
    """Start a Dask cluster whose workers are jobs of a batch system.

    Parameters
    ----------
    file
        The file of ``--cluster``; see above.
    security
        `distributed.Security`, or None.
    dashboard
        Address of the Dask dashboard, or None.

    Raises
    ------
    BadInput
        The file is wrong, or dask-jobqueue is not installed.
    Failed
        The batch system does not accept jobs.
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
            f"--cluster {file}: {kind} takes no jobs: program {program} not found; run this where it is installed"
        )
    # Dask prints failures of its own thread; they are reported in one line instead.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    scheduler = dashboard_options(dashboard) | (settings.options or {}).get("scheduler_options", {})
    try:
        cluster = make(
            **arguments, security=security, scheduler_options=scheduler, silence_logs=logging.CRITICAL
        )
    except Exception as error:
        raise BadInput(f"--cluster {file}: dask-jobqueue refuses it ({one_line(error)})") from error
    try:
        # As `scale` does, except that failures are raised here and not in Dask's thread.
        while len(cluster.worker_spec) < settings.workers:
            cluster.worker_spec.update(cluster.new_worker_spec())
        cluster.sync(cluster._correct_state, callback_timeout=SUBMIT_SECONDS)
    except Exception as error:
        # Dask cannot close a cluster with a worker that was never started.
        cluster._created -= {worker for worker in cluster._created if worker.status.name == "created"}
        with suppress(Exception):
            cluster.close(timeout=5)
        raise Failed(f"--cluster {file}: {kind} takes no jobs ({one_line(error)})") from error
    _keep_full(cluster, settings.workers)
    return cluster


def job_count(file: Path) -> int:
    """Number of jobs that a file asks for; each is a worker."""
    return read_settings(file, "--cluster", JobSettings).workers


def job_blocks(file: Path) -> int:
    """Blocks in flight when all jobs of a file are running."""
    settings = read_settings(file, "--cluster", JobSettings)
    return settings.workers * settings.blocks


def job_arguments(settings: JobSettings) -> tuple[str, dict[str, Any]]:
    """Return the kind of batch system, and arguments of dask-jobqueue's class for it."""
    kind, gpus = settings.kind.lower(), settings.gpus
    named = {
        "walltime": settings.walltime,
        "queue": settings.queue,
        "interface": settings.interface,
        "project" if kind in ("sge", "lsf") else "account": settings.account and str(settings.account),
    }
    if kind == "pbs" and gpus:
        named["resource_spec"] = f"select=1:ncpus={settings.cores}:ngpus={gpus}:mem={settings.memory}"
    others = {
        name: value
        for name, value in (settings.options or {}).items()
        if name not in _LISTS and name != "scheduler_options"
    }
    ours = {
        # The user's come after them, and the last one of a name holds.
        "worker_extra_args": [
            "--nthreads",
            str(settings.blocks),
            "--memory-limit",
            "0",
            *settings.lifetime(),
        ],
        "job_extra_directives": gpu_directives(kind, gpus),
        "job_directives_skip": [],
        "job_script_prologue": [],
    }
    arguments = {
        "cores": settings.cores,
        "processes": 1,
        "memory": str(settings.memory),
        "python": sys.executable,
    }
    given = {name: value for name, value in named.items() if value is not None}
    lists = {name: [*first, *settings.lines(name)] for name, first in ours.items()}
    # An empty list would take the place of what the site's configuration of dask-jobqueue says.
    return kind, arguments | given | others | {name: lines for name, lines in lists.items() if lines}


def gpu_directives(kind: str, gpus: int) -> list[str]:
    """Return the directives that request GPUs; PBS has them in its resource line."""
    if not gpus:
        return []
    return {
        "slurm": [f"--gres=gpu:{gpus}"],
        "lsf": [f'-gpu "num={gpus}"'],
        "sge": [f"-l gpu={gpus}"],
        "pbs": [],
    }[kind]


def _keep_full(cluster: Any, workers: int) -> None:
    """Keep requesting jobs until there are as many workers as wanted: jobs end at their walltime."""

    def refill() -> None:
        while not closed.wait(REFILL_SECONDS):
            if cluster.status.name != "running":
                return
            with suppress(Exception):  # the batch system may be down for a while
                cluster.scale(jobs=workers)

    closed = threading.Event()
    threading.Thread(target=refill, name="safron-jobs", daemon=True).start()
