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
from safron.io.errors import counted
from safron.io.progress import pixel_progress

from .cli_edges import edges
from .cli_exports import to_geojson, to_png
from .cli_nuclei import synthesize_nuclei
from .cli_options import (
    MPP,
    NAME,
    SIZE,
    canvas_of,
    map_options,
    named_values,
    open_source,
    palette_options,
    relabel_of,
    size_of,
    warn_of_numbers,
    write_mask,
    write_options,
)
from .cli_polygons import from_instances, from_polygons
from .cli_seeds import colon, ellipses

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from .mask import LabelMask

from safron.io.legend import Label

# Options

mpp_option = option("--mpp", MPP, "UM", type=PIXEL_SIZE, shown="the source's, if it says")


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
    from .stored import pieces_of
    from .write import CHUNK, check_target, whole_chunks

    check_target(out, overwrite=overwrite)
    if indices and palette is not None:
        raise click.UsageError("--indices and --palette: give only one")
    palette = "indices" if indices else palette
    relabel = relabel_of(mapping, binarize=binarize)
    mask = open_source(image, palette, palette_tolerance, mpp=mpp, relabel=relabel)
    warn_of_numbers(
        mask,
        f"{out} has labels only, so nuclei of one label that touch are one; copy the folder to keep them",
    )
    # Strips as wide as the image are read once, and not once for every chunk that they cross.
    strip = CHUNK, whole_chunks(min(mask.chunks[1], (1 << 26) // CHUNK))
    pieces = pieces_of(mask, strip, remedy="cut it up, or correct its metadata")
    write_mask(
        out,
        lambda rows, cols: mask[rows, cols],
        mask.shape,
        mpp=mpp or mask.mpp,
        # Names are those of the stored numbers.
        labels=_names_of(mask, palette) if relabel is None else (),
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
    write_mask(
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


commands.add_command(ellipses)
commands.add_command(colon)


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
        click.echo(f"absent  {counted(absent, 'tile or strip', 'tiles or strips')}")
    click.echo(f"mpp     {'unknown' if opened.mpp is None else f'{opened.mpp:g} um per pixel'}")
    legend = {label.value: label.name for label in own_legend(opened)}
    for name, other in opened.beside.items():
        click.echo(f"beside  {name} ({other.plane.dtype})")
    for value, count in counts.items():
        area = f"{count * opened.mpp**2 / 1e6:10.3f} mm2" if opened.mpp else f"{count:14d} px"
        share = f"{100 * count / math.prod(opened.shape):7.3f} %"
        click.echo(f"label   {value:<3d} {share} {area}  {legend.get(value, '')}".rstrip())


# What the commands share


def _names_of(mask: LabelMask, palette: str | None) -> Sequence[Label]:
    """Names and colours that the labels of a mask have; none where another program's attribute of that name is of another form."""
    from safron.io.errors import BadInput
    from safron.io.legend import DEFAULT_LABELS

    from .to_geojson import own_legend

    if palette == "builtin":
        return DEFAULT_LABELS
    try:
        return own_legend(mask)
    except BadInput as error:
        warn(NAME, f"{error}; names are left out")
        return ()


def _legend_of(like: Path | None) -> Sequence[Label]:
    """What a mask says of its labels; nothing of slides and images."""
    from .open import open_mask
    from .to_geojson import own_legend

    return () if like is None or not like.is_dir() else own_legend(open_mask(like))


def _polygons(counts: Counter[str]) -> str:
    """Count polygons and name their classes, as the beginning of a sentence."""
    several = counts.total() > 1
    names = ", ".join(f"{count} {name}" if several else name for name, count in counts.most_common(8))
    return f"{counted(counts.total(), 'polygon')} ({names}{', ...' * (len(counts) > 8)}) {'are' if several else 'is'}"


commands.add_command(synthesize_nuclei)
commands.add_command(to_geojson)
commands.add_command(to_png)


main = partial(run_program, commands, NAME)


if __name__ == "__main__":
    main()
