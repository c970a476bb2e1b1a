"""``safron-mask``: make masks from images, annotations or nothing, and look into them."""

from __future__ import annotations

import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from .console import POSITIVE, SETTINGS, ProgramGroup, debug_option, run_program, version_option, warn

if TYPE_CHECKING:
    from .label_store import Paint
    from .labels import LabelMask

NAME = "safron-mask"
Command = TypeVar("Command", bound=Callable[..., Any])


# Options


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Read W,H as (height, width)."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)[,x](\d+)", value.replace(" ", ""))
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise click.BadParameter(f"{value!r} must be two whole numbers W,H, as 4096,4096")
    return int(match[2]), int(match[1])


def _named_values(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """Read NAME=VALUE, any number of times."""
    labels: dict[str, int] = {}
    for text in values:
        name, _, value = text.rpartition("=")
        if not name or not value.isdecimal() or int(value) > 255:
            raise click.BadParameter(f"{text!r} must be NAME=VALUE with a value from 0 to 255, as Tumor=2")
        labels[name] = int(value)
    return labels


palette_options = (
    click.option(
        "--palette",
        metavar="FILE.json|builtin",
        default=None,
        show_default="none",
        help="Colours of a colour-coded image: builtin (background blue, stroma red, gland green), or a JSON "
        'file as {"0": [0, 0, 255], "1": "#ff0000"}.',
    ),
    click.option(
        "--palette-tolerance",
        type=click.IntRange(0, 255),
        default=0,
        show_default=True,
        help="Largest difference to the nearest colour in any channel, 0 to 255.",
    ),
)
mpp_option = click.option(
    "--mpp",
    type=POSITIVE,
    default=None,
    show_default="the source's, if it says",
    help="Micrometres per pixel, kept in the mask.",
)
write_options = (
    click.option("--overwrite", is_flag=True, help="Replace OUT where it is a Zarr."),
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=None,
        show_default="one per core, at most 8",
        help="Chunks in work at a time.",
    ),
    debug_option,
)


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Add several options to a command."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


