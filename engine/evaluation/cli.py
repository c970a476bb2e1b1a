"""``safron-eval``: can the patches be seen, does the slide lie on its mask, and how near is it to real tissue?"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from safron.io.console import SETTINGS, ProgramGroup, debug_option, option, run_program, version_option, warn
from safron.io.errors import BadInput

if TYPE_CHECKING:
    from .tile_sets import TileSet

NAME = "safron-eval"
NOT_FID = "weight-free; not FID or KID, comparable with nothing but itself"


def _writable(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse at once what could not be written after hours."""
    if value is not None:
        from safron.io.files import check_output_path

        check_output_path(value, overwrite=True, name="--report ")
    return value


report_option = option(
    "--report",
    "Write everything that was measured as JSON.",
    "JSON",
    callback=_writable,
    type=click.Path(path_type=Path, dir_okay=False),
)


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Measure slides: seams between patches, alignment with the mask, distance from real tissue."""


@commands.command(
    epilog="Example: safron-eval seams slide.tiff --mask mask.zarr --model safron-seamless --report seams.json"
)
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@option("--mask", "Mask that the slides were rendered from; adds the alignment.", "MASK")
@option(
    "--model",
    "Generator, for the mismatch before blending; needs --mask. One for all slides, or one for each in turn.",
    "NAME|FILE",
    called="models",
    multiple=True,
)
@option("--real", "Real slide: boundary ratios are divided by its own ratios at the same phases.", "SLIDE")
@option("--tile", "Patch size, in pixels a side.", "PX", type=click.IntRange(1), shown="the slide's own")
@option(
    "--overlap",
    "Overlap of neighbouring patches, in pixels.",
    "PX",
    type=click.IntRange(0),
    shown="the slide's own",
)
@option("--seed", "Seed of the noise, a whole number.", "N", type=int, shown="the slide's own, else 0")
@option("--device", "Device that the generator runs on.", "auto|cpu|cuda[:N]", default="auto")
@option(
    "--palette-tolerance",
    "Largest difference, 0 to 255 in any channel, between a colour of a colour-coded mask and its label's colour.",
    "N",
    type=click.IntRange(0, 255),
    default=0,
)
@report_option
@debug_option
def seams(slides: tuple[str, ...], models: tuple[str, ...], report: Path | None, **options: Any) -> None:
    """Look for the grid of patches in each SLIDE, one row of a table each. No weights, no reference.

    A z of 6 or more, either way, is a seam.
    """
    from .seam_report import evaluate_seams, seam_table, write_report

    if len(models) not in (0, 1, len(slides)):
        raise click.UsageError(
            f"{len(models)} generators for {len(slides)} slides: give one, or one for each"
        )
    each = models * len(slides) if len(models) == 1 else models or (None,) * len(slides)
    reports = [
        evaluate_seams(slide, model=model, **options) for slide, model in zip(slides, each, strict=True)
    ]
    for line in seam_table(reports):
        click.echo(line)
    if report is not None:
        write_report(report, {"seams": [item.json for item in reports]})


@commands.command(epilog="Example: safron-eval fid real/ slide.tiff --weights inception.pt --size 256")
@click.argument("real")
@click.argument("fake")
@option(
    "--weights",
    "Encoder for FID and KID: TorchScript, or torch-fidelity's InceptionV3 weights. Nothing is downloaded.",
    "FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    shown="none: texture distances instead",
)
@option("--size", "Size of a tile, in pixels a side.", "PX", type=click.IntRange(32), default=256)
@option(
    "--tiles",
    "Largest number of tiles of each set; the same number is taken of both.",
    "N",
    type=click.IntRange(8),
    default=5000,
)
@option(
    "--jpeg",
    "JPEG quality, 1 to 100, that the tiles of both sets are encoded with first.",
    "N",
    type=click.IntRange(1, 100),
    shown="as they are",
)
@option(
    "--seed",
    "Seed of the choice of tiles, a whole number; each tile is as likely as any other.",
    "N",
    type=click.IntRange(0),
    default=0,
)
@option("--device", "PyTorch device of the encoder.", "DEVICE", default="cpu")
@report_option
@debug_option
def fid(
    real: str,
    fake: str,
    weights: Path | None,
    size: int,
    tiles: int,
    jpeg: int | None,
    seed: int,
    device: str,
    report: Path | None,
) -> None:
    """Compare the tissue of REAL and FAKE, each a slide, an image or a folder of either.

    With --weights: FID and KID. Without: texture distances, which need no weights and are not FID.
    """
    from .seam_report import format_table, write_report
    from .tile_sets import find_tiles

    sets = [find_tiles(source, size=size, most=tiles, seed=seed, jpeg=jpeg) for source in (real, fake)]
    count = min(len(found) for found in sets)
    if count < 8:
        raise BadInput(
            f"{real}, {fake}: {count} tiles of {size} px in the smaller set, at least 8 are needed"
        )
    first, second = (found.take(count, seed=seed) for found in sets)
    if first.mpp and second.mpp and abs(first.mpp / second.mpp - 1) > 0.05:
        warn(
            NAME,
            f"REAL has {first.mpp:g} um per pixel and FAKE {second.mpp:g}: the distance will be of scale, too",
        )
    measured = _texture(first, second) if weights is None else _deep(first, second, weights, device)
    rows = [["measure", "distance", "+-"]]
    rows += [
        [name, f"{value:.4g}", f"{spread:.2g}" if spread is not None else "-"]
        for name, value, spread in measured["measures"]
    ]
    for line in [*format_table(rows), f"{count} tiles of {size} px of each set; {measured['what']}"]:
        click.echo(line)
    if count <= measured["dimensions"]:
        warn(
            NAME,
            f"{count} tiles for {measured['dimensions']} features: the Frechet distance is mostly bias; "
            "read the kernel distance",
        )
    if report is not None:
        facts = {"real": real, "fake": fake, "tiles": count, "size": size, "jpeg": jpeg, "seed": seed}
        write_report(report, facts | {"mpp": [first.mpp, second.mpp]} | measured)


def _texture(real: TileSet, fake: TileSet) -> dict[str, Any]:
    from .texture_distance import frechet_distance, kernel_distance, standardize, texture_features

    click.echo(f"{NAME}: no --weights: texture distances are measured, which are not FID and KID", err=True)
    first, second = standardize(texture_features(real), texture_features(fake))
    kernel, spread = kernel_distance(first, second)
    measures = [
        ("texture Frechet", frechet_distance(first, second), None),
        ("texture kernel", kernel, spread),
    ]
    return {"measures": measures, "what": NOT_FID, "dimensions": first.shape[1], "weights_sha256": None}


def _deep(real: TileSet, fake: TileSet, weights: Path, device: str) -> dict[str, Any]:
    import importlib.util

    for module in ("torch", "torchmetrics"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(
                f"--weights: needs {module}, which is not installed; run: pip install 'safron[train]'"
            )
    # Here alone the engine's command reaches into training, which is where PyTorch may be used.
    from .fid import deep_distances
    from .texture_distance import subset_size

    found = deep_distances(real, fake, weights, subset=subset_size(len(real), len(fake)), device=device)
    measures = [("FID", found.fid, None), ("KID", found.kid, found.kid_deviation)]
    what = f"encoder {weights.name}, sha256 {found.weights_sha256[:12]}, resized by the encoder itself"
    return {
        "measures": measures,
        "what": what,
        "dimensions": found.dimensions,
        "weights_sha256": found.weights_sha256,
    }


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args : what follows ``safron-eval`` on the command line; None takes it from there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_program(commands, NAME, args)


if __name__ == "__main__":
    main()
