"""Can this render be done, and how? Everything that can be refused without reading a pixel is refused here."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safron.engine.execution.call_timer import first_call
from safron.engine.execution.device_queue import BUFFERS, RUNNERS, shares_batches
from safron.engine.execution.tasks import Job
from safron.engine.generator.halving import Halving
from safron.engine.generator.model import PatchModel, load_model
from safron.engine.generator.trial import choose_batch, try_model
from safron.engine.plan.blocks import choose_block
from safron.engine.plan.render_plan import BOUNDARIES_KEPT, RenderPlan, choose_bits, make_grid
from safron.engine.plan.scale import ONE, Scale, choose_scale
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import recorded
from safron.engine.system.memory import LARGEST, resident_bytes
from safron.io.errors import BadInput
from safron.io.masks.chunk_cache import CACHE_BYTES
from safron.io.masks.open import open_mask
from safron.io.remote import Target, check_folder, is_url
from safron.io.slides.spec import MOST_SIDE, check_mpp, check_tile, choose_pyramid
from safron.io.slides.writer import SlideSpec

from .budget import (
    LATE_BYTES,
    check_memory,
    foreseen,
    process_bytes,
    with_gaps,
    with_processes,
    working_heap_bytes,
)
from .options import RenderOptions, workers_of
from .output_paths import check_outputs, choose_flavor, open_scratch
from .placement import blocks_elsewhere, check_placing, choose_where, choose_workers
from .prepared import Prepared

if TYPE_CHECKING:
    from safron.engine.execution.dask_worker import WorkerFacts

log = logging.getLogger("safron")


def prepare(source: Any, out: str | Path, options: RenderOptions, *, dry_run: bool = False) -> Prepared:
    """Check what was asked for and plan it; nothing is written.

    Where other processes render, the generator is only looked at here: `settle` lets a worker try it. A dry
    run asks nobody else.
    """
    target = Target.of(out, folder=options.scratch)
    flavor = options.flavor or choose_flavor(target)
    try:
        check_outputs(source, target, options)
    except OSError as error:  # too long a path, a folder that may not be looked into
        raise BadInput(f"{error.filename}: {error.strerror}; choose another path") from error
    if options.scratch is not None and is_url(options.scratch):
        check_folder(str(options.scratch))
    check_tile(options.tiff_tile, "--tiff-tile")
    check_mpp(options.mpp)
    check_placing(options)
    elsewhere = (
        options.executor == "processes" or options.scheduler is not None or options.cluster is not None
    )
    model = load_model(
        options.model,
        device="cpu" if elsewhere else options.device,
        threads=options.threads,
        precision="float32" if elsewhere else options.precision,
    )
    card = model.card
    mask = open_mask(source, palette=card.palette, palette_tolerance=options.palette_tolerance)
    where = choose_where(options, mask, model)
    options = replace(options, workers=choose_workers(options, where, model.device))
    workers = workers_of(options)
    tile = card.tile if options.tile is None else options.tile
    canvas = Window(0, 0, *mask.shape)
    if max(mask.shape) > MOST_SIDE:
        raise BadInput(
            f"mask {mask.source}: {canvas.width} x {canvas.height} px; a TIFF has at most {MOST_SIDE} pixels a side"
        )
    size = options.mpp if options.mpp is not None else mask.mpp
    scale = ONE if options.scale == "1" else choose_scale(size, card.mpp)
    grid = make_grid(
        height=scale.drawn(canvas.height),
        width=scale.drawn(canvas.width),
        tile=tile,
        overlap=options.overlap,
        context=card.context,
    )
    card.require_tile(tile)
    taper = Taper(options.taper)
    region = _region(options.region, canvas)
    mpp = card.mpp if size is None else size
    slide = _slide_spec(region, mpp, flavor, options, model, grid.tile, scale)
    plan = RenderPlan(
        grid=grid,
        taper=taper,
        canvas=canvas,
        region=region,
        scale=scale,
        slide=slide,
        block=choose_block(
            options.block,
            tile=tile,
            slide_tile=options.tiff_tile,
            scale=scale,
            longest=max(slide.height, slide.width),
        ),
        batch=choose_batch(options.batch, model),
        bits=choose_bits(grid, taper, integral=model.integral),
        seed=options.seed,
        noise_scales=card.noise_scales,
    )
    scratch = open_scratch(target, options.scratch)
    job = Job(plan, mask, model, scratch)
    if where != "threads":
        at_a_time = blocks_elsewhere(options, where)
        prepared = Prepared(target, options, job, resident_bytes() + LATE_BYTES, where, at_a_time=at_a_time)
        return foreseen(prepared) if dry_run else prepared
    before, batch = resident_bytes() + LATE_BYTES, plan.batch_bytes(integral=model.integral)
    on_device = not model.device.startswith("cpu")
    if on_device:
        model = Halving(model)
    batches = BUFFERS if on_device else workers
    kept = BOUNDARIES_KEPT * plan.boundary_bytes + workers * plan.worker_bytes()
    # Large chunks of a mask may take half of the memory that is left; the generator's own is not known yet.
    left = options.memory - before - with_gaps(kept + batches * batch)
    chunks = mask.keep_chunks(block=plan.block, workers=workers, max_bytes=max(CACHE_BYTES, left // 2))
    kept += chunks
    check_memory(before + with_gaps(kept + batches * batch), plan, options)  # before the trial takes some
    trial = first_call(lambda: try_model(model, plan), options.patch_timeout)
    batches, calls = (BUFFERS, RUNNERS) if shares_batches(model) else (workers, workers)
    working = with_gaps(kept + batches * batch)
    projected = before + working + calls * trial.added_bytes
    job = Job(with_batch(plan, trial.batch, model.device), mask, model, scratch)
    # The C library maps what is very large by itself.
    own = chunks if prod(mask.chunks) * mask.plane.dtype.itemsize > LARGEST else 0
    return Prepared(
        target,
        options,
        job,
        projected,
        where,
        working_heap_bytes(working - with_gaps(own), plan, workers),
        workers,
    )


def with_batch(plan: RenderPlan, batch: int, device: str) -> RenderPlan:
    """Take over the batch that the generator was found to run with."""
    if batch != plan.batch:
        log.warning("%s: out of memory with %d patches a call; %d are run", device, plan.batch, batch)
    return replace(plan, batch=batch)


def keep_batch(prepared: Prepared) -> Prepared:
    """Go on with the batch that an unfinished render was begun with, where memory halved it then and would not now."""
    half = -(-prepared.plan.batch // 2)
    before = recorded(prepared.job.scratch.path).get("inputs", {}).get("--batch")
    if prepared.options.fresh or before != str(half):
        return prepared
    model = prepared.job.model
    if isinstance(model, Halving):  # it was tried with the whole batch
        seen = model.rehearsed
        model = Halving(model.model, replace(seen, same_places=seen.same_places and seen.same_halves))
    job = replace(prepared.job, plan=replace(prepared.plan, batch=half), model=model)
    return replace(prepared, job=job)


def settle(prepared: Prepared, facts: WorkerFacts) -> Prepared:
    """Complete a plan by what a worker says of itself: device, batch, memory."""
    from safron.engine.execution.dask_worker import remote_model

    plan, job = prepared.plan, prepared.job
    plan = with_batch(replace(plan, batch=facts.planned), facts.batch, facts.device)
    model = remote_model(job.model, facts)
    job = Job(plan, job.mask, model, job.scratch)
    each = process_bytes(job, model, resident=facts.resident, blocks=facts.blocks)
    return with_processes(replace(prepared, job=job), each)


def _region(region: tuple[int, int, int, int] | None, canvas: Window) -> Window:
    if region is None:
        return canvas
    x, y, width, height = region
    window = Window(y, x, max(0, height), max(0, width))
    if width < 1 or height < 1 or window.clip(canvas) != window:
        raise BadInput(
            f"--region {x},{y},{width},{height}: must be X,Y,W,H inside the mask of {canvas.width} x {canvas.height} px"
        )
    return window


def _slide_spec(
    region: Window,
    mpp: float | None,
    flavor: Any,
    options: RenderOptions,
    model: PatchModel,
    tile: int,
    scale: Scale,
) -> SlideSpec:
    """Say what the slide is; nothing here may depend on how the work is cut up or shared out."""
    height, width = region.height, region.width
    pyramid = choose_pyramid(
        height,
        width,
        tile=options.tiff_tile,
        level_count=options.level_count,
        flavor=flavor,
        compression=options.compression,
    )
    if options.align:
        step = 1 << (pyramid.level_count - 1)
        height, width = -(-height // step) * step, -(-width // step) * step
    metadata = {
        "Generator": model.card.name,
        "Generator version": model.card.version,
        "Generator SHA-256": model.sha256,
        "Generator licence": model.card.licence,
        "Seed": options.seed,
        "Patch tile": tile,
        "Patch overlap": options.overlap,
        "Taper": options.taper,
        "Mask region XYWH": f"{region.x} {region.y} {region.width} {region.height}",
        "Synthetic": "yes, made from a mask; not for diagnosis",
    }
    if not scale.is_one:
        metadata["Generator um per pixel"] = f"{model.card.mpp:g}"
        metadata["Generator pixels per pixel"] = str(scale.ratio)
    return SlideSpec(
        height=height,
        width=width,
        mpp=mpp,
        level_count=pyramid.level_count,
        flavor=flavor,
        compression=options.compression,
        quality=options.quality,
        chroma=options.chroma,
        tile=pyramid.tile,
        background=model.card.background,
        software=f"safron {version('safron')}",
        metadata=tuple((key, str(value)) for key, value in metadata.items()),
    )
