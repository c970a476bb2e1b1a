"""Can this render be done, and how? Everything that can be refused without reading a pixel is refused here."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from safron.engine.execution.call_timer import first_call
from safron.engine.execution.device_queue import BUFFERS
from safron.engine.execution.patch_pool import batches_held
from safron.engine.execution.tasks import Job
from safron.engine.generator.card import Card
from safron.engine.generator.model import GeneratorInfo, PatchModel, load_model
from safron.engine.generator.planes import card_specs
from safron.engine.generator.warm_up import WarmUp, choose_batch, warm_up
from safron.engine.plan.blocks import DEFAULT_BLOCK, choose_block
from safron.engine.plan.fixed_point import prediction_bits
from safron.engine.plan.render_plan import Passes, RenderPlan, choose_bits, make_grid
from safron.engine.plan.scale import ONE, choose_scale
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import recorded
from safron.engine.system.gpus import GPU_BLOCKS, process_blocks
from safron.engine.system.memory import resident_bytes, usable_cores
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.remote import Target
from safron.io.slides.spec import check_mpp, check_tile

from .budget import (
    DASK_BYTES,
    LATE_BYTES,
    Budget,
    check_memory,
    process_budget,
    reserved_bytes,
    worker_budget,
)
from .options import RenderOptions, workers_of
from .output_paths import check_paths, choose_flavor, open_scratch
from .pictures import check_scale, choose_image
from .placement import blocks_elsewhere, check_placing, choose_where, choose_workers, takes_dask
from .prepared import Prepared
from .slide_facts import arithmetic, slide_spec, stained
from .styles import choose_stain, choose_style

if TYPE_CHECKING:
    from safron.engine.execution.dask_worker import WorkerFacts

log = logging.getLogger("safron")


def prepare(source: Any, out: str | Path, options: RenderOptions, *, dry_run: bool = False) -> Prepared:
    """Check a request and plan the render; nothing is written.

    If other processes render, only the generator's file is checked here, and `settle` completes the plan when a worker has
    run it. A dry run starts no worker: memory is then estimated from this process.
    """
    target = Target.of(out, folder=options.scratch)
    _check_options(source, target, options)
    model = load_generator(options)
    mask = _open_mask(source, options, model)
    where = choose_where(options, mask, model)
    chosen = options.workers is None
    options = replace(options, workers=choose_workers(options, where, model.device))
    info, plan = _plan(mask, target, options, model)
    job = Job(plan, mask, info, open_scratch(target, options.scratch))
    if where == "threads":
        return _prepare_threads(target, options, model, job, chosen=chosen)
    processes = workers_of(options) if where == "processes" else 0
    budget = Budget(driver=resident_bytes() + LATE_BYTES, processes=processes)
    at_a_time = blocks_elsewhere(options, where)
    prepared = Prepared(target, options, model, job, budget, where, at_a_time=at_a_time)
    return _foresee_workers(prepared) if dry_run else prepared


def plan_only(source: Any, target: Target, options: RenderOptions, model: PatchModel) -> RenderPlan:
    """Plan a render that is not to be done: what its slide would say of itself can be read there."""
    return _plan(_open_mask(source, options, model), target, options, model)[1]


def _open_mask(source: Any, options: RenderOptions, model: PatchModel) -> LabelMask:
    return open_mask(
        source,
        palette=model.card.palette,
        palette_tolerance=options.palette_tolerance,
        beside=_beside(model, options),
    )


def _plan(
    mask: LabelMask, target: Target, options: RenderOptions, model: PatchModel
) -> tuple[GeneratorInfo, RenderPlan]:
    info = with_sampler(GeneratorInfo.of(model), options)
    info = with_chosen_inputs(info, model, mask, options)
    plan = plan_render(mask, info, target, options)
    return info, replace(plan, slide=replace(plan.slide, mask_content=_content(mask)))


def _check_options(source: Any, target: Target, options: RenderOptions) -> None:
    """Refuse what can be refused before the generator and the mask are opened."""
    if options.flavor is None:
        choose_flavor(target)
    check_paths(source, target, options)
    check_tile(options.tiff_tile, "--tiff-tile")
    check_mpp(options.mpp)
    check_placing(options)


def load_generator(options: RenderOptions) -> PatchModel:
    """Load the generator; on the CPU if other processes will run it, since this one then needs only its card."""
    elsewhere = (
        options.executor == "processes" or options.scheduler is not None or options.cluster is not None
    )
    return load_model(
        options.model,
        device="cpu" if elsewhere else options.device,
        threads=options.threads,
        precision="float32" if elsewhere else options.precision,
        runtime="onnxruntime" if elsewhere else options.runtime,
    )


def _beside(model: PatchModel, options: RenderOptions) -> dict[str, Any]:
    """Give the sources of planes that belong to the mask; refuse those that the generator does not take."""
    given = {"instances": options.instances, "edges": None if options.edges == "mask" else options.edges}
    found = {name: source for name, source in given.items() if source is not None}
    if found and model.card.edges is None:
        raise BadInput(
            f"--{next(iter(found))}: generator {model.card.name!r} takes no edges; leave it out, or choose another --model"
        )
    if model.card.edges and model.card.edges.of == "image" and "edges" not in found:
        raise BadInput(
            f"generator {model.card.name!r} takes edges of a real picture, which a mask does not have: give them as --edges; "
            "safron-mask edges finds those of a slide"
        )
    return found


def _content(mask: LabelMask) -> str:
    """Hash a mask; nothing for an array of this process, and for storage that does not list its files."""
    with suppress(OSError):
        return "" if mask.in_memory else mask.fingerprint()
    return ""


def _edge_content(mask: LabelMask) -> str:
    """What decides the edges beside the labels: all files of the mask; nothing where there are only labels."""
    if not mask.beside:
        return ""
    with suppress(OSError):  # storage that does not list its files
        return f"{', '.join(mask.beside)} of {mask.fingerprint()}"
    return f"{', '.join(mask.beside)} of {mask.source}"


def _prepare_threads(
    target: Target, options: RenderOptions, model: PatchModel, job: Job, *, chosen: bool
) -> Prepared:
    """Run the generator a few times in this process, and project the memory of the render.

    Blocks in flight that were `chosen` for a GPU are fewer where memory is short.
    """
    process = resident_bytes() + LATE_BYTES

    def planned(blocks: int, tried: WarmUp | None = None) -> Budget:
        batches, calls = (BUFFERS if job.model.on_gpu else blocks), 0
        if tried is not None:
            batches, calls = batches_held(tried.info, blocks)
        budget = process_budget(job, process=process, blocks=blocks, batches=batches, memory=options.memory)
        return budget if tried is None else replace(budget, generator=tried.bytes_of(calls))

    def fitting(blocks: int, tried: WarmUp | None = None) -> int:
        while chosen and blocks > GPU_BLOCKS and planned(blocks, tried).total > options.memory:
            blocks -= 1
        return blocks

    workers = fitting(workers_of(options))
    check_memory(planned(workers), job.plan, options)  # before the warm-up allocates any of it
    # A limit on the time of a call is meant for one patch.
    joining = options.patch_timeout is None
    tried = first_call(lambda: warm_up(model, job.model, job.plan, joining=joining), options.patch_timeout)
    workers = fitting(workers, tried)
    options, budget = replace(options, workers=workers), planned(workers, tried)
    reserved = reserved_bytes(budget, job, workers=workers)
    job = _with_batch(replace(job, model=tried.info), tried.batch, fresh=options.fresh)
    side_by_side = 1 if tried.info.on_gpu else min(tried.info.calls or workers, usable_cores())
    seconds = job.plan.patches * tried.patch_seconds / side_by_side
    cores = job.plan.patches * tried.core_seconds / side_by_side
    dask, with_dask = takes_dask(options, job.plan, cores), replace(budget, process=process + DASK_BYTES)
    if dask and options.executor == "auto" and options.dashboard is None:  # nobody asked for it
        dask = with_dask.total <= options.memory
    budget = with_dask if dask else budget
    return Prepared(target, options, model, job, budget, "threads", reserved, workers, seconds, dask)


def _foresee_workers(prepared: Prepared) -> Prepared:
    """Estimate the memory of worker processes from what this process takes after a warm-up."""
    job, blocks = prepared.job, process_blocks(prepared.options.device)
    first_call(lambda: warm_up(prepared.model, job.model, job.plan), prepared.options.patch_timeout)
    each = worker_budget(job, resident=resident_bytes(), blocks=blocks)
    return replace(prepared, budget=prepared.budget.with_workers(each))


def settle(prepared: Prepared, facts: WorkerFacts, *, width: int) -> Prepared:
    """Complete a plan by what a worker reports: device, batch size and memory.

    Parameters
    ----------
    prepared
        A plan for other processes.
    facts
        Report of one worker; all are taken to be alike.
    width
        Tasks that all workers together run at a time.
    """
    job = prepared.job
    # Card and hash are those of the driver's file, which workers must have too; the rest is known only to the worker.
    info = replace(facts.info, card=job.model.card, sha256=job.model.sha256)
    slide = replace(job.plan.slide, metadata=job.plan.slide.metadata + arithmetic(info))
    job = replace(job, plan=replace(job.plan, batch=facts.planned, slide=slide), model=info)
    job = _with_batch(job, facts.batch, fresh=prepared.options.fresh)
    each = worker_budget(job, resident=facts.resident, blocks=facts.blocks)
    return replace(
        prepared,
        job=job,
        budget=prepared.budget.with_workers(each),
        at_a_time=prepared.at_a_time or width,
    )


def _with_batch(job: Job, batch: int, *, fresh: bool) -> Job:
    """Set the batch size: the one for which the warm-up found memory, or half of it if an unfinished render has that.

    A resumed render keeps its batch size even if there is more memory now, because a GPU may round differently with another.
    """
    plan, info = job.plan, job.model
    if batch != plan.batch:
        log.warning("%s: out of memory with a batch size of %d; %d is used", info.device, plan.batch, batch)
    half = -(-batch // 2)
    before = recorded(job.scratch.path).get("inputs", {}).get("--batch")
    if before == str(half) and not fresh:
        batch = half
        # The warm-up ran the whole batch.
        info = replace(info, same_places=info.same_places and info.same_halves)
    return replace(job, plan=replace(plan, batch=batch), model=info)


def with_chosen_inputs(
    info: GeneratorInfo, model: PatchModel, mask: LabelMask, options: RenderOptions
) -> GeneratorInfo:
    """Put on the card what is chosen for this render: the style, and the picture to refine.

    Raises
    ------
    BadInput
        One is missing, cannot be used, or is not for this generator.
    """
    card = choose_style(info.card, options.style, getattr(model, "path", Path()).parent)
    return replace(info, card=choose_image(card, options.image, mask.shape))


def plan_render(mask: LabelMask, info: GeneratorInfo, target: Target, options: RenderOptions) -> RenderPlan:
    """Decide grid, scale, slide and blocks."""
    card, canvas, taper = info.card, Window(0, 0, *mask.shape), Taper(options.taper)
    tile = card.tile if options.tile is None else options.tile
    mpp = mask.mpp if options.mpp is None else options.mpp
    scale = ONE if options.scale == "1" else choose_scale(mpp, card.mpp)
    check_scale(card, scale)
    grid = make_grid(
        height=scale.drawn(canvas.height),
        width=scale.drawn(canvas.width),
        tile=tile,
        overlap=options.overlap,
        context=card.context,
    )
    card.require_tile(tile)
    region = _region(options.region, canvas)
    flavor = options.flavor or choose_flavor(target)
    stain = choose_stain(card, options)
    slide = slide_spec(region, card.mpp if mpp is None else mpp, flavor, options, info, tile, scale)
    if stain is not None:
        slide = stained(slide, stain)
    return RenderPlan(
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
            most=_most_block(card, options, min(grid.height, grid.width)),
        ),
        batch=choose_batch(options.batch, info),
        bits=prediction_bits(grid, taper)
        if card.sampler
        else choose_bits(grid, taper, returns_uint8=info.returns_uint8),
        seed=options.seed,
        planes=card_specs(card, _edge_content(mask) if card.edges else ""),
        stain=stain,
        passes=_passes(card, options),
    )


def with_sampler(info: GeneratorInfo, options: RenderOptions) -> GeneratorInfo:
    """Let the options change the steps and the guidance of a sampler.

    Raises
    ------
    BadInput
        The generator is no sampler, or not one for these options.
    """
    sampler = info.card.sampler
    if sampler is None:
        for name, value in (("--steps", options.steps), ("--guidance", options.guidance)):
            if value is not None:
                raise BadInput(
                    f"{name} {value:g}: generator {info.card.name!r} makes its picture in one call and has no steps; leave the option out"
                )
        return info
    sampler = sampler.with_steps(options.steps, options.guidance)
    return replace(info, card=replace(info.card, sampler=sampler))


def _passes(card: Card, options: RenderOptions) -> Passes | None:
    """Decide the passes of a sampler."""
    if card.sampler is None:
        return None
    return Passes(
        steps=len(card.sampler.times),
        channels=card.sampler.channels,
        state=options.state,
        alignment=card.alignment,
        content=msgspec.json.encode(card.sampler).decode(),
    )


def _most_block(card: Card, options: RenderOptions, shorter: int) -> int:
    """Return the side of a block that is usual on a canvas whose `shorter` side has so many drawn pixels.

    Of a sampler's running picture two copies are in scratch where blocks are in flight, and beside them. In float32 that must
    not be most of the canvas.
    """
    if card.sampler is None or options.state != "float32":
        return DEFAULT_BLOCK
    return min(DEFAULT_BLOCK, shorter // 6)


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
