"""``safron-mask``: make masks from images, annotations or a seed, and describe them."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import (
    PIXEL_SIZE,
    POSITIVE,
    SETTINGS,
    ProgramGroup,
    debug_option,
    option,
    run_program,
    version_option,
    warn,
    with_options,
)
from safron.io.progress import pixel_progress

from .cli_edges import edges
from .cli_exports import to_geojson, to_png
from .cli_nuclei import synthesize_nuclei
from .cli_options import (
    NAME,
    canvas_of,
    map_options,
    named_values,
    open_source,
    palette_options,
    relabel_of,
    size_of,
    tell_size,
    write_options,
)
from .cli_polygons import from_instances, from_polygons

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from safron.io.legend import Label

    from .write import Paint


# Options

MPP = "Pixel size, in micrometres per pixel; kept in the mask."
mpp_option = option("--mpp", MPP, "UM", type=PIXEL_SIZE, shown="the source's, if it says")
SHARE = click.FloatRange(0, 1)
SIZE = "Size of the mask: width and height, in pixels."


# Commands


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Make tissue masks for safron-render, and describe them.

    A mask is a Zarr array of labels (background 0, stroma 1, gland 2), of any size.
    """


commands.add_command(from_polygons)
commands.add_command(from_instances)
commands.add_command(edges)


