"""``safron-render``: parse, plan, run, report. Everything else is `safron.engine.render`."""

from __future__ import annotations

import gc
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from safron.engine.preparation.options import RenderOptions
from safron.engine.system.memory import keep_one_heap
from safron.io.console import (
    SETTINGS,
    Program,
    debug_option,
    run_program,
    say_if_interrupted,
    version_option,
    warn,
)
from safron.io.errors import BadInput, Failed

if TYPE_CHECKING:
    from safron.engine.preparation.mask_scan import Scan
    from safron.engine.preparation.prepared import Prepared

    from .slide_list import SlideResult

NAME = "safron-render"
DEFAULTS = RenderOptions()

_UNITS = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def _size(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """Read bytes from 4GiB, 500MB or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", value.strip().lower())
    if match is None or match[2] not in _UNITS:
        raise click.BadParameter(f"{value!r} is no size; write it as 4GiB or 500MB")
    return int(float(match[1]) * _UNITS[match[2]])


def _region(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Read four whole numbers."""
    if value is None:
        return None
    if not re.fullmatch(r"\d+,\d+,\d+,\d+", value):
        raise click.BadParameter(f"{value!r} must be four whole numbers X,Y,W,H, as 0,0,2048,1024")
    return tuple(int(part) for part in value.split(","))


def _level_count(ctx: click.Context, param: click.Parameter, value: str) -> int | str:
    """Read a number or "auto"."""
    if value == "auto":
        return value
    if not value.isdecimal():
        raise click.BadParameter(f"{value!r} must be auto or a whole number")
    return int(value)


def _batch(ctx: click.Context, param: click.Parameter, value: str | None) -> int | Path | None:
    """Read a number, or the name of a list of slides."""
    if value is None:
        return None
    if re.fullmatch(r"[+-]?[0-9]+", value):
        return int(value)
    if not value.lower().endswith(".csv"):
        raise click.BadParameter(f"{value!r} is neither a whole number nor a .csv file")
    return Path(value)


def _validate(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from safron.io.slides.validate import validate_slide

    problems = validate_slide(Path(value))
    for problem in problems:
        click.echo(f"{value}: {problem}")
    if not problems:
        click.echo(f"{value}: keeps every promise")
    ctx.exit(1 if problems else 0)


EPILOG = """\b
Examples:
  safron-render mask.zarr slide.tiff --tile 256 --overlap 20
  safron-render labels.png slide.ome.tiff --model generator.onnx --preview slide.png
  safron-render mask.zarr slide.svs --region 0,0,8192,8192 --dry-run
  safron-render --slides list.csv --executor processes --workers 4
  safron-render --status slide.svs
  safron-render --validate slide.svs

Exit codes: 0 done, 1 failed, 2 bad input or usage, 130 interrupted; after 1 and 130 the same command continues.
"""

PATH = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])


def _option(
    name: str, text: str, metavar: str | None = None, *, shown: str | None = None, **more: Any
) -> Callable[[Command], Command]:
    """Make an option whose default is that of the field of `RenderOptions` with its name; `shown` says it in words."""
    default = getattr(DEFAULTS, name.lstrip("-").replace("-", "_"), None)
    more = {"default": default, "show_default": shown or ("none" if default is None else True)} | more
    return click.option(name, metavar=metavar, help=text, **more)


