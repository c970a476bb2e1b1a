"""``safron-mask``: make masks from images, annotations or a seed, and describe them."""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from safron.io.console import (
    POSITIVE,
    SETTINGS,
    Command,
    ProgramGroup,
    debug_option,
    option,
    progress,
    run_program,
    version_option,
    warn,
)

from .cli_edges import edges
from .cli_polygons import from_instances, from_polygons

if TYPE_CHECKING:
    from collections import Counter

    from .mask import LabelMask
    from .write import Paint

NAME = "safron-mask"
REMEDY = "--mpp)"
"""End of the notes that a user who passes --mpp has answered."""


# Options


def _size(value: str) -> tuple[int, int]:
    """Read W,H as (height, width)."""
    match = re.fullmatch(r"(\d+)[,x](\d+)", value.replace(" ", ""))
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise ValueError(f"{value!r} must be two whole numbers W,H, as 4096,4096")
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
    option(
        "--palette",
        "Colours of a colour-coded or grey image: builtin (background blue, stroma red, gland green), a JSON "
        'file such as {"0": [0, 0, 255], "1": "#ff0000"}, or indices (the colour table of an indexed PNG).',
        "FILE.json|builtin|indices",
    ),
    option(
        "--palette-tolerance",
        "Largest difference, 0 to 255 in any channel, between a pixel's colour and its label's.",
        "N",
        type=click.IntRange(0, 255),
        default=0,
    ),
)
MPP = "Pixel size, in micrometres per pixel; kept in the mask."
mpp_option = option("--mpp", MPP, "UM", type=POSITIVE, shown="the source's, if it says")
write_options = (
    option("--overwrite", "Replace OUT if it is a mask.", is_flag=True),
    option(
        "--workers",
        "Number of chunks written at a time.",
        "N",
        type=click.IntRange(1),
        shown="one per core, at most 8",
    ),
    debug_option,
)
SIZE = "Size of the mask: width and height, in pixels."


