"""Can this render be done, and how? Everything that can be refused without reading a pixel is refused here."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safron.engine.execution.device_queue import BUFFERS, RUNNERS, shares_batches
from safron.engine.execution.tasks import Job
from safron.engine.execution.workers import Placement
from safron.engine.generator.halving import Halving
from safron.engine.generator.model import PatchModel, load_model
from safron.engine.generator.trial import choose_batch, try_model
from safron.engine.plan.blocks import choose_block
from safron.engine.plan.render_plan import SEAMS_KEPT, RenderPlan, choose_bits, make_grid
from safron.engine.plan.taper import Taper
from safron.engine.plan.window import Window
from safron.engine.scratch.arrays import SYNC_BYTES, Scratch, recorded
from safron.engine.scratch.completion import Finished
from safron.engine.scratch.lock import lock_path
from safron.engine.system.gpus import GPU_BLOCKS, process_blocks, visible_gpus
from safron.engine.system.memory import LARGEST, resident_bytes, usable_cores
from safron.io.errors import BadInput
from safron.io.files import waiting_name
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.remote import Target, check_address, check_folder, is_url
from safron.io.slides.pyramid import Pyramid
from safron.io.slides.spec import check_tile
from safron.io.slides.writer import SlideSpec

from .options import RenderOptions

if TYPE_CHECKING:
    from safron.engine.execution.dask_worker import ModelSource, WorkerFacts

log = logging.getLogger("safron")

# Code and buffers of Zarr, Dask and the writer that are not there yet when a plan is made, measured.
LATE_BYTES = 96 << 20
WORKERS = 2
# What a process with a GPU takes, roughly: CUDA's libraries, a generator, its blocks.
GPU_PROCESS_BYTES = 2 << 30

Where = Literal["threads", "processes", "cluster"]


@dataclass(frozen=True)
class Prepared:
    """A render that passed every check that needs no pixel.

    Attributes
    ----------
    target : the slide to make.
    options : as given.
    job : plan, mask, generator and scratch.
    projected_bytes : upper bound on resident memory, of this process and of workers on this machine.
    where : who runs the tasks: threads of this process, processes of this machine, or a cluster.
    heap_bytes : memory that this process takes before the first block; 0 where others do the work.
    at_a_time : blocks in work at a time, in all processes; None where a scheduler has not said how many workers it has.
    """

    target: Target
    options: RenderOptions
    job: Job
    projected_bytes: int
    where: Where
    heap_bytes: int = 0
    at_a_time: int | None = None

    @property
    def plan(self) -> RenderPlan:
        """The plan."""
        return self.job.plan

    @property
    def scratch_bytes(self) -> int:
        """Upper bound on the disk that scratch takes at one time; for one block in work where it is not known how many."""
        return self.plan.scratch_bytes(at_a_time=self.at_a_time or 1)

    @property
    def warnings(self) -> list[str]:
        """What is allowed and probably not meant."""
        notes = [f"mask {self.job.mask.source}: {note}" for note in self.job.mask.notes]
        card, grid = self.job.model.card, self.plan.grid
        if grid.overlap and grid.rows.stride % card.alignment:
            nearest = grid.overlap + grid.rows.stride % card.alignment
            notes.append(
                f"--overlap {grid.overlap}: patches lie {grid.rows.stride} px apart, and those of generator {card.name!r} "
                f"agree only at multiples of {card.alignment}: expect faint seams; try --overlap {nearest}"
            )
        return notes


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
    grid = make_grid(
        height=mask.shape[0], width=mask.shape[1], tile=tile, overlap=options.overlap, context=card.context
    )
    card.require_tile(tile)
    taper = Taper(options.taper)
    region = _region(options.region, grid.canvas)
    mpp = next((value for value in (options.mpp, mask.mpp, card.mpp) if value is not None), None)
    slide = _slide_spec(region, mpp, flavor, options, model, grid.tile)
    plan = RenderPlan(
        grid=grid,
        taper=taper,
        region=region,
        slide=slide,
        block=choose_block(options.block, tile=tile, slide_tile=options.tiff_tile),
        batch=choose_batch(options.batch, model),
        bits=choose_bits(grid, taper, integral=model.integral),
        seed=options.seed,
        noise_scales=card.noise_scales,
    )
    scratch = open_scratch(target, options.scratch)
    job = Job(plan, mask, model, scratch)
    if where != "threads":
        at_a_time = _blocks_elsewhere(options, where)
        prepared = Prepared(target, options, job, resident_bytes() + LATE_BYTES, where, at_a_time=at_a_time)
        return _foreseen(prepared) if dry_run else prepared
    chunks = mask.keep_chunks(block=plan.block, workers=workers)
    kept = SEAMS_KEPT * plan.seam_bytes + chunks + workers * plan.worker_bytes()
    before, batch = resident_bytes() + LATE_BYTES, plan.batch_bytes(integral=model.integral)
    on_device = not model.device.startswith("cpu")
    if on_device:
        model = Halving(model)
    batches = BUFFERS if on_device else workers
    check_memory(before + with_gaps(kept + batches * batch), plan, options)  # before the trial takes some
    trial = try_model(model, plan)
    batches, calls = (BUFFERS, RUNNERS) if shares_batches(model) else (workers, workers)
    working = with_gaps(kept + batches * batch)
    projected = before + working + calls * trial.added_bytes
    job = Job(with_batch(plan, trial.batch, model.device), mask, model, scratch)
    # The C library maps what is very large by itself.
    own = chunks if prod(mask.chunks) * mask.plane.dtype.itemsize > LARGEST else 0
    return Prepared(
        target, options, job, projected, where, _heap_bytes(working - with_gaps(own), plan, workers), workers
    )


def _foreseen(prepared: Prepared) -> Prepared:
    """Project the memory of processes that are not started, from what this one takes after a trial."""
    job, options = prepared.job, prepared.options
    try_model(job.model, job.plan)
    blocks = process_blocks(options.device)
    each = _process_bytes(job, job.model, resident=resident_bytes(), blocks=blocks)
    return _with_processes(prepared, each)


def _process_bytes(job: Job, model: PatchModel, *, resident: int, blocks: int) -> int:
    """Upper bound on what a process takes that has so many blocks in work, and takes `resident` before."""
    plan = job.plan
    batches = BUFFERS if shares_batches(model) else blocks
    working = blocks * plan.worker_bytes() + batches * plan.batch_bytes(integral=model.integral)
    kept = SEAMS_KEPT * plan.seam_bytes + job.mask.keep_chunks(block=plan.block, workers=blocks)
    return resident + LATE_BYTES // 2 + with_gaps(working + kept)


def with_gaps(nbytes: int) -> int:
    """Add an eighth for what arrays of different sizes leave between them in the heap: 6 % after 2,400 blocks."""
    return nbytes * 9 // 8


def _with_processes(prepared: Prepared, each: int) -> Prepared:
    """Add what other processes of this machine take, and hold the sum against the budget."""
    if prepared.where == "processes":
        projected = prepared.projected_bytes + workers_of(prepared.options) * each
    else:
        projected = max(prepared.projected_bytes, each)
    check_memory(projected, prepared.job.plan, prepared.options)
    return replace(prepared, projected_bytes=projected)


def _heap_bytes(working: int, plan: RenderPlan, workers: int) -> int:
    """How much heap a render works with at most."""
    image = 3 * plan.block**2
    apart = workers * image if image > LARGEST else 0
    rows, columns = plan.block_shape
    busy = min(1.0, rows * columns / workers)
    return int(busy * (working - apart)) + SYNC_BYTES


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


def check_placing(options: RenderOptions) -> None:
    """Refuse options that say different things of who runs the tasks."""
    given = [name for name in ("scheduler", "cluster") if getattr(options, name) is not None]
    if len(given) > 1:
        raise BadInput("--scheduler and --cluster: both say where the workers are; give one of them")
    if given and options.executor != "auto":
        raise BadInput(
            f"--executor {options.executor}: --{given[0]} says where the workers are; leave one of them out"
        )
    for name in ("cluster", "security"):
        file = getattr(options, name)
        if file is not None and not Path(file).is_file():
            raise BadInput(f"--{name} {file}: no such file")
    if options.security is not None and not given and options.executor != "processes":
        raise BadInput(
            "--security: nothing is sent over a network by threads; add --executor processes, or leave it out"
        )
    if options.dashboard is not None:
        _check_dashboard(options.dashboard, joined=options.scheduler is not None)


def _check_dashboard(address: str, *, joined: bool) -> None:
    from importlib.util import find_spec

    host, colon, port = address.rpartition(":")
    if not (colon and host and port.isdecimal()):
        raise BadInput(f"--dashboard {address}: must be HOST:PORT, as 127.0.0.1:8787")
    if joined:
        raise BadInput(f"--dashboard {address}: the scheduler of --scheduler has its own; leave it out")
    if find_spec("bokeh") is None:
        raise BadInput(f"--dashboard {address}: needs bokeh: pip install 'safron[cluster]'")


def choose_where(options: RenderOptions, mask: LabelMask, model: PatchModel) -> Where:
    """Say who runs the tasks.

    Threads of one process share one generator and its GPU, and start at once; processes have a GPU each.
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


