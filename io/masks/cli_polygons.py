"""``safron-mask from-polygons``, ``from-instances``: nuclei with classes and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import PIXEL_SIZE, POSITIVE, option, warn, with_options
from safron.io.errors import counted
from safron.io.progress import pixel_progress

from .cli_options import NAME, canvas_of, check_no_more_than_a_slide, size_of, tell_size, write_options

if TYPE_CHECKING:
    from collections.abc import Sequence, Set

    from .classes import ClassTable
    from .polygon_mask import PolygonMask
    from .polygons import PolygonSet

classes_option = option(
    "--classes",
    "Which label stands for each class: nuclei (labels of the generator of this name, for CoNSeP, histolytics, PanNuke, "
    "MoNuSAC and Lizard), or a table in JSON or TOML.",
    "NAME|FILE",
    shown="classes numbered as in the files",
)


@click.command(
    "from-polygons",
    epilog="\b\nExamples:\n  safron-mask from-polygons cells.geojson mask.zarr --like slide.svs --classes nuclei\n"
    "  safron-mask from-polygons nuclei.npz mask.zarr --regions tissue.npz --classes nuclei --mpp 0.25",
)
@click.argument("nuclei", type=click.Path(path_type=Path), metavar="NUCLEI.npz|.geojson|.json")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option(
    "--regions",
    "Polygons of tissue, of the same formats, drawn beneath the nuclei; they have no numbers. Of a file of QuPath with cells, its annotations.",
    "FILE",
    type=click.Path(path_type=Path),
)
@classes_option
@option("--ignore", "Class to leave out; repeat for each.", "NAME", multiple=True)
@option(
    "--background",
    "Label outside all polygons, 0 to 255.",
    "N",
    type=click.IntRange(0, 255),
    shown="0, or without --regions that of the name tissue",
)
@option(
    "--size",
    "Size of the mask: width and height, in pixels.",
    "W,H",
    parse=size_of,
    shown="that of the polygons",
)
@option(
    "--like",
    "Take size and pixel size from the slide with these nuclei.",
    "SLIDE",
    type=click.Path(path_type=Path),
)
@option(
    "--downsample", "Size of a pixel of the mask, in pixels of the polygons.", "N", type=POSITIVE, default=1.0
)
@option(
    "--mpp",
    "Size of the mask's pixels, in micrometres per pixel; kept in the mask.",
    "UM",
    type=PIXEL_SIZE,
    shown="the slide's, if it says",
)
@with_options(*write_options)
def from_polygons(nuclei: Path, out: Path, *, overwrite: bool, workers: int | None, **choices: Any) -> None:
    """Draw nuclei with their classes and numbers.

    NUCLEI holds one polygon for each: GeoJSON of QuPath or CellViT, JSON of HoVer-Net or CellViT, or .npz with the arrays xy,
    offsets, cls and names. OUT is an OME-Zarr with the label images class and instance. A pixel belongs to a polygon if its
    centre does; contours of HoVer-Net and CellViT are drawn with the pixels that they name. Later polygons cover earlier ones. Memory does not grow with the mask.
    """
    from .polygon_mask import write_polygon_mask
    from .write import check_target

    check_target(out, overwrite=overwrite)
    options = PolygonOptions(nuclei, **choices)
    if options.size is not None and options.like is not None:
        raise click.UsageError("give either --size W,H or --like SLIDE")
    drawing = _plan_drawing(options)
    with pixel_progress(drawing.height * drawing.width) as advance:
        write_polygon_mask(
            out, drawing.mask, drawing.table, height=drawing.height, width=drawing.width, mpp=drawing.mpp,
            about={"sources": options.sources, "table": options.classes or "classes numbered as in the files"},
            progress=advance, workers=workers, overwrite=overwrite,
        )  # fmt: skip
    tell_size(out, drawing.height, drawing.width, drawing.mpp)
    _tell_classes(drawing, options)
    _warn_of_losses(drawing)


@dataclass(frozen=True)
class PolygonOptions:
    """What the user says of a drawing; see the command's options."""

    nuclei: Path
    regions: Path | None
    classes: str | None
    ignore: tuple[str, ...]
    background: int | None
    size: tuple[int, int] | None
    like: Path | None
    downsample: float
    mpp: float | None

    @property
    def sources(self) -> dict[str, str]:
        """Names of the files, by what they hold."""
        return {"nuclei": self.nuclei.name} | ({"regions": self.regions.name} if self.regions else {})