def _with(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Add several options to a command."""

    def add(command: Command) -> Command:
        for made in reversed(options):
            command = made(command)
        return command

    return add


# Commands


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Make tissue masks for safron-render, and describe them.

    A mask is a Zarr array of labels (background 0, stroma 1, gland 2), of any size.

    Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted.
    """


commands.add_command(from_polygons)
commands.add_command(from_instances)
commands.add_command(edges)


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

    IMAGE is a Zarr or OME-Zarr (a folder, .zip or .ozx), a NumPy file (.npy), a slide, TIFF, PNG, BMP or other image; it is
    read piece by piece. Where it is a JPEG, or its pixel size is not understood, a warning says so.
    """
    from safron.io.legend import DEFAULT_LABELS

    from .write import check_target

    check_target(out, overwrite=overwrite)
    mask = _open(image, palette, palette_tolerance, mpp=mpp)
    _write(
        out,
        lambda rows, cols: mask[rows, cols],
        mask.shape,
        mpp=mpp or mask.mpp,
        labels=DEFAULT_LABELS if palette == "builtin" else (),
        # Strips as wide as the image are read once, and not once for every chunk that they cross.
        block=(1024, min(mask.chunks[1], (1 << 26) // 1024)),
        workers=workers,
        overwrite=overwrite,
    )


@commands.command(
    "from-geojson",
    epilog="\b\nExamples:\n  safron-mask from-geojson export.geojson mask.zarr --like slide.svs\n"
    "  safron-mask from-geojson export.geojson mask.zarr --size 40000,30000 --label Tumor=2 --background 1",
)
@click.argument("annotations", type=click.Path(path_type=Path), metavar="ANNOTATIONS.geojson[.gz]")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", f"{SIZE} Either this or --like.", "W,H", parse=_size)
@option(
    "--like",
    "Take size and pixel size from the annotated slide.",
    "SLIDE",
    type=click.Path(path_type=Path),
)
@option(
    "--downsample",
    "Size of a pixel of the mask, in pixels of the annotated slide.",
    "N",
    type=POSITIVE,
    default=1.0,
)
@option(
    "--label",
    "Label of a classification, or of a name where there is none; repeat for each.",
    "NAME=VALUE",
    called="labels",
    multiple=True,
    callback=_named_values,
    shown="background=0, stroma=1, gland=2",
)
@option(
    "--order",
    "Which polygon covers another: file, the later one; area, the smaller one.",
    type=click.Choice(["file", "area"]),
    default="file",
)
@option(
    "--nuclei",
    "Label of the nuclei of QuPath's cells, 0 to 255, drawn upon their cells.",
    "N",
    type=click.IntRange(0, 255),
    shown="left out",
)
@option("--ignore", "Classification to leave out; repeat for each.", "NAME", multiple=True)
@option(
    "--background",
    "Label of all pixels outside the polygons, 0 to 255.",
    "N",
    type=click.IntRange(0, 255),
    default=0,
)
@_with(mpp_option, *write_options)
def from_geojson(
    annotations: Path,
    out: Path,
    size: tuple[int, int] | None,
    like: Path | None,
    downsample: float,
    labels: dict[str, int],
    order: Any,
    nuclei: int | None,
    ignore: tuple[str, ...],
    background: int,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Draw polygons exported from QuPath.

    A pixel belongs to a polygon if its centre does. What is left out or covered wholly (points and lines, nuclei,
    polygons under later ones) is counted in a warning.
    """
    from safron.io.legend import DEFAULT_LABELS

    from .annotations import Coverage, read_geojson
    from .write import check_target

    check_target(out, overwrite=overwrite)
    height, width, slide_mpp = _canvas(size, like, downsample, quiet=mpp is not None)
    drawing = read_geojson(
        annotations,
        height=height,
        width=width,
        labels=labels,
        ignore=ignore,
        background=background,
        downsample=downsample,
        order=order,
        nuclei=nuclei,
        remedy="give each a label, as --label 'Tumor=2', or leave it out, as --ignore 'Tumor'",
    )
    for kind, count in drawing.skipped.items():
        warn(NAME, f"{count} x {kind} left out: only polygons have an inside")
    if drawing.outside:
        warn(NAME, f"{drawing.outside} polygons lie beyond the canvas of {width} x {height} pixels")
    if len(drawing.planes) > 1:
        axes = {"z": sorted({z for z, _ in drawing.planes}), "t": sorted({t for _, t in drawing.planes})}
        found = "; ".join(f"{axis} {', '.join(map(str, at))}" for axis, at in axes.items() if len(at) > 1)
        warn(
            NAME,
            f"objects lie in {len(drawing.planes)} planes ({found}), and all are drawn on one canvas; "
            "export one plane to draw it alone",
        )
    if drawing.nuclei:
        warn(NAME, f"{drawing.nuclei} nuclei of cells left out; pass --nuclei VALUE to draw them")
    coverage = Coverage()
    _write(
        out,
        lambda rows, cols: drawing.paint(rows, cols, coverage),
        (height, width),
        mpp=mpp or slide_mpp,
        labels=() if labels else DEFAULT_LABELS,  # other values may mean anything
        fill=background,
        workers=workers,
        overwrite=overwrite,
    )
    covered, between = coverage.lost(drawing)
    if covered:
        order_hint = "; pass --order area to draw the smaller upon the larger" if order == "file" else ""
        covering = "later" if order == "file" else "smaller"
        warn(NAME, f"{_polygons(covered)} covered wholly by {covering} ones{order_hint}")
    if between:
        warn(NAME, f"{_polygons(between)} smaller than a pixel or between pixel centres, and not in the mask")


@commands.command(epilog="\b\nExample:\n  safron-mask ellipses mask.zarr --size 20000,20000 --seed 7")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", SIZE, "W,H", parse=_size, required=True)
@option("--seed", "Seed of every pixel, a whole number.", "N", type=int, default=0)
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
@option("--mpp", MPP, "UM", type=POSITIVE, default=1.0)
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

    Ellipses stand for glands. Every pixel depends only on the seed and its position, so that a smaller mask
    is the corner of a larger one.
    """
    from .phantoms import Phantom
    from .write import check_target

    check_target(out, overwrite=overwrite)

    phantom = Phantom(seed, style, cell or {"tissue": 160, "speckle": 100}[style])
    _write(out, phantom.paint, size, mpp=mpp, workers=workers, overwrite=overwrite)


@commands.command(epilog="\b\nExample:\n  safron-mask info mask.zarr")
@click.argument("mask")
@_with(*palette_options, debug_option)
def info(mask: str, palette: str | None, palette_tolerance: int) -> None:
    """Describe a mask.

    Size, type, chunks, micrometres per pixel, and the share of each label. Of a Zarr, only the chunks that are stored are
    read.
    """
    from .census import count_labels

    opened = _open(mask, palette, palette_tolerance)
    height, width = opened.shape
    facts = opened.describe()
    with progress(height * width / 1e6, "Mpx") as advance:
        advance(0)
        counts = count_labels(opened, lambda pixels: advance(pixels / 1e6))
    click.echo(f"mask    {facts['source']} ({facts['kind']})")
    click.echo(f"size    {width} x {height} pixels (width x height)")
    click.echo(f"dtype   {facts['dtype']}")
    click.echo(f"chunks  {opened.chunks[1]} x {opened.chunks[0]} pixels")
    if absent := getattr(opened.plane, "absent", 0):
        click.echo(f"absent  {absent} tiles or strips")
    click.echo(f"mpp     {'unknown' if opened.mpp is None else f'{opened.mpp:g} um per pixel'}")
    for value, count in counts.items():
        click.echo(f"label   {value:<3d} {100 * count / math.prod(opened.shape):7.3f} %")


# What the commands share


def _open(source: str, palette: str | None, tolerance: int, *, mpp: float | None = None) -> LabelMask:
    """Open a mask and pass on its notes."""
    from .open import open_mask
    from .palette import read_palette, read_png_colours

    colours = None
    if palette is not None:
        colours = read_png_colours(Path(source)) if palette == "indices" else read_palette(palette)
    mask = open_mask(source, palette=colours, palette_tolerance=tolerance, use_palette=colours is not None)
    for note in mask.notes:
        if mpp is None or not note.endswith(REMEDY):
            warn(NAME, f"{source}: {note}")
    return mask


def _canvas(
    size: tuple[int, int] | None, like: Path | None, downsample: float, *, quiet: bool
) -> tuple[int, int, float | None]:
    """Height, width and micrometres per pixel of the mask to draw; `quiet` where the user gives the latter."""
    if (size is None) == (like is None):
        raise click.UsageError("give either --size W,H or --like SLIDE")
    if size is not None:
        return *size, None
    assert like is not None
    from .canvas_size import image_size

    height, width, pixel = image_size(like)
    for note in () if quiet else pixel.notes:
        warn(NAME, f"{like}: {note}")
    height, width = (math.ceil(side / downsample) for side in (height, width))
    return height, width, pixel.mpp * downsample if pixel.mpp else None


def _polygons(counts: Counter[str]) -> str:
    """Count polygons and name their classes, as the beginning of a sentence."""
    several = counts.total() > 1
    names = ", ".join(f"{count} {name}" if several else name for name, count in counts.most_common(8))
    return f"{counts.total()} polygon{'s' * several} ({names}{', ...' * (len(counts) > 8)}) {'are' if several else 'is'}"


def _write(out: Path, paint: Paint, size: tuple[int, int], *, mpp: float | None, **options: Any) -> None:
    """Write a mask of `size` (height, width) piece by piece, and print what was written."""
    from .write import write_labels

    height, width = size
    with progress(height * width / 1e6, "Mpx") as advance:
        advance(0)
        options["progress"] = lambda pixels: advance(pixels / 1e6)
        write_labels(out, paint, height=height, width=width, mpp=mpp, **options)
    click.echo(f"{out}: {width} x {height} pixels" + (f", {mpp:g} um per pixel" if mpp else ""))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args
        What follows ``safron-mask`` on the command line; None takes it from there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwinds, so that unfinished files are removed
    run_program(commands, NAME, args)


if __name__ == "__main__":
    main()
