"""``safron-mask synthesize-nuclei``: pictures of nuclei and their masks, from real tiles without labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
from safron.io.console import PIXEL_SIZE, debug_option, option, warn
from safron.io.errors import counted
from safron.io.progress import pixel_progress

from .cli_options import NAME, SHARE, size_of


def _radius(value: str) -> tuple[float, float]:
    """Read LOW,HIGH."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", value.replace(" ", ""))
    if match is None:
        raise ValueError(f"{value!r} must be two numbers LOW,HIGH, as 4,17")
    return float(match[1]), float(match[2])


@click.command(
    "synthesize-nuclei",
    epilog="\b\nExamples:\n  safron-mask synthesize-nuclei tiles/ nuclei.zarr --size 4096,4096\n"
    "  safron-render nuclei.zarr slide.svs --model refiner.onnx --image nuclei.zarr/image",
)
@click.argument("tiles", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="TILES...")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.zarr")
@option("--size", "Size of the picture: width and height, in pixels.", "W,H", parse=size_of, required=True)
@option("--seed", "Seed, a whole number.", "N", type=int, default=0)
@option(
    "--radius",
    "Smallest and largest mean radius of a nucleus, in pixels.",
    "LOW,HIGH",
    parse=_radius,
    default="4,17",
)
@option("--cellularity", "How crowded nuclei are, 0 to 1.", "N", type=SHARE, default=0.5)
@option("--pleomorphism", "How much nuclei differ in size and shape, 0 to 1.", "N", type=SHARE, default=0.5)
@option("--soot", "How much soot lies upon the picture, 0 to 1.", "N", type=SHARE, default=0.0)
@option(
    "--rule",
    "How many pixels of a tile are taken for nuclei: otsu, by Otsu's threshold; table, as in the paper.",
    type=click.Choice(["otsu", "table"]),
    default="otsu",
)
@option(
    "--shrink",
    "Make the picture smaller by this whole number: 2 for 0.5 um from tiles at 0.25 um. W,H are its size then.",
    "N",
    type=click.IntRange(1, 16),
    default=1,
)
@option("--mpp", "Pixel size of the tiles, in micrometres per pixel.", "UM", type=PIXEL_SIZE, default=0.25)
@option("--overwrite", "Replace OUT if this command made it.", is_flag=True)
@option(
    "--workers",
    "Number of chunks drawn at a time.",
    "N",
    type=click.IntRange(1),
    shown="one per core, at most 8",
)
@debug_option
def synthesize_nuclei(
    tiles: tuple[Path, ...],
    out: Path,
    size: tuple[int, int],
    seed: int,
    radius: tuple[float, float],
    rule: Any,
    shrink: int,
    mpp: float,
    soot: float,
    overwrite: bool,
    workers: int | None,
    **shape: float,
) -> None:
    """Draw synthetic nuclei upon real tissue, and their mask.

    TILES are H&E images, or folders of them; they need no labels. Their nuclei are removed, and nuclei with random outlines
    are drawn in their colour and texture (Hou et al., Unsupervised Histopathology Image Synthesis, 2017, section 2).
    OUT.zarr holds the mask (labels/class and labels/instance) and the picture (image, RGB).
    """
    from safron.io.synthesis.draw import Picture, Synthesizer
    from safron.io.synthesis.layout import Layout
    from safron.io.synthesis.shrinking import shrink_picture
    from safron.io.synthesis.textures import make_textures
    from safron.io.synthesis.tiles import read_tiles

    from .write_pictures import check_pictures, write_pictures

    check_pictures(out, overwrite=overwrite)
    height, width = size
    layout = Layout(seed, shrink * width, radius, **shape)
    given = read_tiles(tiles)
    textures, left = make_textures(given, rule=rule)
    for reason in left:
        warn(NAME, f"{reason}; left out")
    about = {
        "seed": seed,
        "radius": radius,
        "rule": rule,
        "shrink": shrink,
        "soot": soot,
        "tiles": [name for name, _ in given],
        **shape,
    }
    synthesizer = Synthesizer(textures, layout, soot=soot)

    def draw(y0: int, x0: int, y1: int, x1: int) -> Picture:
        return shrink_picture(synthesizer.draw(*(shrink * end for end in (y0, x0, y1, x1))), shrink)

    with pixel_progress(height * width) as advance:
        write_pictures(
            out,
            draw,
            height=height,
            width=width,
            mpp=mpp * shrink,
            about=about,
            workers=workers,
            overwrite=overwrite,
            progress=advance,
        )
    click.echo(
        f"{out}: {width} x {height} pixels, {mpp * shrink:g} um per pixel, from {counted(len(textures), 'tile')}"
    )