@dataclass(frozen=True)
class _Drawing:
    """What is drawn, with which labels, and the size of the mask."""

    mask: PolygonMask
    table: ClassTable
    height: int
    width: int
    mpp: float | None


def _plan_drawing(options: PolygonOptions) -> _Drawing:
    """Read the polygons, choose their labels and the size of the mask, and warn of what may be meant otherwise."""
    from .classes import read_table, table_of
    from .polygon_mask import PolygonMask, check_canvas, layer_of

    found = _read(options.nuclei, options.downsample)
    beneath = None if options.regions is None else _read(options.regions, options.downsample, regions=True)
    both = [found] if beneath is None else [found, beneath]
    table = table_of(both) if options.classes is None else read_table(options.classes)
    _warn_of_unknown_classes(options.ignore, {name.lower() for polygons in both for name in polygons.names})
    layer = layer_of(found, table, options.ignore, source=str(options.nuclei), numbered=True)
    under = None
    if beneath is not None:
        under = layer_of(beneath, table, options.ignore, source=str(options.regions), numbered=False)
    background = options.background
    if background is None:
        tissue = [label.value for label in table.labels if label.name == "tissue"]
        background = tissue[0] if tissue and under is None else 0
    size = options.size
    if size is None and options.like is None:
        size = found.extent
        check_no_more_than_a_slide(*size, options.downsample, str(options.nuclei))
    height, width, mpp = canvas_of(size, options.like, options.downsample, quiet=options.mpp is not None)
    check_canvas(options.nuclei, layer, height, width)
    layer = replace(layer, canvas=(height, width))
    under = None if under is None else replace(under, canvas=(height, width))
    for name, count in layer.polygons.count().items():
        value = int(layer.labels[int((layer.polygons.classes == layer.polygons.names.index(name)).argmax())])
        if table.name(value) in ("tissue", "background"):
            warn(
                NAME,
                f"{options.nuclei}: class {name!r} ({counted(count, 'polygon')}) becomes {table.name(value)}, not nuclei; give regions "
                "with --regions, or another table with --classes",
            )
    return _Drawing(PolygonMask(layer, under, background), table, height, width, options.mpp or mpp)


def _read(path: Path, downsample: float, *, regions: bool = False) -> PolygonSet:
    """Polygons of a file, in pixels of the mask; warns of what else it holds."""
    from .polygons import check_reach, read_polygons

    found = read_polygons(path, regions=regions)
    for note in found.notes:
        warn(NAME, f"{path}: {note}")
    scale = found.scale * downsample
    check_reach(path, found.xy, scale)
    return replace(found, scale=scale)


def _warn_of_unknown_classes(ignore: Sequence[str], names: Set[str]) -> None:
    """Warn of classes that are to be left out and that no polygon has."""
    for name in ignore:
        if name.lower() not in names:
            known = ", ".join(sorted(names))
            warn(NAME, f"--ignore {name}: no polygon is of this class; classes are {known}")


def _tell_classes(drawing: _Drawing, options: PolygonOptions) -> None:
    """Print which label stands for each class."""
    from .polygon_mask import describe

    mask, table = drawing.mask, drawing.table
    lacking = len(mask.nuclei.polygons) - sum(mask.count.values())
    nuclei = counted(len(mask.nuclei.polygons), "nucleus", "nuclei")
    nuclei += f", {lacking} of them without a pixel" * bool(lacking)
    parts = [(nuclei, mask.nuclei, mask.count)]
    if mask.regions is not None:
        regions = counted(len(mask.regions.polygons), "region")
        parts.append((regions, mask.regions, mask.regions.polygons.count()))
    for what, layer, drawn in parts:
        click.echo(f"{what}; classes by table {options.classes or 'of the files'}:")
        for line in describe(layer, table, drawn):
            click.echo(line)
    click.echo(f"outside: {mask.background} {table.name(mask.background)}")


