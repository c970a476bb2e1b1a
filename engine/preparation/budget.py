"""How much memory and disk will a render take, and is there so much?"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from safron.engine.execution.device_queue import BUFFERS, shares_batches
from safron.engine.execution.tasks import Job
from safron.engine.generator.model import PatchModel
from safron.engine.generator.trial import try_model
from safron.engine.plan.render_plan import BOUNDARIES_KEPT, RenderPlan
from safron.engine.scratch.arrays import SYNC_BYTES
from safron.engine.system.gpus import process_blocks
from safron.engine.system.memory import LARGEST, resident_bytes
from safron.io.errors import BadInput

from .options import RenderOptions, workers_of
from .output_paths import working_folders
from .prepared import Prepared

# Code and buffers of Zarr, Dask and the writer that are not there yet when a plan is made, measured.
LATE_BYTES = 96 << 20


def foreseen(prepared: Prepared) -> Prepared:
    """Project the memory of processes that are not started, from what this one takes after a trial."""
    job, options = prepared.job, prepared.options
    try_model(job.model, job.plan)
    blocks = process_blocks(options.device)
    each = process_bytes(job, job.model, resident=resident_bytes(), blocks=blocks)
    return with_processes(prepared, each)


def process_bytes(job: Job, model: PatchModel, *, resident: int, blocks: int) -> int:
    """Upper bound on what a process takes that has so many blocks in work, and takes `resident` before."""
    plan = job.plan
    batches = BUFFERS if shares_batches(model) else blocks
    working = blocks * plan.worker_bytes() + batches * plan.batch_bytes(integral=model.integral)
    kept = BOUNDARIES_KEPT * plan.boundary_bytes + job.mask.keep_chunks(block=plan.block, workers=blocks)
    return resident + LATE_BYTES // 2 + with_gaps(working + kept)


def with_gaps(nbytes: int) -> int:
    """Add an eighth for what arrays of different sizes leave between them in the heap: 6 % after 2,400 blocks."""
    return nbytes * 9 // 8


def with_processes(prepared: Prepared, each: int) -> Prepared:
    """Add what other processes of this machine take, and hold the sum against the budget."""
    if prepared.where == "processes":
        projected = prepared.projected_bytes + workers_of(prepared.options) * each
    else:
        projected = max(prepared.projected_bytes, each)
    check_memory(projected, prepared.job.plan, prepared.options)
    return replace(prepared, projected_bytes=projected)


def working_heap_bytes(working: int, plan: RenderPlan, workers: int) -> int:
    """How much heap a render works with at most."""
    image = 3 * plan.block**2
    apart = workers * image if image > LARGEST else 0
    rows, columns = plan.block_shape
    busy = min(1.0, rows * columns / workers)
    return int(busy * (working - apart)) + SYNC_BYTES


def check_budget(prepared: Prepared) -> None:
    """Refuse a plan over the memory budget or over the free disk, with both numbers."""
    plan, options = prepared.plan, prepared.options
    check_memory(prepared.projected_bytes, plan, options)
    target, part = prepared.target, prepared.target.part
    written = part.stat().st_size if part.is_file() else 0
    scratch = 0 if prepared.job.scratch.store else prepared.scratch_bytes
    needs: dict[int, int] = {}
    folders: dict[int, Path] = {}
    room = max(0, plan.output_bytes() - written), scratch
    for folder, need in zip(working_folders(target, prepared.job.scratch, options), room, strict=True):
        disk = folder.stat().st_dev
        needs[disk] = needs.get(disk, 0) + need
        folders.setdefault(disk, folder)
    for disk, need in needs.items():
        folder = folders[disk]
        free = shutil.disk_usage(folder).free
        if need > free:
            raise BadInput(
                f"{folder}: about {_mib(need)} are needed, {_mib(free)} are free; free space or choose another disk"
            )


def check_memory(projected: int, plan: RenderPlan, options: RenderOptions) -> None:
    """Refuse a plan over the memory budget."""
    if projected > options.memory:
        raise BadInput(
            f"projected peak memory is {_mib(projected)}, --memory allows {_mib(options.memory)}; "
            f"lower --workers {workers_of(options)} or --block {plan.block}, or raise --memory"
        )


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
