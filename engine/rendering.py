"""How does a mask become a slide?

`prepare` decides and checks, `open_runner` starts the workers, `run` renders. Everything that can be refused is refused before
the first patch is generated. The slide appears complete, by a rename, or not at all.
"""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safron.engine.execution.call_timer import CallTimer
from safron.engine.execution.local import local_runner
from safron.engine.execution.patch_pool import open_pool
from safron.engine.execution.scheduling import TRIES, GivenUp, Runner, Task
from safron.engine.execution.tasks import Job, block_task, boundary_task, listening
from safron.engine.execution.upper_levels import finish_levels
from safron.engine.plan.estimates import boundary_room
from safron.engine.plan.passes import all_patches
from safron.engine.preparation.mask_scan import Scan, scan_mask
from safron.engine.preparation.options import RenderOptions, for_python, workers_of
from safron.engine.preparation.placement import model_source, placement_of
from safron.engine.preparation.prepare import prepare, settle
from safron.engine.preparation.prepared import Prepared
from safron.engine.scratch.arrays import disk_errors
from safron.engine.scratch.completion import Finished, head_of, name_preview
from safron.engine.scratch.lock import run_lock
from safron.engine.scratch.mask_watch import MaskWatch
from safron.engine.scratch.render_state import RenderState
from safron.engine.system.gpus import kind_of
from safron.engine.system.memory import LARGEST, SAMPLED, peak_bytes, reserve_memory
from safron.engine.system.versions import deciding_versions
from safron.io.errors import Failed, SafronError, counted, one_line
from safron.io.slides.preview import write_png

from .passes import EarlierPasses, free_as_it_goes, run_passes
from .report import RenderReport
from .running_preview import running_preview

log = logging.getLogger("safron")

# At most so many blocks are named in a message.
NAMED = 4


def render(
    mask: Any, out: str | Path, *, progress: Callable[[int], None] | None = None, **options: Any
) -> RenderReport:
    """Render a tissue mask into a pyramidal slide.

    Parameters
    ----------
    mask
        Path of a Zarr array, OME-Zarr or image, or any 2-D array-like with shape, dtype and slicing: labels
        [height, width], whole numbers that the generator's card knows.
    out
        The slide: .svs, .tif, .tiff, .ome.tif or .ome.tiff.
    progress
        Called from worker threads after each batch, with the number of its patches.
    **options
        See `RenderOptions`.

    Returns
    -------
    RenderReport
        Counts, times, memory and the digest.

    Raises
    ------
    BadInput
        An argument cannot be used; nothing was changed.
    Failed
        The render could not be finished; the same call resumes it.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> labels = np.zeros((300, 400), np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = render(labels, folder + "/slide.tiff", model="identity", workers=1)
    >>> made.width, made.height, made.patches, made.generated
    (400, 300, 4, 4)
    """
    names = {item.name for item in fields(RenderOptions)}
    if unknown := sorted(set(options) - names):
        raise TypeError(f"render() has no option {unknown[0]!r}; it has {', '.join(sorted(names))}")
    try:
        prepared = prepare(mask, out, RenderOptions(**options))
        with open_runner(prepared) as (prepared, runner):
            return run(prepared, runner, progress=progress)
    except SafronError as error:
        error.args = (for_python(str(error)),)
        raise


@contextmanager
def open_runner(prepared: Prepared, cluster: Any = None) -> Iterator[tuple[Prepared, Runner]]:
    """Start the workers, complete the plan by what they report, and check memory and disk.

    Parameters
    ----------
    prepared
        A plan.
    cluster
        A `safron.engine.execution.dask_cluster.Cluster` that is open already; None opens the one of the
        options.

    Yields
    ------
    prepared : Prepared
        The completed plan.
    runner : Runner
        Runs tasks on the workers.

    Raises
    ------
    BadInput
        The plan exceeds the memory budget or the free disk, or there are no workers.
    """
    options = prepared.options
    if prepared.where == "threads":
        prepared.check_budget()
        # No task runs in the main thread: it must be free to end the render while a generator call does not return, and a
        # signal could interrupt it while it holds the lock of a queue.
        job, workers = prepared.job, workers_of(options)
        timer = CallTimer(options.patch_timeout, job.plan)
        with (
            local_runner(
                workers, in_threads=True, dask=prepared.dask, dashboard=options.dashboard, timer=timer
            ) as runner,
            open_pool(timer.timed(prepared.model), job.model, job.plan) as pool,
        ):
            yield replace(prepared, job=replace(job, pool=pool)), runner
        return
    from safron.engine.execution.cluster_start import open_cluster
    from safron.engine.execution.dask_cluster import ClusterRunner

    if cluster is None:
        with open_cluster(placement_of(options)) as cluster, open_runner(prepared, cluster) as opened:
            yield opened
        return
    source = model_source(prepared)
    facts = cluster.warm_up(source, prepared.plan, options.batch)
    prepared = settle(prepared, facts, width=cluster.width)
    prepared.check_budget()
    yield prepared, ClusterRunner(cluster, source)


