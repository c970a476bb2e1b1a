"""Where do tasks run, and how many at a time?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safron.engine.execution.workers import Placement
from safron.engine.generator.model import PatchModel
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.system.gpus import gpu_blocks, process_blocks, visible_gpus
from safron.engine.system.memory import usable_cores
from safron.io.errors import BadInput
from safron.io.files import what_is_there
from safron.io.masks.mask import LabelMask

from .options import WORKERS, RenderOptions, workers_of
from .prepared import Prepared, Where

if TYPE_CHECKING:
    from safron.engine.execution.dask_worker import ModelSource

# Dask's cost, measured (benchmarks/LOG.md, 2026-11-29): what it takes to start, and more for a task than a plain thread
# pool takes. Up to this share of a render's time it is what schedules it.
DASK_START_SECONDS = 1.0
DASK_TASK_SECONDS = 0.004
DASK_SHARE = 0.03
# Rough memory of a process with a GPU: CUDA's libraries, a generator, its blocks.
GPU_PROCESS_BYTES = 2 << 30


def check_placing(options: RenderOptions) -> None:
    """Refuse options that contradict each other about where tasks run."""
    given = [name for name in ("scheduler", "cluster") if getattr(options, name) is not None]
    if len(given) > 1:
        raise BadInput("--scheduler and --cluster: both say where the workers are; give only one")
    if given and options.executor != "auto":
        raise BadInput(
            f"--executor {options.executor}: --{given[0]} says where the workers are; leave one of them out"
        )
    for name in ("cluster", "security"):
        file = getattr(options, name)
        if file is not None and not Path(file).is_file():
            raise BadInput(f"--{name} {file}: {what_is_there(Path(file))}; give a YAML file")
    if options.security is not None and not given and options.executor != "processes":
        raise BadInput(
            "--security: threads send nothing over a network; add --executor processes, or leave it out"
        )
    if options.dashboard is not None:
        _check_dashboard(options.dashboard, joined=options.scheduler is not None)


def _check_dashboard(address: str, *, joined: bool) -> None:
    from importlib.util import find_spec

    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise BadInput(f"--dashboard {address}: must be HOST:PORT, such as 127.0.0.1:8787")
    if joined:
        raise BadInput(f"--dashboard {address}: the scheduler of --scheduler has its own; leave it out")
    if find_spec("bokeh") is None:
        raise BadInput(f"--dashboard {address}: needs bokeh: pip install 'safron[cluster]'")


def choose_where(options: RenderOptions, mask: LabelMask, model: PatchModel) -> Where:
    """Choose where tasks run.

    Threads of this process share one generator and its GPU, and start at once. Processes can have one GPU each.
    """
    if options.scheduler is not None or options.cluster is not None:
        where: Where = "cluster"
    elif options.executor == "processes" or (
        options.executor == "auto" and _gpus_to_share(options, mask, model)
    ):
        where = "processes"
    else:
        where = "threads"
    if where != "threads" and mask.in_memory:
        raise BadInput(
            f"mask {mask.source}: other processes cannot read it; save it as Zarr, or render with executor 'threads'"
        )
    return where


def _gpus_to_share(options: RenderOptions, mask: LabelMask, model: PatchModel) -> bool:
    usable = options.workers != 1 and not mask.in_memory and isinstance(options.model, str | Path)
    return (
        usable and ":" not in options.device and model.device.startswith("cuda") and len(visible_gpus()) > 1
    )


def takes_dask(options: RenderOptions, plan: RenderPlan, seconds: float) -> bool:
    """Whether Dask schedules the threads of this process: where asked for, or where it costs next to nothing.

    Parameters
    ----------
    options, plan
        Of the render.
    seconds
        Planned CPU time of the generator on each core, so that the same command is scheduled alike whatever else runs.
    """
    if options.executor != "auto":
        return options.executor == "dask" or options.dashboard is not None
    rows, columns = plan.block_shape
    cost = DASK_START_SECONDS + 2 * rows * columns * DASK_TASK_SECONDS
    return options.dashboard is not None or cost < DASK_SHARE * seconds


def choose_workers(options: RenderOptions, where: Where, device: str) -> int:
    """Choose the number of blocks in flight, or of processes: as given, or enough to keep the generator busy."""
    if options.workers is not None:
        return options.workers
    if where == "threads":
        return gpu_blocks(usable_cores()) if device.startswith("cuda") else WORKERS
    gpus = len(visible_gpus()) if options.device in ("auto", "cuda") else 0
    return max(WORKERS, min(gpus, options.memory // GPU_PROCESS_BYTES))


def blocks_elsewhere(options: RenderOptions, where: Where) -> int | None:
    """Return the number of blocks in flight in other processes; None if only a scheduler knows."""
    if where == "processes":
        return workers_of(options) * process_blocks(options.device)
    if options.cluster is None:
        return None
    from safron.engine.execution.batch_system import job_blocks

    return job_blocks(Path(options.cluster))


def model_source(prepared: Prepared) -> ModelSource:
    """Describe how worker processes load the generator."""
    from safron.engine.execution.dask_worker import ModelSource

    options, model = prepared.options, prepared.options.model
    if isinstance(model, str | Path):
        model = str(Path(model).absolute()) if Path(model).is_file() else str(model)
    # A worker process sees only its own GPU.
    device = options.device.partition(":")[0] if prepared.where == "processes" else options.device
    threads = options.threads
    if prepared.where == "processes" and not threads:
        threads = max(1, usable_cores() // workers_of(options))
    return ModelSource(model, device, threads, options.precision, options.patch_timeout, options.runtime)


def placement_of(options: RenderOptions) -> Placement:
    """Describe where workers in other processes are."""
    return Placement(
        workers=workers_of(options),
        device=options.device,
        scheduler=options.scheduler,
        cluster=options.cluster,
        security=options.security,
        dashboard=options.dashboard,
    )
