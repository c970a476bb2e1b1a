"""How does a mask become a slide?

`render` joins the parts: open, load, plan, scan, check, run, join. Everything that can be refused is
refused before the first patch runs, and the slide appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from safron.io.errors import Failed

from .execute import Runner, Task, local_runner
from .levels import finish_levels, write_png
from .lock import run_lock
from .options import RenderOptions
from .prepare import Prepared, check_budget, check_output_path, prepare
from .report import RenderReport
from .scan import Scan, scan_mask
from .scratch import disk_errors
from .state import RenderState
from .tasks import Job, block_task, listening, seam_task


def render(
    mask: Any, out: str | Path, *, progress: Callable[[int], None] | None = None, **options: Any
) -> RenderReport:
    """Render a tissue mask into a pyramidal slide.

    Parameters
    ----------
    mask : path of a Zarr array, OME-Zarr or image, or any 2-D array-like with shape, dtype and slicing:
        labels [height, width], whole numbers that the generator's card knows.
    out : the slide: .svs, .tif, .tiff, .ome.tif or .ome.tiff.
    progress : called with the number of patches after each batch, from worker threads.
    **options : see `RenderOptions`.

    Returns
    -------
    RenderReport
        Counts, times, memory and the digest.

    Raises
    ------
    BadInput
        When something given cannot be used; nothing was changed.
    Failed
        When the work broke off; the same call continues it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> labels = np.zeros((300, 400), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = render(labels, folder + "/slide.tiff", model="identity", workers=1)
    >>> made.width, made.height, made.patches, made.run
    (400, 300, 4, 4)
    """
    known = {item.name for item in fields(RenderOptions)}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"render() has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    prepared = prepare(mask, Path(out), RenderOptions(**options))
    with local_runner(prepared.options.workers) as runner:
        scan = scan_mask(prepared.job, runner)
        return run(prepared, scan, runner, progress=progress)


def run(
    prepared: Prepared, scan: Scan, runner: Runner, *, progress: Callable[[int], None] | None = None
) -> RenderReport:
    """Run a prepared render, or what an interrupted run of it left to do, and join the slide."""
    start = time.perf_counter()
    check_budget(prepared)
    plan, scratch = prepared.plan, prepared.job.scratch
    inputs = plan.inputs(mask_fingerprint=scan.fingerprint, model_sha256=prepared.job.model.sha256)
    inputs |= {f"version of {name}": value for name, value in deciding_versions().items()}
    # A CPU and a GPU round differently: half a slide of each would be a third one.
    inputs["--device"] = prepared.job.model.device.partition(":")[0]
    with run_lock(prepared.out), disk_errors(scratch.path):
        # Another render may have finished it since we looked.
        check_output_path(prepared.out, overwrite=prepared.options.overwrite)
        with closing(RenderState.open(prepared, inputs)) as state:
            if progress is not None:
                progress(state.run + state.painted)
            _run_blocks(prepared, state, runner, progress)
            preview = finish_levels(plan, scratch, state.writer)
            picture = prepared.options.preview
            waiting = None if picture is None else write_png(picture, preview)
            digest = state.writer.finish(prepared.out, preview, overwrite=prepared.options.overwrite)
            # Not before: the same command again, after a failure, would find its own picture in the way.
            if picture is not None and waiting is not None:
                waiting.replace(picture)
        scratch.remove()
    report = _report(prepared, scan, state, digest, time.perf_counter() - start)
    assert report.run + report.painted == report.patches, report
    if prepared.options.report is not None:
        try:
            report.write(prepared.options.report)
        except OSError as error:
            path = prepared.options.report
            raise Failed(f"--report {path}: {error.strerror}; the slide itself is done") from error
    return report


def _run_blocks(
    prepared: Prepared, state: RenderState, runner: Runner, progress: Callable[[int], None] | None
) -> None:
    """Run the tasks that are left and accept their results."""
    with listening(prepared.job.scratch, progress or (lambda count: None)):
        for _, result in runner(_tasks(prepared.job, state)):
            state.accept(result)
    state.sync()


def _tasks(job: Job, state: RenderState) -> Iterator[Task]:
    """The seams and blocks that are not finished, in raster order, each with what it must wait for."""
    plan = job.plan
    for index in plan.blocks():
        needed = not all(state.done[consumer] for consumer in plan.consumers(index))
        if needed and plan.block_plan(index).seams and not (state.seamed[index] and _seams_whole(job, index)):
            yield Task(_key("seam", index), seam_task, (job, index))
        if not state.done[index]:
            after = tuple(_key("seam", source) for source in plan.sources(index))
            yield Task(_key("block", index), block_task, (job, index), after)


def _key(kind: str, index: tuple[int, int]) -> str:
    return f"{kind}-{index[0]}-{index[1]}"


def _seams_whole(job: Job, index: tuple[int, int]) -> bool:
    """Whether the stored seams of a block can be read; a power cut may have torn them."""
    for name, rect in job.plan.block_plan(index).seams.items():
        whole = rect.window(job.plan.grid).clip(job.plan.region)
        try:
            job.scratch.read_seam(index, name, whole, whole)
        except (OSError, ValueError, RuntimeError, AssertionError, KeyError):
            return False
    return True


@lru_cache(maxsize=1)
def deciding_versions() -> dict[str, str]:
    """Versions of all that can change a pixel or a byte of a tile."""
    import onnxruntime

    found = {name: version(name) for name in ("safron", "imagecodecs", "opencv-python-headless", "numpy")}
    return found | {"onnxruntime": onnxruntime.__version__}


def _report(prepared: Prepared, scan: Scan, state: RenderState, digest: str, seconds: float) -> RenderReport:
    plan, model = prepared.plan, prepared.job.model
    rows, columns = plan.block_shape
    return RenderReport(
        out=str(prepared.out),
        width=plan.slide.width,
        height=plan.slide.height,
        levels=plan.slide.level_count,
        mpp=plan.slide.mpp,
        patches=plan.patches,
        run=state.run,
        painted=state.painted,
        blocks=rows * columns,
        resumed=state.resumed,
        digest=digest,
        mask_fingerprint=scan.fingerprint,
        model=model.card.name,
        model_sha256=model.sha256,
        device=model.device,
        options=prepared.options.described(),
        seconds=seconds,
        output_bytes=prepared.out.stat().st_size,
        peak_bytes=peak_bytes(),
        projected_bytes=prepared.projected_bytes,
        stages={name: round(value, 3) for name, value in state.stages.items()},
        versions=deciding_versions() | {"python": platform.python_version()},
    )


def peak_bytes() -> int:
    """Most resident memory that this process ever had."""
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):
        return int(memory.peak_wset)
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: on Linux its maximum includes the process that started this one, from before exec.
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