def run(
    prepared: Prepared,
    runner: Runner,
    *,
    progress: Callable[[int], None] | None = None,
    done: Callable[[], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> RenderReport:
    """Render, or resume an interrupted render, and complete the slide.

    Parameters
    ----------
    prepared, runner
        See `open_runner`.
    progress
        Called with the number of patches that are done, first with those of earlier runs.
    done
        Called when slide, preview and report have their names and only scratch is left to delete.
    tell
        Called with a line that says what a sampler's preview shows, each time that it changes.

    Raises
    ------
    BadInput
        The mask has an unknown label, or scratch belongs to a render with other inputs.
    Failed
        A task failed repeatedly, the mask changed, or the disk is full; the same command continues.
    """
    start = time.perf_counter()
    watch = MaskWatch(prepared.job.mask)
    scan = scan_mask(prepared.job, runner)
    for note in scan.notes:
        log.warning("%s", note)
    target, scratch = prepared.target, prepared.job.scratch
    if target.url is not None:
        target.local.parent.mkdir(parents=True, exist_ok=True)
    inputs = render_inputs(prepared, scan)
    with run_lock(target.local), disk_errors(scratch.path):
        finished = _finished_earlier(prepared, inputs)
        if finished is None:
            target.check(overwrite=prepared.options.overwrite)  # another render may have finished meanwhile
            with closing(_open_state(prepared, inputs, watch)) as state:
                if progress is not None:
                    progress(state.run + state.painted)
                largest = LARGEST if prepared.plan.passes is None else SAMPLED
                reserve_memory(*prepared.reserved, largest=largest)

                def run_job(job: Job, blocks: RenderState) -> None:
                    _run_blocks(job, blocks, runner, progress)

                look = running_preview(prepared, tell)
                earlier = run_passes(prepared.job, inputs, watch, run_job, progress, look)
                free_as_it_goes(earlier.job, state)
                run_job(earlier.job, state)
                finished = _complete(prepared, scan, state, earlier, inputs, start)
        # As long as scratch has the record of the finished slide, the same command does whatever is left of this.
        name_preview(prepared.options.preview)
        target.part.unlink(missing_ok=True)
        report = RenderReport.of(finished.report)
        if prepared.options.labels_out is not None:
            from .labels_out import write_labels_out

            write_labels_out(prepared, report)
        _write_report(prepared, report)
        if prepared.options.html is not None:
            from .html_report import write_html

            write_html(prepared, report)
        if done is not None:
            done()
        scratch.remove()
    return report


def _open_state(prepared: Prepared, inputs: dict[str, str], watch: MaskWatch) -> RenderState:
    job, options = prepared.job, prepared.options
    state = RenderState.open(
        job.plan,
        job.scratch,
        prepared.target.part,
        inputs,
        watch,
        overwrite=options.overwrite,
        fresh=options.fresh,
    )
    if job.pool is not None:  # all tasks run in this process
        job.scratch.boundaries.keep(boundary_room(job.plan), lazily=True)
    return state


def render_inputs(prepared: Prepared, scan: Scan) -> dict[str, str]:
    """Return everything that decides a pixel or a tag, under the name that users know."""
    job = prepared.job
    inputs = job.plan.inputs(mask_fingerprint=scan.fingerprint, model_sha256=job.model.sha256)
    inputs |= {f"version of {name}": value for name, value in deciding_versions().items()}
    # A CPU and a GPU round differently, so a render started on one is not resumed on the other.
    device = {"--device": kind_of(job.model.device), "--precision": job.model.precision}
    return inputs | device | {"--runtime": job.model.runtime}


def _finished_earlier(prepared: Prepared, inputs: dict[str, str]) -> Finished | None:
    """Return the record of a slide whose run was killed after the slide got its name; None without one."""
    scratch = prepared.job.scratch
    finished = Finished.of(prepared.target, scratch.path)
    if finished is None or prepared.options.fresh:
        return None
    if finished.inputs == inputs and _is_report(finished.report):
        log.warning(
            "%s: an earlier run finished it but was killed before it could report that", prepared.target.name
        )
        preview = prepared.options.preview
        if preview is not None and finished.options.get("preview") != str(preview):
            log.warning("--preview %s: not written, the earlier run had another one or none", preview)
        return finished
    prepared.target.check(overwrite=prepared.options.overwrite)
    scratch.remove()  # it belongs to a finished slide, so nothing is lost
    return None


def _is_report(values: Mapping[str, Any]) -> bool:
    """Whether these are the values of a report."""
    try:
        RenderReport.of(dict(values)).lines()
    except (TypeError, ValueError, AttributeError, KeyError):
        return False
    return True


def _complete(
    prepared: Prepared,
    scan: Scan,
    state: RenderState,
    earlier: EarlierPasses,
    inputs: dict[str, str],
    start: float,
) -> Finished:
    """Write the upper levels, the preview and the directories, and give the slide its name."""
    target, scratch, overwrite = prepared.target, prepared.job.scratch, prepared.options.overwrite
    pixels = finish_levels(prepared.plan, scratch, state.writer)
    picture = prepared.options.preview
    if picture is not None:
        with disk_errors(f"--preview {picture}"):
            write_png(picture, pixels)
    digest = state.writer.seal(pixels)
    report = _report(prepared, scan, state, earlier, digest, time.perf_counter() - start)
    assert report.generated + report.filled == report.patches, report
    # The preview gets its name last: otherwise the same command would refuse to overwrite it after a failure.
    finished = Finished(report.output_bytes, head_of(target.part), inputs, report.values())
    finished.write(scratch.path)
    if target.url is None:
        state.writer.publish(target.local, overwrite=overwrite)
    else:
        state.writer.close()
        target.send(overwrite=overwrite)
    return finished


def _write_report(prepared: Prepared, report: RenderReport) -> None:
    path = prepared.options.report
    if path is None:
        return
    try:
        report.write(path)
    except OSError as error:
        raise Failed(
            f"--report {path}: {error.strerror}; the slide is finished; correct this, and the same command writes the report"
        ) from error


def _run_blocks(
    job: Job,
    state: RenderState,
    runner: Runner,
    progress: Callable[[int], None] | None,
) -> None:
    """Run all unfinished tasks and accept their results."""
    given_up: list[GivenUp] = []
    with listening(job.scratch, progress or (lambda count: None)):
        for _, result in runner(_tasks(job, state)):
            if isinstance(result, GivenUp):
                given_up.append(result)
                continue
            state.accept(result)
    state.keep()
    if given_up:
        raise _blocks_failed(job, given_up)


def _blocks_failed(job: Job, given_up: list[GivenUp]) -> Failed:
    """Return the error that names the failed blocks, their positions and the causes, each cause once."""
    causes: dict[str, list[str]] = {}
    waiting = 0
    for item in given_up:
        if item.error is None:
            waiting += 1
            continue
        window = job.on_canvas(job.plan.block_plan(item.task.index).window)
        place = f"({item.task.index[0]}, {item.task.index[1]}) at x={window.x}, y={window.y}"
        causes.setdefault(one_line(item.error), []).append(f"{place}, {window.width} x {window.height} px")
    failed = sum(len(places) for places in causes.values())
    named = [
        f"{'; '.join(places[:NAMED])}{' and more' if len(places) > NAMED else ''}: {cause}"
        for cause, places in list(causes.items())[:NAMED]
    ]
    more = f"; {waiting} more blocks need their patches" if waiting else ""
    return Failed(
        f"{counted(failed, 'block')} failed {TRIES} times each: {'; '.join(named)}{more}. All other blocks are finished and kept; "
        "the same command tries these again"
    )


def _tasks(job: Job, state: RenderState) -> Iterator[Task]:
    """Yield the unfinished boundary and block tasks in the order of `RenderPlan.blocks`, each with the tasks it needs."""
    plan = job.plan
    for index in plan.blocks():
        needed = not all(state.done[consumer] for consumer in plan.consumers(index))
        if needed and plan.block_plan(index).boundary and not state.boundary_done[index]:
            yield Task(_key("boundary", index), boundary_task, job, index)
        if not state.done[index]:
            after = tuple(_key("boundary", source) for source in plan.sources(index))
            yield Task(_key("block", index), block_task, job, index, after)


def _key(kind: str, index: tuple[int, int]) -> str:
    return f"{kind}-{index[0]}-{index[1]}"


def _report(
    prepared: Prepared, scan: Scan, state: RenderState, earlier: EarlierPasses, digest: str, seconds: float
) -> RenderReport:
    plan, model = prepared.plan, prepared.job.model
    rows, columns = plan.block_shape
    return RenderReport(
        out=prepared.target.name,
        width=plan.slide.width,
        height=plan.slide.height,
        levels=plan.slide.level_count,
        mpp=plan.slide.mpp,
        patches=all_patches(plan),
        generated=earlier.run + state.run,
        filled=earlier.painted + state.painted,
        blocks=rows * columns,
        resumed=state.resumed,
        digest=digest,
        mask_fingerprint=scan.fingerprint,
        model=model.card.name,
        model_sha256=model.sha256,
        device=model.device,
        runtime=model.runtime,
        precision=model.precision,
        options=prepared.options.described(),
        seconds=seconds,
        output_bytes=prepared.target.part.stat().st_size,
        peak_bytes=peak_bytes(),
        projected_bytes=prepared.projected_bytes,
        stages={
            name: round(earlier.stages.get(name, 0.0) + state.stages.get(name, 0.0), 3)
            for name in {**earlier.stages, **state.stages}
        },
        versions=deciding_versions() | {"python": platform.python_version()},
        scale=float(plan.scale.ratio),
        warnings=[*prepared.warnings, *scan.notes],
    )