@commands.command(
    "import",
    epilog="\b\nExamples:\n  safron-mask import labels.png mask.zarr --palette builtin\n"
    "  safron-mask import glands.png mask.zarr --map 0=1,255=2\n  safron-mask import nuclei.tif mask.zarr --binarize",
)
@click.argument("image")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@with_options(*palette_options, *map_options, mpp_option, *write_options)
def import_(
    image: str,
    out: Path,
    palette: str | None,
    palette_tolerance: int,
    mapping: str | None,
    binarize: bool,
    indices: bool,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Copy any mask to a Zarr.

    IMAGE is a Zarr or OME-Zarr (a folder, .zip or .ozx), a NumPy file (.npy), a slide, TIFF, PNG, BMP or other image; it is
    read piece by piece. Where it is a JPEG, or its pixel size is not understood, a warning says so.
    """
    from safron.io.legend import DEFAULT_LABELS

    from .stored import pieces_of
    from .write import CHUNK, check_target, whole_chunks

    check_target(out, overwrite=overwrite)
    if indices and palette is not None:
        raise click.UsageError("--indices and --palette: give only one")
    palette = "indices" if indices else palette
    relabel = relabel_of(mapping, binarize=binarize)
    mask = open_source(image, palette, palette_tolerance, mpp=mpp, relabel=relabel)
    # Strips as wide as the image are read once, and not once for every chunk that they cross.
    strip = CHUNK, whole_chunks(min(mask.chunks[1], (1 << 26) // CHUNK))
    pieces = pieces_of(mask, strip, remedy="cut it up, or correct its metadata")
    _write(
        out,
        lambda rows, cols: mask[rows, cols],
        mask.shape,
        mpp=mpp or mask.mpp,
        labels=DEFAULT_LABELS if palette == "builtin" and relabel is None else (),
        regions=pieces.regions,
        fill=0 if pieces.beside is None else int(mask[pieces.beside][0, 0]),
        pixels=pieces.pixels,
        workers=workers,
        overwrite=overwrite,
    )


@commands.command(
    "from-geojson",
    epilog="\b\nExamples:\n  safron-mask from-geojson export.geojson mask.zarr --like slide.svs\n"
    "  safron-mask from-geojson export.geojson mask.zarr --size 40000,30000 --label Tumor=2 --background 1",
)
@click.argument("annotations", type=click.Path(path_type=Path), metavar="ANNOTATIONS.geojson[l][.gz]")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", f"{SIZE} Either this or --like.", "W,H", parse=size_of)
@option(
    "--like",
    "Take size and pixel size from the annotated slide, or from a mask, and the names of a mask's labels.",
    "SLIDE|MASK",
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
    callback=named_values,
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
@with_options(mpp_option, *write_options)
def from_geojson(
    annotations: Path,
    out: Path,
    *,
    size: tuple[int, int] | None,
    like: Path | None,
    downsample: float,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
    **rules: Any,
) -> None:
    """Draw polygons exported from QuPath.

    A pixel belongs to a polygon if its centre does. What is left out or covered wholly (points and lines, nuclei,
    polygons under later ones) is counted in a warning.
    """
    from .annotations import DrawingRules, read_geojson
    from .drawing import Coverage
    from .write import check_target

    check_target(out, overwrite=overwrite)
    height, width, slide_mpp = canvas_of(size, like, downsample, quiet=mpp is not None)
    drawing = read_geojson(
        annotations,
        DrawingRules(
            height,
            width,
            legend=_legend_of(like),
            downsample=downsample,
            remedy="give each a label, as --label 'Tumor=2', or leave it out, as --ignore 'Tumor'",
            **rules,
        ),
    )
    for loss in drawing.losses():
        warn(NAME, loss)
    coverage = Coverage()
    _write(
        out,
        lambda rows, cols: drawing.paint(rows, cols, coverage),
        (height, width),
        mpp=mpp or slide_mpp,
        labels=drawing.legend,
        fill=drawing.background,
        workers=workers,
        overwrite=overwrite,
    )
    covered, between = coverage.lost(drawing)
    if covered:
        by_file = rules["order"] == "file"
        order_hint = "; pass --order area to draw the smaller upon the larger" if by_file else ""
        warn(
            NAME,
            f"{_polygons(covered)} covered wholly by {'later' if by_file else 'smaller'} ones{order_hint}",
        )
    if between:
        warn(NAME, f"{_polygons(between)} smaller than a pixel or between pixel centres, and not in the mask")


@commands.command(epilog="\b\nExample:\n  safron-mask ellipses mask.zarr --size 20000,20000 --seed 7")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", SIZE, "W,H", parse=size_of, required=True)
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
    _write(out, phantom.paint, size, mpp=mpp, workers=workers, overwrite=overwrite)


@commands.command(epilog="\b\nExample:\n  safron-mask colon mask.zarr --size 20000,20000 --grade 2 --seed 7")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", SIZE, "W,H", parse=size_of, required=True)
@option("--seed", "Seed of every pixel, a whole number.", "N", type=int, default=0)
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
    _write(out, paint, size, mpp=mpp, workers=workers, overwrite=overwrite, labels=labels)
    if not tissue:
        hint = "pass --outline full, or another --seed" if settings["outline"] == "island" else "raise --size"
        warn(NAME, f"{out}: all of it is background, since it lies beside the tissue; {hint}")


@commands.command(epilog="\b\nExample:\n  safron-mask info mask.zarr")
@click.argument("mask")
@with_options(*palette_options, debug_option)
def info(mask: str, palette: str | None, palette_tolerance: int) -> None:
    """Describe a mask.

    Size, type, chunks, micrometres per pixel, and the share of each label. Of a Zarr, only the chunks that are stored are
    read.
    """
    from .census import count_labels
    from .to_geojson import own_legend

    opened = open_source(mask, palette, palette_tolerance)
    height, width = opened.shape
    facts = opened.describe()
    with pixel_progress(height * width) as advance:
        counts = count_labels(opened, advance)
    click.echo(f"mask    {facts['source']} ({facts['kind']})")
    click.echo(f"size    {width} x {height} pixels (width x height)")
    click.echo(f"dtype   {facts['dtype']}")
    click.echo(f"chunks  {opened.chunks[1]} x {opened.chunks[0]} pixels")
    if absent := getattr(opened.plane, "absent", 0):
        click.echo(f"absent  {absent} tiles or strips")
    click.echo(f"mpp     {'unknown' if opened.mpp is None else f'{opened.mpp:g} um per pixel'}")
    legend = {label.value: label.name for label in own_legend(opened)}
    for name, other in opened.beside.items():
        click.echo(f"beside  {name} ({other.plane.dtype})")
    for value, count in counts.items():
        area = f"{count * opened.mpp**2 / 1e6:10.3f} mm2" if opened.mpp else f"{count:14d} px"
        share = f"{100 * count / math.prod(opened.shape):7.3f} %"
        click.echo(f"label   {value:<3d} {share} {area}  {legend.get(value, '')}".rstrip())


# What the commands share


def _legend_of(like: Path | None) -> Sequence[Label]:
    """What a mask says of its labels; nothing of slides and images."""
    from .open import open_mask
    from .to_geojson import own_legend

    return () if like is None or not like.is_dir() else own_legend(open_mask(like))


def _polygons(counts: Counter[str]) -> str:
    """Count polygons and name their classes, as the beginning of a sentence."""
    several = counts.total() > 1
    names = ", ".join(f"{count} {name}" if several else name for name, count in counts.most_common(8))
    return f"{counts.total()} polygon{'s' * several} ({names}{', ...' * (len(counts) > 8)}) {'are' if several else 'is'}"


def _write(
    out: Path,
    paint: Paint,
    size: tuple[int, int],
    *,
    mpp: float | None,
    pixels: int | None = None,
    **options: Any,
) -> None:
    """Write a mask of `size` (height, width) piece by piece, of `pixels` where not all are drawn, and print what was written."""
    from .write import write_labels

    height, width = size
    with pixel_progress(height * width if pixels is None else pixels) as advance:
        write_labels(out, paint, height=height, width=width, mpp=mpp, progress=advance, **options)
    tell_size(out, height, width, mpp)


commands.add_command(synthesize_nuclei)
commands.add_command(to_geojson)
commands.add_command(to_png)


main = partial(run_program, commands, NAME)


if __name__ == "__main__":
    main()
