"""How does a mask become a slide?

`render` joins the parts: open, load, plan, scan, check, run, join. Everything that can be refused is
refused before the first patch runs, and the slide appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import psutil
from safron.io.bigtiff import HEADER_BYTES, header
from safron.io.codecs import EncodedTile, encode_region
from safron.io.errors import BadInput, Failed
from safron.io.labels import open_mask
from safron.io.pyramid import Pyramid, halve
from safron.io.slides import SlideSpec, SlideWriter

from .execute import Runner, Task, local_runner
from .lock import run_lock
from .model import PatchModel, load_model
from .options import RenderOptions
from .plan import SCAN_BLOCK, RenderPlan, choose_bits, choose_block, make_grid
from .report import RenderReport
from .scratch import Entry, Journal, Scratch, disk_errors, read_journal, require_same
from .taper import Taper
from .tasks import Job, Scanned, TaskDone, block_task, listening, scan_block, seam_task
from .window import Window

# Making blocks durable costs three disk flushes; cheap blocks share them, a second or so many bytes at a time.
SYNC_SECONDS = 1.0
SYNC_BYTES = 32 << 20
# Code and buffers of Zarr, Dask and the writer that are not there yet when a plan is made, measured.
LATE_BYTES = 96 << 20


@dataclass(frozen=True)
class Prepared:
    """A render that passed every check that needs no pixel.

    Attributes
    ----------
    out : the slide to make.
    options : as given.
    job : plan, mask, generator and scratch.
    projected_bytes : upper bound on resident memory.
    """

    out: Path
    options: RenderOptions
    job: Job
    projected_bytes: int

    @property
    def plan(self) -> RenderPlan:
        """The plan."""
        return self.job.plan


@dataclass(frozen=True)
class Scan:
    """What the mask holds, as far as a render is concerned.

    Attributes
    ----------
    sha256 : of all labels that the render reads.
    painted : patches that need no generator.
    """

    sha256: str
    painted: int


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


def prepare(source: Any, out: Path, options: RenderOptions) -> Prepared:
    """Check what was asked for and plan it; nothing is written."""
    flavor = options.flavor or choose_flavor(out)
    check_outputs(source, out, options)
    for name, path in (("--preview", options.preview), ("--report", options.report)):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise BadInput(f"{name} {path}: its folder does not exist; make it first")
    if options.workers < 1 or options.threads < 0:
        raise BadInput(
            f"--workers {options.workers} must be at least 1 and --threads {options.threads} at least 0"
        )
    model = load_model(options.model, device=options.device, threads=options.threads)
    card = model.card
    mask = open_mask(source, palette=card.palette, palette_tolerance=options.palette_tolerance)
    tile = card.tile if options.tile is None else options.tile
    grid = make_grid(
        height=mask.shape[0], width=mask.shape[1], tile=tile, overlap=options.overlap, context=card.context
    )
    card.require_tile(tile)
    taper = Taper(options.taper)
    region = _region(options.region, grid.canvas)
    batch = (32 if model.device.startswith("cuda") else 1) if options.batch is None else options.batch
    if batch < 1:
        raise BadInput(f"--batch {options.batch}: must be at least 1")
    mpp = next((value for value in (options.mpp, mask.mpp, card.mpp) if value is not None), None)
    slide = _slide_spec(region, mpp, flavor, options, model, grid.tile)
    plan = RenderPlan(
        grid=grid,
        taper=taper,
        region=region,
        slide=slide,
        block=choose_block(
            options.block,
            tile=tile,
            slide_tile=options.tiff_tile,
            height=slide.height,
            width=slide.width,
            workers=options.workers,
        ),
        batch=batch,
        bits=choose_bits(grid, taper, integral=model.integral),
        seed=options.seed,
        noise_scales=card.noise_scales,
    )
    scratch = Scratch(scratch_path(out, options.scratch))
    projected = _resident() + LATE_BYTES + options.workers * plan.worker_bytes(integral=model.integral)
    check_memory(projected, plan, options)  # before the trial takes some
    projected += options.workers * try_model(model, plan)
    return Prepared(out, options, Job(plan, mask, model, scratch), projected)


def scratch_path(out: Path, folder: Path | None) -> Path:
    """Where scratch lies: beside the slide, or in a folder that slides of the same name may share."""
    if folder is None:
        return out.absolute().with_name(f"{out.name}.safron")
    place = sha256(str(out.parent.resolve()).encode()).hexdigest()[:8]
    return folder.absolute() / f"{out.name}.{place}.safron"


def choose_flavor(out: Path) -> Literal["svs", "ome", "generic"]:
    """Return the flavor that goes with a file name."""
    name = out.name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return "ome"
    if name.endswith((".svs", ".tif", ".tiff")):
        return "svs"
    raise BadInput(f"{out}: a slide's name must end in .svs, .tif, .tiff, .ome.tif or .ome.tiff")


def check_outputs(source: Any, out: Path, options: RenderOptions) -> None:
    """Raise `BadInput` unless the slide, its preview and its report can be put where they should."""
    given = (("", out), ("--preview ", options.preview), ("--report ", options.report))
    names: dict[Path, str] = {}
    for name, path in given:
        if path is None:
            continue
        check_output_path(path, overwrite=options.overwrite, name=name)
        if path.absolute() in names:
            raise BadInput(f"{name}{path}: is {names[path.absolute()] or 'OUT'}, too; give another name")
        names[path.absolute()] = name.strip()
        if (
            isinstance(source, str | Path)
            and path.is_file()
            and Path(source).is_file()
            and path.samefile(source)
        ):
            raise BadInput(f"{name}{path}: is the mask itself; give another name")


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


def try_model(model: PatchModel, plan: RenderPlan) -> int:
    """Run the generator once on an arbitrary label; return how much its buffers added to memory.

    A generator that cannot run, or returns the wrong shape or NaN, is found here and not hours later.

    Raises
    ------
    BadInput
        What the generator says where it fails.
    """
    before = _resident()
    side = plan.grid.tile + 2 * plan.grid.context
    labels = np.full((plan.batch, side, side), model.card.labels[0].value, np.uint8)
    noise = (
        np.zeros((plan.batch, len(plan.noise_scales), side, side), np.float32) if plan.noise_scales else None
    )
    try:
        model(labels, noise)
    except Failed as error:  # nothing has begun yet: it is what was asked for that does not work
        raise BadInput(str(error)) from error
    return max(0, _resident() - before)


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def scan_mask(job: Job, runner: Runner) -> Scan:
    """Look at every label once: refuse those the card does not know, count glass, fingerprint the mask.

    Raises
    ------
    BadInput
        At the first unknown label in raster order, with its value and place.
    """
    plan, card = job.plan, job.model.card
    if card.known.all() and not card.is_fill.any():
        return Scan(job.mask.stamp(), 0)  # nothing to find; a stamp tells a changed mask as well
    rows, columns = (len(axis) for axis in plan.axis_blocks(SCAN_BLOCK))
    order = ((row, column) for row in range(rows) for column in range(columns))
    total = sha256(f"{plan.grid.height} {plan.grid.width}".encode())
    painted, unknown = 0, None
    waiting: dict[tuple[int, int], Scanned] = {}
    expected = next(order)
    tasks = (
        Task(f"scan-{row}-{column}", scan_block, (job, (row, column)))
        for row in range(rows)
        for column in range(columns)
    )
    for _, unit in runner(tasks):
        waiting[unit.index] = unit
        while expected in waiting:
            unit = waiting.pop(expected)
            total.update(unit.digest)
            painted += unit.painted
            if unit.unknown is not None and (unknown is None or unit.unknown < unknown):
                unknown = unit.unknown
            expected = next(order, (-1, -1))
    if unknown is not None:
        y, x, value = unknown
        names = ", ".join(f"{label.value} {label.name}" for label in card.labels)
        raise BadInput(
            f"{job.mask.source}: label {value} at x={x}, y={y} is unknown to generator {card.name!r}, "
            f"which knows {names}; relabel the mask or choose another --model"
        )
    return Scan(total.hexdigest(), painted)


def check_budget(prepared: Prepared) -> None:
    """Refuse a plan over the memory budget or over the free disk, with both numbers."""
    plan, options = prepared.plan, prepared.options
    check_memory(prepared.projected_bytes, plan, options)
    part = _part(prepared.out)
    written = part.stat().st_size if part.is_file() else 0
    needs: dict[Path, int] = {}
    for folder, need in (
        (prepared.out.absolute().parent, max(0, plan.output_bytes() - written)),
        (prepared.job.scratch.path.parent, plan.scratch_bytes()),
    ):
        if not folder.is_dir():
            raise BadInput(f"--scratch {folder}: no such folder; make it first")
        needs[folder] = needs.get(folder, 0) + need
    for folder, need in needs.items():
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
            f"lower --workers {options.workers} or --block {plan.block}, or raise --memory"
        )


def _part(out: Path) -> Path:
    """The unfinished slide."""
    return out.with_name(f"{out.name}.part")


def _is_unfinished(part: Path) -> bool:
    """Whether nothing is lost by starting this file anew: it is missing, or a slide that no reader opens."""
    if not part.exists():
        return True
    with part.open("rb") as file:
        found = file.read(HEADER_BYTES)
    return header(0).startswith(found)


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def run(
    prepared: Prepared, scan: Scan, runner: Runner, *, progress: Callable[[int], None] | None = None
) -> RenderReport:
    """Run a prepared render, or what an interrupted run of it left to do, and join the slide."""
    start = time.perf_counter()
    check_budget(prepared)
    plan, scratch = prepared.plan, prepared.job.scratch
    inputs = plan.inputs(mask_sha256=scan.sha256, model_sha256=prepared.job.model.sha256)
    inputs |= {f"version of {name}": value for name, value in deciding_versions().items()}
    with run_lock(prepared.out), disk_errors(scratch.path):
        # Another render may have finished it since we looked.
        check_output_path(prepared.out, overwrite=prepared.options.overwrite)
        with closing(_State.open(prepared, inputs)) as state:
            if progress is not None:
                progress(state.run + state.painted)
            _run_blocks(prepared, state, runner, progress)
            preview = _finish_levels(plan, scratch, state.writer)
            if prepared.options.preview is not None:
                write_png(prepared.options.preview, preview)
            digest = state.writer.finish(prepared.out, preview, overwrite=prepared.options.overwrite)
        scratch.remove()
    report = _report(prepared, scan, state, digest, time.perf_counter() - start)
    assert report.run + report.painted == report.patches, report
    if prepared.options.report is not None:
        report.write(prepared.options.report)
    return report


class _State:
    """What is finished so far: the open slide, the journal, and counts over all runs of this render."""

    def __init__(
        self, plan: RenderPlan, scratch: Scratch, writer: SlideWriter, entries: Iterable[Entry]
    ) -> None:
        self.plan = plan
        self.scratch = scratch
        self.writer = writer
        self.done = np.zeros(plan.block_shape, bool)
        self.seamed = np.zeros(plan.block_shape, bool)
        self.run = self.painted = 0
        self.stages: dict[str, float] = {}
        for entry in entries:
            self._count(entry)
        self.resumed = int(self.done.sum())
        self._journal = Journal(scratch.journal)
        self._entries: list[Entry] = []
        self._tiles: list[EncodedTile] = []
        self._waiting_bytes = 0
        self._synced = time.monotonic()

    @classmethod
    def open(cls, prepared: Prepared, inputs: dict[str, str]) -> _State:
        """Continue the scratch of the same inputs, or start a new one."""
        plan, scratch = prepared.plan, prepared.job.scratch
        part, overwrite = _part(prepared.out), prepared.options.overwrite
        differences = scratch.differences(inputs)
        if differences and not overwrite:
            require_same(differences, scratch.path)
        if differences == [] and part.exists():
            entries = list(read_journal(scratch.journal))
            end = max((entry.end for entry in entries), default=0)
            try:
                writer = SlideWriter(part, scratch.index, plan.slide, resume_at=end or None)
            except BadInput as error:  # someone took or changed a file of the unfinished render
                if not overwrite:
                    raise BadInput(f"{error}: pass --overwrite") from error
            else:
                return cls(plan, scratch, writer, entries)
        if not (overwrite or _is_unfinished(part)):
            raise BadInput(f"{part}: exists and is no unfinished slide; move it away, or pass --overwrite")
        scratch.create(plan, inputs)
        return cls(plan, scratch, SlideWriter(part, scratch.index, plan.slide), [])

    def _count(self, entry: Entry) -> None:
        finished = self.done if entry.kind == "block" else self.seamed
        if not finished[entry.index]:
            finished[entry.index] = True
            self.run += entry.run
            self.painted += entry.painted

    def accept(self, result: TaskDone) -> None:
        """Take a finished task: append its tiles, journal it, free the seams that nobody needs any more."""
        for name, seconds in result.tally.seconds.items():
            self.stages[name] = self.stages.get(name, 0.0) + seconds
        entry = Entry(result.kind, result.index, result.tally.run, result.tally.painted)
        self._count(entry)
        self._entries.append(entry)
        self._tiles += result.tiles
        self._waiting_bytes += sum(len(tile.data) for tile in result.tiles if not tile.uniform)
        if time.monotonic() - self._synced >= SYNC_SECONDS or self._waiting_bytes >= SYNC_BYTES:
            self.sync()

    def sync(self) -> None:
        """Make everything accepted so far survive a crash."""
        start = time.perf_counter()
        end = self.writer.append(self._tiles)
        self._journal.append([replace(entry, end=end) for entry in self._entries])
        self.stages["write"] = self.stages.get("write", 0.0) + time.perf_counter() - start
        for entry in self._entries:
            if entry.kind == "block":
                self._free_seams(entry.index)
        self._entries.clear()
        self._tiles.clear()
        self._waiting_bytes = 0
        self._synced = time.monotonic()

    def _free_seams(self, index: tuple[int, int]) -> None:
        for source in self.plan.sources(index):
            if all(self.done[consumer] for consumer in self.plan.consumers(source)):
                for name in self.plan.block_plan(source).seams:
                    self.scratch.free_seam(source, name)

    def close(self) -> None:
        """Keep what is finished for the next run."""
        try:
            if self._entries:
                self.sync()
        finally:
            self._journal.close()
            self.writer.close()


def _run_blocks(
    prepared: Prepared, state: _State, runner: Runner, progress: Callable[[int], None] | None
) -> None:
    """Run the tasks that are left and accept their results."""
    with listening(prepared.job.scratch, progress or (lambda count: None)):
        for _, result in runner(_tasks(prepared.job, state)):
            state.accept(result)
    state.sync()


def _tasks(job: Job, state: _State) -> Iterator[Task]:
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


def _finish_levels(plan: RenderPlan, scratch: Scratch, writer: SlideWriter) -> npt.NDArray[np.uint8]:
    """Make the levels above the blocks from what the blocks left in scratch; return the preview."""
    level, last = plan.thumbnail_level, max(plan.preview_level, plan.slide.level_count - 1)
    step = max(plan.block >> level, 2 * plan.slide.tile)
    while True:
        pixels = scratch.level(level)
        if level == plan.preview_level:
            preview = np.asarray(pixels[:], np.uint8)
        if plan.block_levels < level < plan.slide.level_count:
            writer.append(_encode_stored(pixels, level, plan.slide))
        if level == last:
            return preview
        scratch.create_level(plan, level + 1, chunk=step // 2)
        _halve_stored(pixels, scratch.level(level + 1), step)
        level += 1


def _halve_stored(above: Any, below: Any, step: int) -> None:
    """Halve a level that lies in scratch into the next, one chunk of that at a time."""
    for y in range(0, above.shape[0], step):
        for x in range(0, above.shape[1], step):
            half = halve(np.asarray(above[y : y + step, x : x + step], np.uint8))
            half = half[: max(0, below.shape[0] - y // 2), : max(0, below.shape[1] - x // 2)]
            if half.size:
                below[y // 2 : y // 2 + half.shape[0], x // 2 : x // 2 + half.shape[1]] = half


def _encode_stored(pixels: Any, level: int, slide: SlideSpec) -> Iterator[EncodedTile]:
    """Encode a level that lies in scratch, a few tiles in memory at a time."""
    step = slide.tile
    for y in range(0, pixels.shape[0], step):
        for x in range(0, pixels.shape[1], step):
            yield from encode_region(
                np.asarray(pixels[y : y + step, x : x + step], np.uint8), level, y, x, slide
            )


def write_png(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Write uint8 RGB [h, w, 3] as PNG, whole or not at all."""
    import imagecodecs

    part = path.with_name(path.name + ".part")
    part.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    part.replace(path)


@lru_cache(maxsize=1)
def deciding_versions() -> dict[str, str]:
    """Versions of all that can change a pixel or a byte of a tile."""
    import onnxruntime

    found = {name: version(name) for name in ("safron", "imagecodecs", "opencv-python-headless", "numpy")}
    return found | {"onnxruntime": onnxruntime.__version__}


def _report(prepared: Prepared, scan: Scan, state: _State, digest: str, seconds: float) -> RenderReport:
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
        mask_sha256=scan.sha256,
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
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
