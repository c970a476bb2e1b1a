"""``safron-mask`` with the one command that needs the engine: ``nuclei`` samples a mask model over a whole canvas.

All others are declared in `safron.io.masks`, which knows nothing of generators; this module adds one to their group.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from safron.io.console import debug_option, option, run_program
from safron.io.interruptions import say_if_interrupted
from safron.io.masks.cli import commands
from safron.io.masks.cli_options import NAME, relabel_of, size_of, tell_size
from safron.io.progress import pixel_progress, progress

MODEL = "nuclei-masks"


@click.command(
    epilog="\b\nExamples:\n"
    "  safron-mask nuclei layout.zarr --types neoplastic,inflammatory,connective --size 4096,4096 --seed 1\n"
    "  safron-mask nuclei layout.zarr --types neoplastic,connective --tissue colon.zarr --map 0=0,1=3,2=2\n"
    "  safron-mask nuclei layout.zarr --types connective --region-types tumor=neoplastic+inflammatory --tissue colon.zarr --map 0=0,1=3,2=2\n"
    "  safron-render layout.zarr slide.tiff --model nuclei",
)
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option(
    "--types",
    "Types of nuclei that there shall be, as the model names them: neoplastic, inflammatory, connective, dead, macrophage_cell, "
    "macrophage_nucleus.",
    "NAME,...",
    required=True,
)
@option(
    "--region-types",
    "Other types in some regions of --tissue, as tumor=neoplastic+inflammatory,stroma=connective,omental_fat=none.",
    "REGION=NAME+...,...",
)
@option("--size", "Size of the mask: width and height, in pixels of 0.5 um.", "W,H", parse=size_of)
@option(
    "--tissue",
    "Mask of the regions in which nuclei lie, instead of --size; labels are found by their names: background, tissue, tumor, "
    "stroma, omental_fat, hemorragia, necrosis, serum.",
    "MASK",
)
@option(
    "--map",
    "What the labels of --tissue are, where names do not tell: regions 0 to 7, in the order above.",
    "N=REGION,...",
    called="mapping",
)
@option("--model", "Mask model: the name of a shipped one, or an ONNX file.", "NAME|FILE", default=MODEL)
@option("--seed", "Seed of the noise, a whole number.", "N", type=int, default=0)
@option(
    "--steps",
    "Number of sampling steps, each one pass over the canvas.",
    "N",
    type=click.IntRange(1),
    shown="the model's, 20",
)
@option(
    "--classes",
    "Labels of OUT: nuclei, those of the generator of this name; types, the model's own types; or a table in JSON or TOML.",
    "NAME|FILE",
    default="nuclei",
)
@option("--device", "Device that the model runs on.", "auto|cpu|cuda[:N]", default="auto")
@option(
    "--workers",
    "Number of blocks sampled, searched or written at a time.",
    "N",
    type=click.IntRange(1),
    shown="2",
)
@option("--overwrite", "Replace OUT if it is a mask, and what another command left beside it.", is_flag=True)
@debug_option
def nuclei(
    out: Path,
    types: str,
    size: tuple[int, int] | None,
    tissue: str | None,
    mapping: str | None,
    device: str,
    workers: int | None,
    overwrite: bool,
    **options: Any,
) -> None:
    """Invent nuclei of some types, by a diffusion model.

    OUT is a mask of nuclei with classes and numbers, which safron-render takes at once. The model is sampled over the whole canvas, so
    the result is one layout, whatever its size. An interrupted command continues when it is given again.
    """
    if mapping is not None and tissue is None:
        raise click.UsageError("--map: give --tissue, whose labels it translates")
    from .nucleus_masks import prepare_codes, sampling_folder, write_mask
    from .nucleus_plan import plan_nuclei
    from .plan.passes import all_patches
    from .rendering import open_runner, run
    from .system.signals import end_soon

    end_soon()
    names = [name.strip() for name in types.split(",") if name.strip()]
    plan = plan_nuclei(
        names,
        size=size,
        tissue=tissue,
        relabel=relabel_of(mapping, binarize=False),
        device=device,
        **options,
    )
    height, width = plan.shape
    kept = sampling_folder(out)
    say_if_interrupted("no mask was written yet; the same command continues", where=kept)
    prepared = prepare_codes(plan, out, overwrite=overwrite, workers=workers)
    if prepared is not None:
        count = all_patches(prepared.plan)
        with open_runner(prepared) as (prepared, runner), progress(count, "patches") as advance:
            run(prepared, runner, progress=advance)
    with pixel_progress(2 * height * width) as told:
        counts = write_mask(plan, out, overwrite=overwrite, workers=workers, progress=told)
    tell_size(out, height, width, plan.model.card.mpp)
    labels = plan.table.values(counts, source=NAME)
    for (name, count), value in zip(counts.items(), labels.tolist(), strict=True):
        click.echo(f"{count:8d} {name} -> {value} {plan.table.name(value)}")


commands.add_command(nuclei)


main = partial(run_program, commands, NAME)


if __name__ == "__main__":
    main()
