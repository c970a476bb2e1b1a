"""Which options do the commands of ``safron-mask`` share, and how do they open a mask?"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import debug_option, option, warn
from safron.io.errors import BadInput
from safron.io.progress import pixel_progress

if TYPE_CHECKING:
    from .mask import LabelMask
    from .relabel import Relabel
    from .write import Paint

NAME = "safron-mask"
MPP = "Pixel size, in micrometres per pixel; kept in the mask."
SIZE = "Size of the mask: width and height, in pixels."
SHARE = click.FloatRange(0, 1)
MOST_UNASKED = 1 << 36
"""Most pixels of a mask whose size nobody gave, 262,144 a side: twice those of the largest slides. Drawing them takes hours."""


def warn_of_numbers(mask: LabelMask, why: str) -> None:
    """Warn that the numbers of nuclei beside some labels are not taken, if there are any; with what follows from that."""
    if "instances" in mask.beside:
        warn(NAME, f"{mask.source}: its numbers of nuclei are left out: {why}")


def size_of(value: str) -> tuple[int, int]:
    """Read W,H as (height, width)."""
    from .mask import MAX_SIDE

    match = re.fullmatch(r"(\d+)[,x](\d+)", value.replace(" ", ""))
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise ValueError(f"{value!r} must be two whole numbers W,H, each at least 1, as 4096,4096")
    if max(int(match[1]), int(match[2])) > MAX_SIDE:
        raise ValueError(f"{value!r}: a mask has at most {MAX_SIDE} pixels a side")
    return int(match[2]), int(match[1])


def named_values(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    """Read NAME=VALUE, any number of times."""
    labels: dict[str, int] = {}
    for text in values:
        name, _, value = text.rpartition("=")
        if not name or not value.isdecimal() or int(value) > 255:
            raise click.BadParameter(f"{text!r} must be NAME=VALUE with a value from 0 to 255, as Tumor=2")
        if labels.setdefault(name, int(value)) != int(value):
            raise click.BadParameter(f"{text!r}: {name} has the label {labels[name]} already; give it one")
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


overwrite_option = option("--overwrite", "Replace OUT if it is a mask.", is_flag=True)
write_options = (
    overwrite_option,
    option(
        "--workers",
        "Number of chunks written at a time.",
        "N",
        type=click.IntRange(1),
        shown="one per core, at most 8",
    ),
    debug_option,
)

map_options = (
    option(
        "--map",
        "What stored numbers become, labels from 0 to 255: 255=2,3=1 or 1-65535=2 or *=1 for all others.",
        "N=LABEL,...",
        called="mapping",
    ),
    option("--binarize", "Give every pixel that is not 0 the label 1, as --map 0=0,*=1.", is_flag=True),
    option(
        "--indices",
        "Take the stored numbers of an indexed PNG as labels, as --palette indices.",
        is_flag=True,
    ),
)


def relabel_of(mapping: str | None, *, binarize: bool) -> Relabel | None:
    """Rules of the options."""
    from .relabel import BINARY, Relabel

    if mapping is not None and binarize:
        raise click.UsageError("--map and --binarize: give only one; --map 0=0,*=1 is the same as --binarize")
    return Relabel.parse(mapping) if mapping is not None else BINARY if binarize else None


def open_source(
    source: str,
    palette: str | None,
    tolerance: int,
    *,
    mpp: float | None = None,
    relabel: Relabel | None = None,
) -> LabelMask:
    """Open a mask and pass on its notes."""
    from .open import open_mask
    from .palette import read_palette, read_png_colours

    colours = None
    if palette is not None:
        colours = read_png_colours(Path(source)) if palette == "indices" else read_palette(palette)
    mask = open_mask(
        source, palette=colours, palette_tolerance=tolerance, use_palette=colours is not None, relabel=relabel
    )
    for note in mask.notes if mpp is None else mask.label_notes:
        warn(NAME, f"{source}: {note}")
    return mask


def canvas_of(
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
    if downsample < 1:
        check_no_more_than_a_slide(height, width, downsample, str(like))
    return height, width, pixel.mpp * downsample if pixel.mpp else None


def check_no_more_than_a_slide(height: int, width: int, downsample: float, what: str) -> None:
    """Refuse a mask whose size nobody gave, and which would take days to draw.

    Parameters
    ----------
    height, width
        Pixels of the mask.
    downsample
        Size of a pixel of the mask, in pixels of what it is drawn after.
    what
        What that is, as the user gave it.

    Raises
    ------
    BadInput
        It has more than `MOST_UNASKED` pixels.
    """
    if height * width > MOST_UNASKED:
        least = downsample * math.sqrt(height * width / MOST_UNASKED)
        digits = 10.0 ** (math.floor(math.log10(least)) - 1)
        raise BadInput(
            f"{what}: with --downsample {downsample:g} its mask has {width} x {height} pixels, more than any slide that is scanned; "
            f"give --downsample {math.ceil(least / digits) * digits:.12g} or more, or the size that is meant with --size W,H"
        )


def tell_size(out: Path, height: int, width: int, mpp: float | None) -> None:
    """Print what was written."""
    click.echo(f"{out}: {width} x {height} pixels" + (f", {mpp:g} um per pixel" if mpp else ""))


def write_mask(
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
