"""``safron-mask edges``: the edges of a real slide, for generators that take edges."""

from __future__ import annotations

from pathlib import Path

import click
from safron.io.console import SLOPE, SMOOTHING, option, with_options
from safron.io.progress import pixel_progress

from .cli_options import tell_size, write_options


@click.command(
    "edges",
    epilog="\b\nExample:\n  safron-mask edges slide.svs edges.zarr\n  safron-render mask.zarr made.tiff --model nuclei --edges edges.zarr",
)
@click.argument("slide", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option(
    "--sigma",
    "Width of the Gaussian that smooths first, in pixels, at most 100.",
    "PX",
    type=SMOOTHING,
    default=1.4,
)
@option("--low", "Weakest slope of an edge that hangs together with a strong one, in grey levels per pixel, 0 to 128.", "N",
        type=SLOPE, default=6.0)  # fmt: skip
@option(
    "--high",
    "Weakest slope of a strong edge, in grey levels per pixel, 0 to 128.",
    "N",
    type=SLOPE,
    default=14.0,
)
@with_options(*write_options)
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
    with pixel_progress(2 * height * width) as advance:
        height, width, mpp = write_edges(
            slide, out, Canny(sigma, low, high), workers=workers, overwrite=overwrite,
            progress=advance,
        )  # fmt: skip
    tell_size(out, height, width, mpp)
