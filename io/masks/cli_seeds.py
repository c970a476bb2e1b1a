"""``safron-mask ellipses`` and ``colon``: masks of any size that are made from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from safron.io.console import PIXEL_SIZE, option, warn, with_options

from .cli_options import MPP, NAME, SHARE, SIZE, size_of, write_mask, write_options

drawn = (
    click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr"),
    option("--size", SIZE, "W,H", parse=size_of, required=True),
    option("--seed", "Seed of every pixel, a whole number.", "N", type=int, default=0),
)


@click.command(epilog="\b\nExample:\n  safron-mask ellipses mask.zarr --size 20000,20000 --seed 7")
@with_options(*drawn)
@option(
    "--style",
    "tissue: packed ellipses with background beside and inside; speckle: as in the SAFRON paper, with single "
    "background pixels strewn over the stroma.",
    type=click.Choice(["tissue", "speckle"]),
    default="tissue",
)
@option(
    "--cell",
    "Side of the square that holds 3 to 7 ellipses, in pixels; they grow with it.",
    "PX",
    type=click.IntRange(16),
    shown="160 for tissue, 100 for speckle",
)
@option("--mpp", MPP, "UM", type=PIXEL_SIZE, default=1.0)
@with_options(*write_options)
def ellipses(
    out: Path,
    size: tuple[int, int],
    seed: int,
    style: Any,
    cell: int | None,
    mpp: float,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Make a mask of any size from a seed.

    Ellipses stand for glands. Every pixel depends only on the seed and its position, so that a smaller mask
    is the corner of a larger one.
    """
    from .phantoms import Phantom
    from .write import check_target

    check_target(out, overwrite=overwrite)

    phantom = Phantom(seed, style, cell or {"tissue": 160, "speckle": 100}[style])
    write_mask(out, phantom.paint, size, mpp=mpp, workers=workers, overwrite=overwrite)


@click.command(epilog="\b\nExample:\n  safron-mask colon mask.zarr --size 20000,20000 --grade 2 --seed 7")
@with_options(*drawn)
@option(
    "--grade",
    "0 healthy, 1 to 3 well, moderately and poorly differentiated cancer: glands lose their shape and their lumen.",
    "N",
    type=click.IntRange(0, 3),
    default=0,
)
@option("--diameter", "Of a healthy gland, in pixels.", "PX", type=click.FloatRange(16), default=90.0)
@option("--density", "Share of the places that have a gland, 0 to 1.", "SHARE", type=SHARE, default=1.0)
@option(
    "--overlap",
    "How far glands and nuclei grow into their neighbours, 0 to 1.",
    "SHARE",
    type=SHARE,
    default=0.0,
)
@option("--stroma", "Share of the tissue that has no glands, 0 to 1.", "SHARE", type=SHARE, default=0.1)
@option(
    "--outline",
    "island: tissue with background around it; full: tissue everywhere.",
    type=click.Choice(["island", "full"]),
    default="island",
)
@option("--lumens", "Make lumens background, instead of a part of their gland.", is_flag=True)
@option(
    "--cellularity",
    "Share of the places for nuclei that have one, 0 to 1. Above 0 the labels are 1 tissue, and nuclei: 2 epithelial, 3 inflammatory, "
    "4 spindle.",
    "SHARE",
    type=SHARE,
    default=0.0,
)
@option("--mpp", MPP, "UM", type=PIXEL_SIZE, default=1.0)
@with_options(*write_options)
def colon(
    out: Path,
    size: tuple[int, int],
    mpp: float,
    overwrite: bool,
    workers: int | None,
    **settings: Any,
) -> None:
    """Make a mask of colon tissue of any size, healthy or of a cancer grade.

    Every pixel depends only on the options and its position, so that a smaller mask is the corner of a larger one.
    """
    from safron.io.legend import DEFAULT_LABELS

    from .classes import shipped_tables
    from .colon import Colon
    from .write import check_target

    check_target(out, overwrite=overwrite)
    made, tissue = Colon(**settings), list[bool]()

    def paint(rows: slice, cols: slice) -> Any:
        labels = made.paint(rows, cols)
        if not tissue and labels.any():
            tissue.append(True)
        return labels

    labels = shipped_tables()["nuclei"].labels if settings["cellularity"] else DEFAULT_LABELS
    write_mask(out, paint, size, mpp=mpp, workers=workers, overwrite=overwrite, labels=labels)
    if not tissue:
        hint = "pass --outline full, or another --seed" if settings["outline"] == "island" else "raise --size"
        warn(NAME, f"{out}: all of it is background, since it lies beside the tissue; {hint}")