@click.command(cls=Program, epilog=EPILOG, context_settings=SETTINGS)
@click.argument("mask", type=str, required=False)
@click.argument("out", type=str, required=False)
@_option("--model", "Shipped generator by name, 'identity' (label colours), or an ONNX file.", "NAME|FILE")
@_option("--tile", "Pixels a side that one patch writes.", "PX", type=int, shown="the generator's, 256")
@_option("--overlap", "Pixels that neighbouring patches share, blended.", "PX", type=int)
@_option(
    "--taper",
    "Weights in the overlap: plain mean, or faded out.",
    type=click.Choice(["flat", "linear", "cosine"]),
)
@_option("--seed", "Whole number that fixes the noise.", "N", type=int)
@_option("--block", "Pixels a side of one task; a multiple of --tiff-tile.", "PX", type=int, shown="2048")
@_option(
    "--batch",
    "Patches a call of the generator; anything but a number is taken for --slides.",
    "N|CSV",
    callback=_batch,
    shown="8 on a CPU, 32 on CUDA",
)
@_option("--workers", "Blocks in work at a time, or processes.", "N", type=int, shown="2, on a GPU 4")
@_option(
    "--executor",
    "What a worker is; auto takes processes where several GPUs can share the work.",
    type=click.Choice(["auto", "threads", "processes"]),
)
@_option("--scheduler", "Run on the Dask scheduler at tcp://HOST:PORT, or that its file names.", "URL|FILE")
@_option(
    "--cluster", "Run on jobs of a batch system; docs/cluster.md says what the file holds.", "YAML", type=PATH
)
@_option(
    "--security",
    "Paths of TLS certificates that all processes of the render must show: ca, cert, key.",
    "YAML",
    type=PATH,
)
@_option(
    "--dashboard", "Show Dask's pages there, as 127.0.0.1:8787; whoever reaches them sees them.", "HOST:PORT"
)
@_option(
    "--threads",
    "Patches that run side by side on a CPU; worker processes share all cores.",
    "N",
    type=int,
    shown="0, all cores",
)
@_option("--device", "Where the generator runs.", "auto|cpu|cuda[:N]")
@_option(
    "--precision",
    "Of arithmetic on CUDA; float16 needs TensorRT.",
    type=click.Choice(["float32", "tf32", "float16"]),
)
@_option(
    "--compression",
    "Of the tiles; all but jpeg are lossless.",
    type=click.Choice(["jpeg", "deflate", "lzw", "none"]),
)
@_option("--quality", "Of JPEG, 1 to 100.", "N", type=int)
@_option("--chroma", "JPEG colour resolution: halved or full.", type=click.Choice(["420", "444"]))
@_option("--tiff-tile", "Pixels a side of a TIFF tile, a multiple of 16.", "PX", type=int)
@_option(
    "--flavor",
    "TIFF layout.",
    type=click.Choice(["svs", "ome", "generic"]),
    shown="ome for .ome.tif[f], else svs",
)
@click.option(
    "--align",
    is_flag=True,
    help="Pad with glass to a multiple of 2^(levels-1) pixels, which OpenSlide reads faster.",
)
@_option(
    "--mpp",
    "Micrometres per pixel of the mask, and of the slide.",
    "UM",
    type=float,
    shown="the mask's, else the generator's",
)
@_option(
    "--scale",
    "auto draws tissue at its true size, where mask and generator have a pixel size; 1 draws pixel by pixel.",
    type=click.Choice(["auto", "1"]),
)
@_option(
    "--region", "Part of the mask to render, in pixels.", "X,Y,W,H", callback=_region, shown="all of the mask"
)
@_option(
    "--level-count", "Pyramid levels; auto halves until one tile is enough.", "auto|N", callback=_level_count
)
@_option(
    "--palette-tolerance",
    "Largest distance, 0 to 255 a channel, of a colour-coded mask's colours from the palette's.",
    "N",
    type=int,
)
@_option("--scratch", "Folder, or address as s3://BUCKET/NAME, for scratch.", "FOLDER", shown="beside OUT")
@_option(
    "--memory",
    "Memory that the render may take; a plan over it is refused.",
    "SIZE",
    callback=_size,
    default=f"{DEFAULTS.memory >> 30}GiB",
)
@_option("--preview", "Write a picture of the slide, at most 2048 pixels a side.", "PNG", type=PATH)
@_option("--report", "Write the report as JSON.", "JSON", type=PATH)
@_option(
    "--slides",
    "Render a list instead of MASK and OUT: a line a slide, with columns mask, out and options.",
    "CSV",
    type=PATH,
)
@_option("--status", "Say how far a render of OUT is, and stop.", "OUT")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--overwrite", is_flag=True, help="Replace OUT, preview and report, and scratch of other inputs."
)
@click.option(
    "--fresh", is_flag=True, help="Start over, whatever an unfinished render of OUT left; OUT stays."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
@click.option(
    "--validate",
    expose_value=False,
    is_eager=True,
    callback=_validate,
    metavar="FILE",
    help="Reopen a slide, list every broken promise, and stop.",
)
@version_option
def command(
    mask: str | None,
    out: str | None,
    slides: Path | None,
    status: str | None,
    batch: int | Path | None,
    dry_run: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Render the tissue mask MASK into the pyramidal slide OUT.

    MASK is a Zarr array, an OME-Zarr or any image that tifffile, libvips or OpenSlide opens: one label a pixel, or
    colours of the generator's palette. OUT ends in .svs, .tif, .tiff, .ome.tif or .ome.tiff. Both may be
    addresses, as s3://BUCKET/NAME.
    """
    keep_one_heap()
    # NumPy, once it is imported, starts threads for linear algebra that spin for a tenth of a second; nothing here needs them.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if isinstance(batch, Path):
        if slides is not None:
            raise click.UsageError("--batch and --slides: both name a list; give one of them")
        slides, batch = batch, None
    _check_usage(mask, out, slides, status, dry_run=dry_run)
    chosen = RenderOptions(batch=batch, **options)
    _import_engine()
    with _warnings(quiet=quiet):
        if status is not None:
            _show_status(status, chosen, quiet=quiet)
        elif slides is not None:
            _render_list(slides, chosen, quiet=quiet)
        else:
            assert mask is not None
            assert out is not None
            _render(mask, out, dry_run=dry_run, quiet=quiet, options=chosen)


def _import_engine() -> None:
    """Import what every command needs. None of it is garbage: to look for some takes 0.03 s here and 0.07 at the end."""
    gc.disable()
    try:
        import_module(".rendering", __package__)
    finally:
        gc.freeze()
        gc.enable()


def _check_usage(
    mask: str | None, out: str | None, slides: Path | None, status: str | None, *, dry_run: bool
) -> None:
    """Refuse what cannot go together; click knows no either-or."""
    if slides is None and status is None:
        for param, value in (("MASK", mask), ("OUT", out)):
            if value is None:
                raise click.UsageError(f"Missing argument '{param}'.")
        return
    name = "--slides" if slides is not None else "--status"
    if slides is not None and status is not None:
        raise click.UsageError("--slides and --status: give one of them")
    if mask is not None:
        raise click.UsageError(f"{name}: MASK and OUT are not given beside it")
    if dry_run:
        raise click.UsageError(f"{name}: --dry-run is for one slide")


def _show_status(out: str, options: RenderOptions, *, quiet: bool) -> None:
    from .status import render_status

    found = render_status(out, scratch=options.scratch)
    if options.report is not None:
        _write(options.report, found.write)
    if not quiet:
        click.echo(found.line())


def _write(path: Path, write: Callable[[Path], None]) -> None:
    try:
        write(path)
    except OSError as error:
        raise Failed(f"--report {path}: {error.strerror}") from error


def _render_list(file: Path, options: RenderOptions, *, quiet: bool) -> None:
    """Render the slides of a list, with a line for each."""
    from safron.engine.preparation.output_paths import check_apart
    from safron.io.files import check_output_path

    from .slide_list import read_list, render_list, write_results

    if options.report is not None:
        check_output_path(options.report, overwrite=True, name="--report ")
    context = click.get_current_context()
    params = {option.lstrip("-"): param for param in context.command.params for option in param.opts}

    def convert(name: str, text: str) -> Any:
        param = params[name]
        if isinstance(param, click.Option) and param.is_flag:
            return click.BOOL.convert(text, param, context)
        try:
            value = param.process_value(context, text)
        except click.ClickException as error:
            raise BadInput(error.format_message()) from error
        if isinstance(value, Path) and name == "batch":
            raise BadInput(f"batch {text!r}: must be a whole number")
        return value

    rows = read_list(file)
    for row in rows:
        if row.mask:
            check_apart(row.mask, ("--report ", options.report))
    results: list[SlideResult] = []
    try:
        for result in render_list(
            rows, options, convert=convert, watch=lambda slide: _progress(slide, quiet=quiet)
        ):
            results.append(result)
            _show_result(result, len(results), len(rows), quiet=quiet)
    finally:
        if options.report is not None:
            _write(options.report, lambda path: write_results(path, results))
    failed = sum(result.state == "failed" for result in results)
    if failed:
        raise Failed(
            f"--slides {file}: {failed} of {len(rows)} slides failed; the same command tries them again"
        )


def _show_result(result: SlideResult, number: int, total: int, *, quiet: bool) -> None:
    head = f"{number}/{total} {result.out}: "
    if result.state == "failed":
        click.echo(f"{NAME}: error: {head}{result.error}", err=True)
    elif quiet:
        return
    elif result.report is None:
        click.echo(f"{head}exists already, passed over")
    else:
        report = result.report
        click.echo(
            f"{head}done, {report.width} x {report.height} px, {report.run} patches run, {report.painted} painted, "
            f"{report.seconds:.1f} s, digest {report.digest}"
        )


def _render(mask: str, out: str, *, dry_run: bool, quiet: bool, options: RenderOptions) -> None:
    from safron.engine.execution.local import local_runner
    from safron.engine.preparation.budget import check_budget
    from safron.engine.preparation.mask_scan import scan_mask
    from safron.engine.preparation.options import workers_of
    from safron.engine.preparation.prepare import prepare

    from .rendering import open_runner, run

    prepared = prepare(mask, out, options, dry_run=dry_run)
    if not quiet:
        for note in prepared.warnings:
            warn(NAME, note)
    if dry_run:
        with local_runner(workers_of(prepared.options)) as runner:
            scan = scan_mask(prepared.job, runner)
        if not quiet:
            for line in plan_lines(prepared, scan):
                click.echo(line)
        check_budget(prepared)
        return
    ends = f"{out} is finished; what is left of {prepared.job.scratch.path} may be deleted"
    with open_runner(prepared) as (prepared, runner), _progress(prepared, quiet=quiet) as advance:
        report = run(prepared, runner, progress=advance, done=partial(say_if_interrupted, ends))
    if not quiet:
        for line in report.lines():
            click.echo(line)


class _Warnings(logging.Handler):
    """Shows the engine's warnings as our own."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(NAME, record.getMessage())


@contextmanager
def _warnings(*, quiet: bool) -> Iterator[None]:
    logger, handler = logging.getLogger("safron"), _Warnings()
    if quiet:
        handler.setLevel(logging.CRITICAL)
    logger.addHandler(handler)
    before, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _scale_lines(prepared: Prepared) -> list[str]:
    """Say how tissue comes to its true size."""
    plan, card = prepared.plan, prepared.job.model.card
    if plan.scale.is_one:
        return []
    return [
        f"scale    drawn on {plan.grid.width} x {plan.grid.height} px of {card.mpp:g} um, {float(plan.scale.ratio):.4g} for each of "
        "the slide's, and resampled"
    ]


def plan_lines(prepared: Prepared, scan: Scan) -> list[str]:
    """Say what a render will do."""
    plan, slide = prepared.plan, prepared.plan.slide
    rows, columns = plan.block_shape
    grid = plan.grid
    scale = f"{slide.mpp:g} um/px" if slide.mpp else "no mpp"
    at_a_time, more = f"{prepared.at_a_time} at a time", ""
    if prepared.at_a_time is None:
        at_a_time = "as many at a time as the workers have threads"
        more = f", {plan.largest_boundary / 1e6:.1f} MB more for each block in work after the first"
    return [
        f"canvas   {slide.width} x {slide.height} px of a mask of {plan.canvas.width} x {plan.canvas.height} px, {scale}",
        *_scale_lines(prepared),
        f"patches  {plan.patches} of {grid.tile} px, overlap {grid.overlap} {plan.taper.name}, context {grid.context}: "
        f"{plan.patches - scan.painted} to run, {scan.painted} painted as glass",
        f"blocks   {rows * columns} ({columns} x {rows}) of {plan.block} px, {at_a_time}",
        f"slide    {slide.flavor}, {slide.compression}, {slide.level_count} levels, tiles of {slide.tile} px, "
        f"about {plan.output_bytes() / 1e6:.1f} MB",
        f"memory   at most {prepared.projected_bytes / 2**20:.0f} MiB of {prepared.options.memory / 2**20:.0f} MiB allowed",
        f"scratch  at most {prepared.scratch_bytes / 1e6:.1f} MB in {prepared.job.scratch.path}{more}",
        f"model    {prepared.job.model.card.name} on {prepared.job.model.device}, {plan.batch} patches a call",
    ]


@contextmanager
def _progress(prepared: Prepared, *, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """Give a callback that shows a bar on a terminal and a plain line every ten seconds elsewhere."""
    if quiet:
        yield None
        return
    plan = prepared.plan
    total, pixels = plan.patches, plan.region.height * plan.region.width
    if sys.stderr.isatty():
        from .progress import bar

        with bar(total=total, megapixels=pixels / 1e6) as advance:
            yield advance
        return
    from .progress import PlainLines

    yield PlainLines(total=total, megapixels=pixels / 1e6)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args : what follows ``safron-render`` on the command line; None takes it from there.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kept = "finished blocks are kept, the same command continues"
    run_program(command, NAME, args, interrupted=kept)


if __name__ == "__main__":
    main()
