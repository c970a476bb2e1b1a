"""How much memory and disk will a render take, and is there enough?"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from safron.engine.execution.patch_pool import batches_held
from safron.engine.execution.tasks import Job
from safron.engine.generator.pictures import CACHE_BYTES as PICTURE_BYTES
from safron.engine.plan import estimates
from safron.engine.plan.render_plan import RenderPlan
from safron.engine.scratch.arrays import SYNC_BYTES
from safron.engine.system.large_arrays import LARGE
from safron.engine.system.memory import LARGEST
from safron.io.errors import BadInput
from safron.io.masks.chunk_cache import CACHE_BYTES

from .options import RenderOptions, workers_of

# Code and buffers of Zarr, Dask and the writer that are not loaded yet when a render is planned, measured.
LATE_BYTES = 96 << 20
# Code and tables of Dask's scheduler in this process; 18 to 24 MiB were measured.
DASK_BYTES = 32 << 20


@dataclass(frozen=True)
class Budget:
    """Upper bounds on memory, in bytes.

    Attributes
    ----------
    process
        What a rendering process takes before its first block: Python, libraries, the loaded generator.
    generator
        What calls of the generator add.
    blocks
        Pixels, labels, sums and tiles of the blocks in flight.
    batches
        Inputs and outputs of the batches in flight.
    boundaries
        Boundary sums kept in memory.
    chunks
        Decoded chunks of the mask.
    driver
        The process that hands out tasks; 0 if it also renders.
    processes
        Rendering processes on this machine; 0 if they are on others.
    """

    process: int = 0
    generator: int = 0
    blocks: int = 0
    batches: int = 0
    boundaries: int = 0
    chunks: int = 0
    driver: int = 0
    processes: int = 1

    @property
    def working(self) -> int:
        """What a rendering process allocates for its blocks."""
        return self.blocks + self.batches + self.boundaries + self.chunks

    @property
    def each(self) -> int:
        """What one rendering process takes."""
        return self.process + self.generator + self.working

    @property
    def total(self) -> int:
        """What is held against ``--memory``: all processes of this machine, or one of another machine."""
        return self.driver + self.processes * self.each if self.processes else max(self.driver, self.each)

    def with_workers(self, each: Budget) -> Budget:
        """Complete a budget of the driver alone by that of a worker."""
        return replace(each, driver=self.driver, processes=self.processes)

    def __str__(self) -> str:
        terms = {
            "process": self.process,
            "generator": self.generator,
            "blocks": self.blocks,
            "batches": self.batches,
            "boundary sums": self.boundaries,
            "mask chunks": self.chunks,
        }
        each = " + ".join(f"{value / 2**20:.0f} {name}" for name, value in terms.items())
        if not self.driver:
            return each
        driver = f"{self.driver / 2**20:.0f} driver"
        return (
            f"{driver} + {self.processes} x ({each})" if self.processes else f"{driver}; each worker {each}"
        )


def process_budget(job: Job, *, process: int, blocks: int, batches: int, memory: int = 0) -> Budget:
    """Project the memory of one rendering process, without the generator's calls.

    Parameters
    ----------
    job
        The render; its mask keeps decoded chunks from now on.
    process
        bytes that the process takes before the first block.
    blocks, batches
        How many are in flight.
    memory
        bytes allowed for all of it; half of what is left may go to a mask with large chunks.
    """
    plan = job.plan
    budget = Budget(
        process=process,
        blocks=with_gaps(blocks * estimates.worker_bytes(plan)),
        batches=batch_bytes(job, batches),
        boundaries=with_gaps(estimates.BOUNDARIES_KEPT * estimates.boundary_bytes(plan)),
    )
    most = max(CACHE_BYTES, (memory - budget.total) // 2)
    chunks = job.mask.keep_chunks(block=plan.block, workers=blocks, max_bytes=most)
    pictures = PICTURE_BYTES if job.model.card.initial else 0
    return replace(budget, chunks=with_gaps(chunks + pictures))


def worker_budget(job: Job, *, resident: int, blocks: int) -> Budget:
    """Project the memory of a worker process that takes `resident` bytes with its generator."""
    batches, _ = batches_held(job.model, blocks)
    return process_budget(job, process=resident + LATE_BYTES // 2, blocks=blocks, batches=batches)


def batch_bytes(job: Job, batches: int) -> int:
    """Return the bytes of so many batches in flight."""
    return with_gaps(batches * estimates.batch_bytes(job.plan, returns_uint8=job.model.returns_uint8))


def with_gaps(nbytes: int) -> int:
    """Add an eighth for gaps that arrays of different sizes leave in the heap: 6 % after 2,400 blocks."""
    return nbytes * 9 // 8


def reserved_bytes(budget: Budget, job: Job, *, workers: int) -> tuple[int, int]:
    """Return how much of the heap a render uses at most, and how much large arrays take outside of it."""
    plan, mask = job.plan, job.mask
    image = 3 * plan.block**2
    outside = workers * image if image >= LARGE else 0
    in_heap = budget.working - outside
    if plan.passes is not None and 4 * image >= LARGE:
        # The sums of a block, the running picture around it, and boundary sums as they are stored or loaded.
        large = workers * (estimates.step_bytes(plan) + estimates.boundary_bytes(plan))
        outside += large + estimates.BOUNDARIES_KEPT * estimates.boundary_bytes(plan)
        in_heap -= with_gaps(large) + budget.boundaries
    if prod(mask.chunks) * mask.plane.dtype.itemsize > LARGEST:
        in_heap -= budget.chunks
    rows, columns = plan.block_shape
    busy = min(1.0, rows * columns / workers)
    return int(busy * in_heap) + SYNC_BYTES, int(busy * outside)


def check_memory(budget: Budget, plan: RenderPlan, options: RenderOptions) -> None:
    """Refuse a plan that exceeds the memory budget."""
    if budget.total > options.memory:
        raise BadInput(
            f"projected peak memory is {_mib(budget.total)}, --memory allows {_mib(options.memory)}; "
            f"lower --workers {workers_of(options)} or --block {plan.block}, or raise --memory"
        )


def check_disk(needs: Iterable[tuple[Path, int]]) -> None:
    """Refuse a plan that exceeds the free disk.

    Parameters
    ----------
    needs
        Folders, and the bytes that are needed in each; several may be on one disk.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, need in needs:
        disk = folder.stat().st_dev
        first, before = disks.get(disk, (folder, 0))
        disks[disk] = first, before + need
    for folder, need in disks.values():
        free = shutil.disk_usage(folder).free
        if need > free:
            raise BadInput(
                f"{folder}: about {_mib(need)} are needed, {_mib(free)} are free; free space or choose another disk"
            )


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
