"""Can this render be done, and how? Everything that can be refused without reading a pixel is refused here."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from safron.io.errors import BadInput, Failed
from safron.io.labels import open_mask
from safron.io.pyramid import Pyramid
from safron.io.slides import SlideSpec

from .model import PatchModel, load_model
from .options import RenderOptions
from .plan import RenderPlan, choose_bits, choose_block, make_grid
from .scratch import Scratch
from .taper import Taper
from .tasks import Job
from .window import Window

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


def prepare(source: Any, out: Path, options: RenderOptions) -> Prepared:
    """Check what was asked for and plan it; nothing is written."""
    flavor = options.flavor or choose_flavor(out)
    check_outputs(source, out, options)
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
        block=choose_block(options.block, tile=tile, slide_tile=options.tiff_tile),
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


def check_budget(prepared: Prepared) -> None:
    """Refuse a plan over the memory budget or over the free disk, with both numbers."""
    plan, options = prepared.plan, prepared.options
    check_memory(prepared.projected_bytes, plan, options)
    part = part_path(prepared.out)
    written = part.stat().st_size if part.is_file() else 0
    needs: dict[int, int] = {}
    folders: dict[int, Path] = {}
    for folder, need in (
        (prepared.out.absolute().parent, max(0, plan.output_bytes() - written)),
        (prepared.job.scratch.path.parent, plan.scratch_bytes()),
    ):
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
            f"lower --workers {options.workers} or --block {plan.block}, or raise --memory"
        )


def part_path(out: Path) -> Path:
    """The unfinished slide."""
    return out.with_name(f"{out.name}.part")


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
