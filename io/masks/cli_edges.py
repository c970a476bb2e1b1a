"""``safron-mask edges``: the edges of a real slide, for generators that take edges."""

from __future__ import annotations

from pathlib import Path

import click
from safron.io.console import POSITIVE, debug_option, option, progress


@click.command(
    "edges",
    epilog="\b\nExample:\n  safron-mask edges slide.svs edges.zarr\n  safron-render mask.zarr made.tiff --model nuclei --edges edges.zarr",
)
@click.argument("slide", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--sigma", "Width of the Gaussian that smooths first, in pixels.", "PX", type=POSITIVE, default=1.4)
@option("--low", "Weakest slope of an edge that hangs together with a strong one, in grey levels per pixel, 0 to 128.", "N",
        type=POSITIVE, default=6.0)  # fmt: skip
@option(
    "--high",
    "Weakest slope of a strong edge, in grey levels per pixel, 0 to 128.",
    "N",
    type=POSITIVE,
    default=14.0,
)
@option("--overwrite", "Replace OUT if it is a mask.", is_flag=True)
@option(
    "--workers", "Number of pieces at a time.", "N", type=click.IntRange(1), shown="one per core, at most 8"
)
@debug_option
def edges(
    slide: Path, out: Path, sigma: float, low: float, high: float, overwrite: bool, workers: int | None
) -> None:
    """Find the edges of a slide by Canny's method.

    OUT is a mask of the slide's size, 1 on edges. It is the same as if the whole slide were looked at in one piece. Needs SciPy.
    """
    from safron.io.errors import BadInput

    from .canny import Canny
    from .canvas_size import image_size
    from .image_edges import write_edges

    if low > high:
        raise BadInput(f"--low {low:g}: must not be above --high {high:g}; swap them")
    height, width, _ = image_size(slide)
    with progress(2 * height * width / 1e6, "Mpx") as advance:
        advance(0)
        height, width, mpp = write_edges(
            slide, out, Canny(sigma, low, high), workers=workers, overwrite=overwrite,
            progress=lambda pixels: advance(pixels / 1e6),
        )  # fmt: skip
    click.echo(f"{out}: {width} x {height} pixels" + (f", {mpp:g} um per pixel" if mpp else ""))
