"""What does ``--dry-run`` tell of a render? The plan in lines."""

from __future__ import annotations

from safron.engine.plan.estimates import largest_boundary, output_bytes, state_bytes
from safron.engine.plan.passes import all_patches
from safron.engine.preparation.mask_scan import Scan
from safron.engine.preparation.prepared import Prepared
from safron.io.errors import counted


def _scale_lines(prepared: Prepared) -> list[str]:
    """Return the line about resampling, if the render needs any."""
    plan, card = prepared.plan, prepared.job.model.card
    if plan.scale.is_one:
        return []
    return [
        f"scale    generated at {card.mpp:g} um/px, {plan.grid.width} x {plan.grid.height} px, {float(plan.scale.ratio):.4g} per pixel "
        "of the mask along an axis, and resampled"
    ]


def _sampler_lines(prepared: Prepared) -> list[str]:
    """Return the line about the passes of a sampler, if the generator is one."""
    plan, sampler = prepared.plan, prepared.job.model.card.sampler
    if plan.passes is None or sampler is None:
        return []
    most = state_bytes(plan, at_a_time=prepared.at_a_time or 1)
    held = most / (plan.drawn.height * plan.drawn.width)
    per_pixel = f", {held:.0f} bytes per pixel: of a canvas this small two may be held" if held > 16 else ""
    calls = f", guidance {sampler.guidance:g}, two calls a patch" if sampler.guidance else ""
    return [
        f"sampler  {sampler.kind}, {counted(plan.passes.steps, 'step')}{calls}: {counted(plan.passes.steps, 'pass')} over the canvas, "
        f"{counted(all_patches(plan), 'patch')} in all; running picture in {plan.passes.state}, {most / 1e6:.1f} MB of scratch{per_pixel}"
    ]


def _calls(prepared: Prepared) -> float:
    """Return how often each patch of the plan is generated: by a sampler in every pass, and twice with guidance."""
    plan, sampler = prepared.plan, prepared.job.model.card.sampler
    return all_patches(plan) / plan.patches * (2 if sampler and sampler.guidance else 1)


def plan_lines(prepared: Prepared, scan: Scan) -> list[str]:
    """Return the plan as printed by ``--dry-run``."""
    plan, slide = prepared.plan, prepared.plan.slide
    rows, columns = plan.block_shape
    grid = plan.grid
    scale = f"{slide.mpp:g} um/px" if slide.mpp else "no mpp"
    at_a_time, more = f"{prepared.at_a_time} at a time", ""
    if prepared.at_a_time is None:
        at_a_time = "as many at a time as the workers have threads"
        more = f", {largest_boundary(plan) / 1e6:.1f} MB more for each block in flight after the first"
    if prepared.dask:
        at_a_time += ", scheduled by Dask"
    seconds = (prepared.seconds or 0.0) * (plan.patches - scan.filled) / plan.patches * _calls(prepared)
    return [
        f"canvas   {slide.width} x {slide.height} px of a mask of {plan.canvas.width} x {plan.canvas.height} px, {scale}",
        *_scale_lines(prepared),
        *_sampler_lines(prepared),
        f"patches  {plan.patches} of {grid.tile} px, overlap {grid.overlap} {plan.taper.name}, context {grid.context}: "
        f"{plan.patches - scan.filled} to generate, {scan.filled} to fill as background"
        f"{', shared pixels computed once' if prepared.job.model.shared else ''}",
        f"blocks   {rows * columns} ({columns} x {rows}) of {plan.block} px, {at_a_time}",
        f"slide    {slide.flavor}, {slide.compression}, {counted(slide.level_count, 'level')}, tiles of {slide.tile} px, "
        f"about {output_bytes(plan) / 1e6:.1f} MB",
        f"memory   at most {prepared.projected_bytes / 2**20:.0f} MiB of {prepared.options.memory / 2**20:.0f} MiB allowed: "
        f"{prepared.budget}",
        f"scratch  at most {prepared.scratch_bytes / 1e6:.1f} MB in {prepared.job.scratch.path}{more}",
        f"model    {prepared.job.model.card.name} on {prepared.job.model.device}, {_arithmetic(prepared)}batch size {plan.batch}",
        *(
            [f"time     about {seconds:.3g} s of the generator, by its first calls"]
            if prepared.seconds
            else []
        ),
    ]


def _arithmetic(prepared: Prepared) -> str:
    model = prepared.job.model
    return f"{model.runtime} in {model.precision}, " if model.runtime else ""
