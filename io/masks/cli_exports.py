"""``safron-mask to-geojson``, ``to-png``: give a mask to other programs."""

from __future__ import annotations

from pathlib import Path

import click
from safron.io.console import POSITIVE, debug_option, option, warn, with_options
from safron.io.errors import counted
from safron.io.legend import Label
from safron.io.progress import pixel_progress

from .cli_options import NAME, named_values, open_source, palette_options, warn_of_numbers

overwrite_option = option("--overwrite", "Replace OUT.", is_flag=True)


@click.command(
    "to-geojson",
    epilog="\b\nExamples:\n  safron-mask to-geojson mask.zarr regions.geojson\n"
    "  safron-mask to-geojson mask.zarr regions.geojson.gz --label Tumor=2 --min-area 50",
)
@click.argument("mask")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.geojson[.gz]")
@option(
    "--label",
    "Name of a label; repeat for each.",
    "NAME=VALUE",
    called="labels",
    multiple=True,
    callback=named_values,
    shown="the mask's, else label N",
)
@option(
    "--background",
    "Label that is not drawn, 0 to 255; repeat for each.",
    "N",
    type=click.IntRange(0, 255),
    multiple=True,
    shown="0",
)
@option(
    "--min-area",
    "Smallest region and smallest hole that are drawn, as a number of pixels of the mask.",
    "N",
    type=click.IntRange(0),
    default=0,
)
@option(
    "--downsample",
    "Size of a pixel of the mask, in pixels of the slide.",
    "N",
    type=POSITIVE,
    default=1.0,
)
@with_options(*palette_options, overwrite_option, debug_option)
def to_geojson(
    mask: str,
    out: Path,
    labels: dict[str, int],
    background: tuple[int, ...],
    min_area: int,
    downsample: float,
    palette: str | None,
    palette_tolerance: int,
    overwrite: bool,
) -> None:
    """Write the regions of a mask as annotations for QuPath.

    A region is a polygon with holes along the sides of its pixels. from-geojson draws the file back to the same mask, pixel
    for pixel. The mask is read twice, piece by piece.
    """
    from safron.io.files import check_output_path

    from .geojson import MAX_GEOJSON_BYTES
    from .to_geojson import ENDINGS, legend_of, write_geojson

    _check_names(labels)
    check_output_path(out, overwrite=overwrite, endings=ENDINGS)
    opened = open_source(mask, palette, palette_tolerance)
    warn_of_numbers(opened, "nuclei of one label that touch become one region")
    height, width = opened.shape
    with pixel_progress(2 * height * width) as advance:
        found = write_geojson(
            out,
            opened,
            legend=legend_of(opened, labels),
            left_out=background or (0,),
            min_area=min_area,
            downsample=downsample,
            overwrite=overwrite,
            progress=advance,
        )
    for name, value in labels.items():
        if not found[name] and value not in (background or (0,)):
            warn(NAME, f"--label {name}={value}: the mask has no region of label {value} to draw")
    names = ", ".join(f"{count} {name}" for name, count in found.most_common(8))
    click.echo(f"{out}: {counted(found.total(), 'region')}" + (f" ({names})" if names else ""))
    if _unpacked_size(out) > MAX_GEOJSON_BYTES:
        warn(
            NAME,
            f"{out}: is larger than the {MAX_GEOJSON_BYTES >> 20} MiB, unpacked, that from-geojson reads; "
            "--min-area N leaves out small regions",
        )


def _check_names(labels: dict[str, int]) -> None:
    """Refuse two names of one label, of which a region has one."""
    names: dict[int, str] = {}
    for name, value in labels.items():
        if (other := names.setdefault(value, name)) != name:
            raise click.UsageError(
                f"--label {name}={value}: label {value} is called {other} already; give it one name"
            )


def _unpacked_size(path: Path) -> int:
    """Bytes of a file; of one packed by gzip those that its last four say, which is below 4 GiB."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if path.suffix == ".gz":
            file.seek(-4, 2)
            size = max(size, int.from_bytes(file.read(4), "little"))
    return size


@click.command(
    "to-png",
    epilog="\b\nExamples:\n  safron-mask to-png mask.zarr mask.png\n  safron-mask to-png mask.zarr small.png --downsample 16",
)
@click.argument("mask")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.png")
@option(
    "--downsample",
    "Size of a pixel of the picture, in pixels of the mask: the label in the middle is shown.",
    "N",
    type=click.IntRange(1),
    default=1,
)
@with_options(*palette_options, overwrite_option, debug_option)
def to_png(
    mask: str, out: Path, downsample: int, palette: str | None, palette_tolerance: int, overwrite: bool
) -> None:
    """Write a mask as a picture in the colours of its classes.

    The picture is an indexed PNG: its numbers are the labels, and safron-mask import --indices gives the mask back.
    """
    from safron.io.files import check_output_path

    from .palette import read_palette
    from .to_geojson import legend_of
    from .to_png import write_png

    check_output_path(out, overwrite=overwrite, endings=(".png",))
    opened = open_source(mask, palette, palette_tolerance)
    warn_of_numbers(opened, "nuclei of one label that touch are one in the picture")
    legend = legend_of(opened, {})
    if palette is not None and palette != "indices":
        for value, color in read_palette(palette).items():
            legend[value] = Label(value, legend[value].name, color)
    with pixel_progress(opened.shape[0] * opened.shape[1]) as advance:
        height, width = write_png(
            out,
            opened,
            legend=legend,
            downsample=downsample,
            overwrite=overwrite,
            progress=advance,
        )
    click.echo(f"{out}: {width} x {height} pixels")