# Commands


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Make tissue masks for safron-render, and look into them.

    A mask is a Zarr array of labels (background 0, stroma 1, gland 2), of any size.

    Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted.
    """


@commands.command(
    "import", epilog="\b\nExample:\n  safron-mask import labels.png mask.zarr --palette builtin"
)
@click.argument("image")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@_with(*palette_options, mpp_option, *write_options)
def import_(
    image: str,
    out: Path,
    palette: str | None,
    palette_tolerance: int,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Copy any mask to a Zarr.

    IMAGE is a Zarr, OME-Zarr, slide, TIFF, PNG or other image; it is read piece by piece.
    """
    from .label_store import check_target
    from .legend import DEFAULT_LABELS

    check_target(out, overwrite=overwrite)
    mask = _open(image, palette, palette_tolerance)
    _write(
        out,
        lambda rows, cols: mask[rows, cols],
        mask.shape,
        doing="importing",
        mpp=mpp or mask.mpp,
        labels=DEFAULT_LABELS if palette == "builtin" else (),
        # Strips as wide as the image are read once rather than once for every chunk they cross.
        block=(1024, min(mask.chunks[1], (1 << 26) // 1024)),
        workers=workers,
        overwrite=overwrite,
    )


@commands.command(
    "from-geojson",
    epilog="\b\nExamples:\n  safron-mask from-geojson export.geojson mask.zarr --like slide.svs\n"
    "  safron-mask from-geojson export.geojson mask.zarr --size 40000,30000 --label Tumor=2 --background 1",
)
@click.argument("annotations", type=click.Path(path_type=Path), metavar="ANNOTATIONS.geojson")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@click.option("--size", callback=_size, metavar="W,H", help="Size of the mask, in pixels. (this or --like)")
@click.option(
    "--like",
    type=click.Path(path_type=Path),
    metavar="SLIDE",
    help="Take size and micrometres per pixel from the annotated slide.",
)
@click.option(
    "--downsample",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Pixels of the annotated slide along one pixel of the mask.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_named_values,
    metavar="NAME=VALUE",
    show_default="background=0, stroma=1, gland=2",
    help="Label of a classification (or of a name, where there is none); repeat for each.",
)
@click.option(
    "--ignore", multiple=True, metavar="NAME", show_default="none", help="Classification not to draw; repeat."
)
@click.option(
    "--background",
    type=click.IntRange(0, 255),
    default=0,
    show_default=True,
    help="Label of all pixels outside the polygons.",
)
@_with(mpp_option, *write_options)
def from_geojson(
    annotations: Path,
    out: Path,
    size: tuple[int, int] | None,
    like: Path | None,
    downsample: float,
    labels: dict[str, int],
    ignore: tuple[str, ...],
    background: int,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Draw polygons exported from QuPath.

    Later polygons cover earlier ones; a pixel belongs to a polygon if its centre does. Points and lines are counted and left out.
    """
    from .annotations import read_geojson
    from .label_store import check_target
    from .legend import DEFAULT_LABELS

    check_target(out, overwrite=overwrite)
    height, width, slide_mpp = _canvas(size, like, downsample)
    drawing = read_geojson(
        annotations,
        height=height,
        width=width,
        labels=labels,
        ignore=ignore,
        background=background,
        downsample=downsample,
    )
    for kind, count in drawing.skipped.items():
        warn(NAME, f"{count} x {kind} left out: only polygons have an inside")
    if drawing.outside:
        warn(NAME, f"{drawing.outside} polygons lie beyond the canvas of {width} x {height} pixels")
    _write(
        out,
        drawing.paint,
        (height, width),
        doing="drawing",
        mpp=mpp or slide_mpp,
        labels=() if labels else DEFAULT_LABELS,  # other values may mean anything
        fill=background,
        workers=workers,
        overwrite=overwrite,
    )


@commands.command(epilog="\b\nExample:\n  safron-mask ellipses mask.zarr --size 20000,20000 --seed 7")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@click.option("--size", callback=_size, required=True, metavar="W,H", help="Size of the mask, in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="Whole number that fixes every pixel.")
@click.option(
    "--style",
    type=click.Choice(["tissue", "speckle"]),
    default="tissue",
    show_default=True,
    help="tissue: packed ellipses, glass beside, slits inside; speckle: as in the SAFRON paper, with single "
    "background pixels strewn over the stroma.",
)
@click.option(
    "--cell",
    type=click.IntRange(16),
    default=None,
    show_default="160 for tissue, 100 for speckle",
    help="Side in pixels of the square that holds 3 to 7 ellipses; they grow with it.",
)
@click.option(
    "--mpp",
    type=POSITIVE,
    default=1.0,
    show_default=True,
    help="Micrometres per pixel, kept in the mask.",
)
@_with(*write_options)
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

    Ellipses stand for glands. Every pixel depends on the seed and its position alone, so that a smaller mask
    is the corner of a larger one.
    """
    from .phantoms import Phantom

    phantom = Phantom(seed, style, cell or {"tissue": 160, "speckle": 100}[style])
    _write(out, phantom.paint, size, doing="painting", mpp=mpp, workers=workers, overwrite=overwrite)


@commands.command(epilog="\b\nExample:\n  safron-mask info mask.zarr")
@click.argument("mask")
@_with(*palette_options, debug_option)
def info(mask: str, palette: str | None, palette_tolerance: int) -> None:
    """Show what a mask holds.

    Size, type, chunks, micrometres per pixel, and each label's share; MASK is read piece by piece.
    """
    import numpy as np

    from .label_store import blocks

    opened = _open(mask, palette, palette_tolerance)
    height, width = opened.shape
    counts = np.zeros(256, np.int64)
    with _progress("reading", height * width) as progress:
        for rows, cols in blocks(height, width, (1024, min(max(opened.chunks[1], 4096), 1 << 16))):
            labels = opened[rows, cols]
            counts += np.bincount(labels.reshape(-1), minlength=256)
            progress(labels.size)
    facts = opened.describe()
    click.echo(f"mask    {facts['source']} ({facts['kind']})")
    click.echo(f"size    {width} x {height} pixels (width x height)")
    click.echo(f"dtype   {facts['dtype']}")
    click.echo(f"chunks  {opened.chunks[1]} x {opened.chunks[0]} pixels")
    click.echo(f"mpp     {'unknown' if opened.mpp is None else f'{opened.mpp:g} um per pixel'}")
    for value in np.flatnonzero(counts):
        click.echo(f"label   {value:<3d} {100 * counts[value] / (height * width):7.3f} %")


# What the commands share


def _open(source: str, palette: str | None, tolerance: int) -> LabelMask:
    from .labels import open_mask
    from .palette import read_palette

    mask = open_mask(source, palette=read_palette(palette) if palette else None, palette_tolerance=tolerance)
    for note in mask.notes:
        warn(NAME, f"{source}: {note}")
    return mask


def _canvas(
    size: tuple[int, int] | None, like: Path | None, downsample: float
) -> tuple[int, int, float | None]:
    """Height, width and micrometres per pixel of the mask to draw."""
    if (size is None) == (like is None):
        raise click.UsageError("give either --size W,H or --like SLIDE")
    if size is not None:
        return *size, None
    assert like is not None
    from .label_images import image_size

    height, width, mpp = image_size(like)
    height, width = (math.ceil(side / downsample) for side in (height, width))
    return height, width, mpp * downsample if mpp else None


def _write(
    out: Path, paint: Paint, size: tuple[int, int], *, doing: str, mpp: float | None, **options: Any
) -> None:
    """Write a mask of `size` (height, width) piece by piece, and say what was written."""
    from .label_store import write_labels

    height, width = size
    with _progress(doing, height * width) as progress:
        write_labels(out, paint, height=height, width=width, mpp=mpp, progress=progress, **options)
    click.echo(f"{out}: {width} x {height} pixels" + (f", {mpp:g} um per pixel" if mpp else ""))


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda pixels: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda pixels: bar.advance(task, pixels)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args : what follows ``safron-mask`` on the command line; None takes it from there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwinds, so that unfinished files are removed
    run_program(commands, NAME, args)


if __name__ == "__main__":
    main()