def choose_workers(options: RenderOptions, where: Where, device: str) -> int:
    """Blocks in work at a time, or processes: as given, else enough to keep what runs the patches busy."""
    if options.workers is not None:
        return options.workers
    if where == "threads":
        return GPU_BLOCKS if device.startswith("cuda") else WORKERS
    gpus = len(visible_gpus()) if options.device in ("auto", "cuda") else 0
    return max(WORKERS, min(gpus, options.memory // GPU_PROCESS_BYTES))


def workers_of(options: RenderOptions) -> int:
    """`RenderOptions.workers` of a prepared render, or of commands that have prepared none."""
    return WORKERS if options.workers is None else options.workers


def _blocks_elsewhere(options: RenderOptions, where: Where) -> int | None:
    """Blocks in work at a time in other processes; None where only a scheduler can say."""
    if where == "processes":
        return workers_of(options) * process_blocks(options.device)
    if options.cluster is None:
        return None
    from safron.engine.execution.batch_system import job_blocks

    return job_blocks(Path(options.cluster))


def placement_of(options: RenderOptions) -> Placement:
    """Say where the workers of other processes are."""
    return Placement(
        workers=workers_of(options),
        device=options.device,
        scheduler=options.scheduler,
        cluster=options.cluster,
        security=options.security,
        dashboard=options.dashboard,
    )


def model_source(prepared: Prepared) -> ModelSource:
    """Say how worker processes come to the generator."""
    from safron.engine.execution.dask_worker import ModelSource

    options, model = prepared.options, prepared.options.model
    if isinstance(model, str | Path):
        model = str(Path(model).absolute()) if Path(model).is_file() else str(model)
    # A worker process sees the one GPU that is its own.
    device = options.device.partition(":")[0] if prepared.where == "processes" else options.device
    threads = options.threads
    if prepared.where == "processes" and not threads:
        threads = max(1, usable_cores() // workers_of(options))
    return ModelSource(model, device, threads, options.precision)


def settle(prepared: Prepared, facts: WorkerFacts) -> Prepared:
    """Complete a plan by what a worker says of itself: device, batch, memory."""
    from safron.engine.execution.dask_worker import remote_model

    plan, job = prepared.plan, prepared.job
    plan = with_batch(replace(plan, batch=facts.planned), facts.batch, facts.device)
    model = remote_model(job.model, facts)
    job = Job(plan, job.mask, model, job.scratch)
    each = _process_bytes(job, model, resident=facts.resident, blocks=facts.blocks)
    return _with_processes(replace(prepared, job=job), each)


def scratch_path(target: Target, folder: str | Path | None) -> Path:
    """Where scratch lies: beside the slide, or in a folder that slides of the same name may share."""
    out = target.local
    if folder is None or is_url(folder) or target.url is not None:
        return out.absolute().with_name(f"{out.name}.safron")
    return Path(folder).absolute() / f"{out.name}.{_place_of(out)}.safron"


def open_scratch(target: Target, folder: str | Path | None) -> Scratch:
    """Say where the parts of scratch lie; nothing is opened yet."""
    path = scratch_path(target, folder)
    if folder is None or not is_url(folder):
        return Scratch(path)
    return Scratch(path, f"{str(folder).rstrip('/')}/{target.local.name}.{_place_of(target.local)}.safron")


def _place_of(out: Path) -> str:
    """Tell slides of one name in different folders apart."""
    return sha256(str(out.parent.resolve()).encode()).hexdigest()[:8]


def choose_flavor(target: Target) -> Literal["svs", "ome", "generic"]:
    """Return the flavor that goes with a file name."""
    name = target.file_name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    if name.endswith((".svs", ".tif", ".tiff")):
        return "svs"
    raise BadInput(f"{target.name}: a slide's name must end in .svs, .tif, .tiff, .ome.tif or .ome.tiff")


def check_outputs(source: Any, target: Target, options: RenderOptions) -> None:
    """Raise `BadInput` unless the slide, its preview and its report can be put where they should."""
    scratch = open_scratch(target, options.scratch)
    _check_length(target.name, target.part, scratch.path, lock_path(target.local))
    for name, path in (("--preview ", options.preview), ("--report ", options.report)):
        if path is not None:
            _check_length(f"{name}{path}", waiting_name(path))
    if isinstance(source, str | Path) and str(source):
        check_apart(
            source,
            ("", target.url or target.local),
            ("", target.part),
            ("--preview ", options.preview),
            ("--report ", options.report),
            ("--scratch " if options.scratch else "", scratch.store or scratch.path),
        )
        if _place(scratch.path) in _place(source).parents:
            raise BadInput(
                f"mask {source}: lies in {scratch.path}, the scratch of {target.name}; move it away"
            )
    finished = Finished.of(target, scratch.path)
    # What the run that finished the slide was told to write may stand there already.
    known = {} if finished is None or options.fresh else finished.report["options"]
    check_target(target, overwrite=options.overwrite or bool(known))
    given = (
        ("", None if target.url else target.local),
        ("--preview ", options.preview),
        ("--report ", options.report),
    )
    names: dict[Path, str] = {}
    for name, path in given:
        if path is None:
            continue
        if name:
            ours = str(path) == known.get(name.strip("- "))
            check_output_path(path, overwrite=options.overwrite or ours, name=name)
        if path.absolute() in names:
            raise BadInput(f"{name}{path}: is {names[path.absolute()] or 'OUT'}, too; give another name")
        names[path.absolute()] = name.strip()


def check_apart(source: str | Path, *given: tuple[str, str | Path | None]) -> None:
    """Refuse to write over a mask, or into the folder that it is; what is written goes by an option's name and a path."""
    mask = _place(source)
    for name, path in given:
        if path is None:
            continue
        place = _place(path)
        if place == mask or (place.is_file() and mask.is_file() and place.samefile(mask)):
            raise BadInput(f"{name}{path}: is the mask itself; give another name")
        if mask in place.parents:
            raise BadInput(f"{name}{path}: lies in the mask {source}; choose another folder")


def _place(name: str | Path) -> Path:
    """Tell where a path leads to; addresses are compared as they are."""
    text = str(name).removeprefix("file://")
    return Path(text if is_url(text) else os.path.realpath(text))


def _check_length(given: str, *paths: Path) -> None:
    """Refuse a name that leaves no room for what we add to it while the file is unfinished."""
    over = max(len(os.fsencode(path.name)) - _longest_name(path.parent) for path in paths)
    if over > 0:
        raise BadInput(f"{given}: its name is too long for the unfinished file's; shorten it by {over} bytes")


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is not there
        return 255


def check_target(target: Target, *, overwrite: bool) -> None:
    """Raise `BadInput` unless the slide can be put where it should."""
    if target.url is None:
        check_output_path(target.local, overwrite=overwrite)
    else:
        check_address(target, overwrite=overwrite)


def check_output_path(out: Path, *, overwrite: bool, name: str = "") -> None:
    """Raise `BadInput` unless a file can be put there; `name` is the option that asks for it."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise BadInput(f"{name}{out}: folder {folder} does not exist; make it first")
    if out.is_dir():
        raise BadInput(f"{name}{out}: is a folder; give the name of a file")
    dangling = out.is_symlink() and not out.exists()
    if (out.is_file() or dangling) and not overwrite:
        raise BadInput(f"{name}{out}: exists already; pass --overwrite to replace it")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(
            f"{name}{out}: folder {folder} cannot be written to; choose another or change its permissions"
        )
    if out.exists() and not os.access(out, os.W_OK):
        raise BadInput(f"{name}{out}: cannot be written to; give another name or change its permissions")


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
    region: Window, mpp: float | None, flavor: Any, options: RenderOptions, model: PatchModel, tile: int
) -> SlideSpec:
    """Say what the slide is; nothing here may depend on how the work is cut up or shared out."""
    height, width = region.height, region.width
    levels = Pyramid.auto(height, width, options.tiff_tile, options.level_count).level_count
    if options.align:
        step = 1 << (levels - 1)
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
    return SlideSpec(
        height=height,
        width=width,
        mpp=mpp,
        level_count=levels,
        flavor=flavor,
        compression=options.compression,
        quality=options.quality,
        chroma=options.chroma,
        tile=options.tiff_tile,
        background=model.card.background,
        software=f"safron {version('safron')}",
        metadata=tuple((key, str(value)) for key, value in metadata.items()),
    )


def check_budget(prepared: Prepared) -> None:
    """Refuse a plan over the memory budget or over the free disk, with both numbers."""
    plan, options = prepared.plan, prepared.options
    check_memory(prepared.projected_bytes, plan, options)
    target, part = prepared.target, prepared.target.part
    written = part.stat().st_size if part.is_file() else 0
    # The cache folder is made when it is needed; until then what stands above it tells of the disk.
    ours = target.url is not None and (options.scratch is None or is_url(options.scratch))
    scratch = 0 if prepared.job.scratch.store else prepared.scratch_bytes
    needs: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for folder, need in (
        (part.absolute().parent, max(0, plan.output_bytes() - written)),
        (prepared.job.scratch.path.parent, scratch),
    ):
        while ours and not folder.is_dir():
            folder = folder.parent
        if not folder.is_dir():
            raise BadInput(f"--scratch {folder}: no such folder; make it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise BadInput(f"--scratch {folder}: cannot be written to; choose another folder")
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