def _warn_of_losses(drawing: _Drawing) -> None:
    """Warn of nuclei of which nothing, or not all, is in the mask that was written."""
    from .crossing import count_crossing

    for line in drawing.mask.lost(drawing.height, drawing.width).told():
        warn(NAME, line)
    if count := count_crossing(drawing.mask.nuclei.polygons):
        warn(
            NAME,
            f"{count} {'outlines of nuclei cross themselves' if count > 1 else 'outline of a nucleus crosses itself'}; "
            "what lies inside twice is left out: look at the program that made the polygons",
        )


@click.command(
    "from-instances",
    epilog="\b\nExample:\n  safron-mask from-instances numbers.tif mask.zarr --table classes.csv --classes nuclei --mpp 0.25",
)
@click.argument("numbers", metavar="NUMBERS")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option(
    "--table",
    "Classes of the nuclei: a line of names, then in each line a number and a class, separated by a comma, a semicolon or a tab.",
    "CSV",
    type=click.Path(path_type=Path),
    required=True,
)
@classes_option
@option(
    "--background",
    "Label where there is no nucleus, 0 to 255.",
    "N",
    type=click.IntRange(0, 255),
    shown="that of the name tissue, else 0",
)
@option(
    "--mpp", "Pixel size, in micrometres per pixel.", "UM", type=PIXEL_SIZE, shown="the image's, if it says"
)
@with_options(*write_options)
def from_instances(
    numbers: str,
    out: Path,
    table: Path,
    classes: str | None,
    background: int | None,
    mpp: float | None,
    overwrite: bool,
    workers: int | None,
) -> None:
    """Give the nuclei of an instance image their classes.

    NUMBERS is any mask of whole numbers, such as a 16-bit PNG, a 32-bit TIFF or a Zarr: each nucleus has one of its own, and 0 is
    none. Numbers need not be consecutive. OUT is an OME-Zarr with the label images class and instance.
    """
    from .classes import read_table
    from .instance_table import ClassedInstances, labels_of, read_instance_table, told
    from .open import open_mask
    from .stored import pieces_of
    from .write import CHUNK, check_target
    from .write_nuclei import write_nuclei

    check_target(out, overwrite=overwrite)
    image, found = open_mask(numbers), read_instance_table(table)
    labels, chosen = labels_of(found, None if classes is None else read_table(classes), source=str(table))
    if background is None:
        background = next((label.value for label in chosen.labels if label.name == "tissue"), 0)
    drawn = ClassedInstances(image.plane, found, labels, background, numbers)
    pieces = pieces_of(
        image,
        (CHUNK, CHUNK),
        remedy="cut it up, or correct its metadata",
        needless=lambda pixel: not image.plane.read(*pixel).any(),
    )
    height, width = image.shape
    mpp = mpp or image.mpp
    with pixel_progress(pieces.pixels) as advance:
        write_nuclei(
            out,
            drawn.paint,
            height=height,
            width=width,
            mpp=mpp,
            most=drawn.most,
            labels=chosen.labels,
            about=lambda: {
                "sources": {"nuclei": Path(numbers).name, "table": table.name},
                "nuclei": found.count(drawn.seen),
            },
            fill=background,
            regions=pieces.regions,
            workers=workers,
            overwrite=overwrite,
            progress=advance,
        )
    tell_size(out, height, width, mpp)
    click.echo(
        f"{counted(len(found.numbers), 'nucleus', 'nuclei')}; classes by table {classes or 'of the file'}:"
    )
    for line in told(found, labels, chosen):
        click.echo(line)
    if absent := int((~drawn.seen).sum()):
        warn(
            NAME,
            f"{table}: {absent} of its {len(drawn.seen)} numbers {'are' if absent > 1 else 'is'} not in {numbers}",
        )
    click.echo(f"elsewhere: {background} {chosen.name(background)}")
