"""``safron-tiles``: cut slides and their masks into a data set."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click
from safron.io.apart import check_outputs
from safron.io.console import (
    SETTINGS,
    Program,
    debug_option,
    option,
    run_program,
    version_option,
    warn,
    with_options,
)
from safron.io.masks.cli_options import open_source, palette_options
from safron.io.progress import progress

NAME = "safron-tiles"
FORMATS = ("folders", "coco", "geojson", "webdataset")


def _shares(text: str) -> tuple[float, ...]:
    """Read two or three shares that add up to one."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) not in (2, 3) or not all(share >= 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"{text!r} must be shares of train, val and test that add up to 1, as 0.8,0.1,0.1")
    return shares


@click.command(
    cls=Program,
    context_settings=SETTINGS,
    epilog="\b\nExamples:\n  safron-tiles slide.tiff mask.zarr tiles --size 512 --split 0.8,0.1,0.1\n"
    "  safron-tiles tiles --slides list.csv --format coco",
)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[SLIDE MASK] OUT")
@option(
    "--slides",
    "Cut many slides: a list with columns mask and out, as safron-render --slides takes it.",
    "CSV",
    type=click.Path(path_type=Path),
)
@option(
    "--instances",
    "Numbers of the slide's instances (nuclei, glands): a mask of whole numbers of any size. A list has a column of this name.",
    "MASK",
)
@option("--size", "Side of a tile, in pixels.", "PX", type=click.IntRange(16, 16384), default=512)
@option("--stride", "Distance between tiles, in pixels.", "PX", type=click.IntRange(1), shown="--size")
@option(
    "--split",
    "Shares of train, val and test.",
    "A,B[,C]",
    parse=_shares,
    default="0.8,0.1,0.1",
    called="shares",
)
@option(
    "--by",
    "What is split: slide, whole slides, those of one mask together; region, bands of each slide with a gap between them.",
    type=click.Choice(["slide", "region"]),
    shown="slide with --slides, else region",
)
@option(
    "--gap",
    "Least distance between tiles of different splits, in pixels.",
    "PX",
    type=click.IntRange(0),
    shown="--size",
)
@option(
    "--format",
    "folders: images and masks as PNG; coco: images and one JSON; geojson: images and polygons; webdataset: tar archives.",
    type=click.Choice(FORMATS),
    default="folders",
    called="kind",
)
@option(
    "--min-tissue",
    "Least share of a tile that is not background, a number from 0 to 1.",
    "SHARE",
    type=click.FloatRange(0, 1),
    default=0.1,
)
@option(
    "--background",
    "Label of background, 0 to 255; repeat for each.",
    "N",
    type=click.IntRange(0, 255),
    multiple=True,
    shown="0",
)
@option("--seed", "Seed of the split by slides, a whole number.", "N", type=int, default=0)
@with_options(*palette_options)
@option("--overwrite", "Replace OUT if it is a data set.", is_flag=True)
@debug_option
@version_option
def command(
    paths: tuple[Path, ...],
    slides: Path | None,
    instances: str | None,
    palette: str | None,
    palette_tolerance: int,
    overwrite: bool,
    **cutting: Any,
) -> None:
    """Cut SLIDE and the labels of its pixels, MASK, into tiles in the folder OUT.

    Tiles of different splits share no pixel and have a gap between them. OUT holds manifest.json (seeds, digests and licences of all
    slides) and tiles.csv (place and split of each tile).
    """
    from .cut import TileOptions, check_target, cut_tiles

    if len(paths) != (3 if slides is None else 1):
        raise click.UsageError("give SLIDE, MASK and OUT, or --slides LIST.csv and OUT")
    out = paths[-1]
    check_target(out, overwrite=overwrite)
    if slides is not None and instances is not None:
        raise click.UsageError("--instances: with --slides, name them in a column of the list")
    pairs = [(paths[0], str(paths[1]), instances or "")] if slides is None else _listed(slides)
    for slide, mask, other in pairs if slides is not None else ():
        named: list[tuple[str, str | Path]] = [("slide", slide), ("mask", mask), ("instances", other)]
        check_outputs([(name, path) for name, path in named if str(path)], [("", out)], replaced=overwrite)
    size = cutting["size"]
    cutting["background"] = cutting["background"] or (0,)
    options = TileOptions(
        **_or_else(cutting, stride=size, gap=size, by="region" if slides is None else "slide")
    )
    opened = [(slide, open_source(mask, palette, palette_tolerance)) for slide, mask, _ in pairs]
    numbers = [open_source(other, None, 0) if other else None for *_, other in pairs]
    for (_, labels), taken in zip(opened, numbers, strict=True):
        if taken is None and "instances" in labels.beside:
            where = f"{labels.source}/labels/instance"
            way_out = (
                f"pass --instances {where}" if slides is None else f"name {where} in the column instances"
            )
            warn(NAME, f"{labels.source}: its numbers of nuclei are left out; {way_out}")
    with progress(None, "tiles") as advance:
        counts = cut_tiles(
            opened,
            out,
            options,
            instances=numbers,
            overwrite=overwrite,
            progress=advance,
            warn=lambda text: warn(NAME, text),
        )
    click.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _or_else(given: dict[str, Any], **usual: Any) -> dict[str, Any]:
    """Options, with the usual values of those that were not given."""
    return given | {name: value for name, value in usual.items() if given[name] is None}


def _listed(path: Path) -> list[tuple[Path, str, str]]:
    """Slides and masks of a list; relative names start at the working folder, as safron-render has them."""
    from safron.io.errors import BadInput
    from safron.io.files import parse_text
    from safron.io.tables import read_table

    def read(text: str) -> list[tuple[Path, str, str]]:
        table = read_table(text)
        rows = [dict(zip(table.columns, cells, strict=False)) for _, cells in table.rows]
        return [(Path(row["out"]), row["mask"], row.get("instances", "")) for row in rows]

    found = parse_text(path, read, kind="CSV", remedy="give columns mask and out", name="--slides ")
    if not found:
        raise BadInput(f"--slides {path}: lists no slide")
    return found


main = partial(run_program, command, NAME)


if __name__ == "__main__":
    main()
