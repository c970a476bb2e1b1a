"""``safron-render``: parse, plan, run, report. Everything else is `safron.engine.render`."""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.errors import BadInput, Failed, SafronError

from .heap import keep_one_heap
from .options import RenderOptions

if TYPE_CHECKING:
    from .batch import SlideResult
    from .prepare import Prepared
    from .scan import Scan

DEFAULTS = RenderOptions()
INTERRUPTED = 130


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


class _Command(click.Command):
    """A command whose usage errors are one line, as all other errors are."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        try:
            code = super().main(*args, standalone_mode=False, **extra)  # type: ignore[call-overload]
        except click.ClickException as error:
            text = " ".join(error.format_message().split())
            click.echo(f"safron-render: error: {text} (safron-render --help lists all options)", err=True)
            sys.exit(error.exit_code)
        except click.Abort:  # Ctrl-C before there was anything to keep
            click.echo("safron-render: interrupted", err=True)
            sys.exit(INTERRUPTED)
        sys.exit(code)


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"safron {version('safron')}")
        ctx.exit()


def _validate(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from safron.io.validate import validate_slide

    with _one_line_errors(debug=False):
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


@click.command(
    cls=_Command,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.argument("mask", type=str, required=False)
@click.argument("out", type=str, required=False)
@click.option(
    "--model",
    default=DEFAULTS.model,
    show_default=True,
    metavar="NAME|FILE",
    help="Shipped generator by name, 'identity' (label colours), or an ONNX file.",
)
@click.option(
    "--tile",
    type=int,
    default=None,
    show_default="the generator's, 256",
    metavar="PX",
    help="Pixels a side that one patch writes.",
)
@click.option(
    "--overlap",
    type=int,
    default=DEFAULTS.overlap,
    show_default=True,
    metavar="PX",
    help="Pixels that neighbouring patches share, blended.",
)
@click.option(
    "--taper",
    type=click.Choice(["flat", "linear", "cosine"]),
    default=DEFAULTS.taper,
    show_default=True,
    help="Weights in the overlap: plain mean, or faded out.",
)
@click.option(
    "--seed",
    type=int,
    default=DEFAULTS.seed,
    show_default=True,
    metavar="N",
    help="Whole number that fixes the noise.",
)
@click.option(
    "--block",
    type=int,
    default=None,
    show_default="2048",
    metavar="PX",
    help="Pixels a side of one task; a multiple of --tiff-tile.",
)
@click.option(
    "--batch",
    callback=_batch,
    default=None,
    show_default="1 on a CPU, 32 on CUDA",
    metavar="N|CSV",
    help="Patches a call of the generator; anything but a number is taken for --slides.",
)
@click.option(
    "--workers",
    type=int,
    default=DEFAULTS.workers,
    show_default=True,
    metavar="N",
    help="Blocks in work at a time.",
)
@click.option(
    "--executor",
    type=click.Choice(["auto", "threads", "processes"]),
    default=DEFAULTS.executor,
    show_default=True,
    help="What a worker is; auto takes processes where several GPUs can share the work.",
)
@click.option(
    "--scheduler",
    default=None,
    show_default="none",
    metavar="URL|FILE",
    help="Run on the Dask scheduler at tcp://HOST:PORT, or that its file names.",
)
@click.option(
    "--cluster",
    type=click.Path(path_type=Path),
    default=None,
    show_default="none",
    metavar="YAML",
    help="Run on jobs of a batch system; docs/cluster.md says what the file holds.",
)
@click.option(
    "--security",
    type=click.Path(path_type=Path),
    default=None,
    show_default="none",
    metavar="YAML",
    help="Paths of TLS certificates that all processes of the render must show: ca, cert, key.",
)
@click.option(
    "--dashboard",
    default=None,
    show_default="none",
    metavar="HOST:PORT",
    help="Show Dask's pages there, as 127.0.0.1:8787; whoever reaches them sees them.",
)
@click.option(
    "--threads",
    type=int,
    default=DEFAULTS.threads,
    show_default="0, all cores",
    metavar="N",
    help="Patches that run side by side on a CPU; worker processes share all cores.",
)
@click.option(
    "--device",
    default=DEFAULTS.device,
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Where the generator runs.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "float16"]),
    default=DEFAULTS.precision,
    show_default=True,
    help="Of arithmetic on CUDA; float16 needs TensorRT.",
)
@click.option(
    "--compression",
    type=click.Choice(["jpeg", "deflate", "lzw", "none"]),
    default=DEFAULTS.compression,
    show_default=True,
    help="Of the tiles; all but jpeg are lossless.",
)
@click.option(
    "--quality", type=int, default=DEFAULTS.quality, show_default=True, metavar="N", help="Of JPEG, 1 to 100."
)
@click.option(
    "--chroma",
    type=click.Choice(["420", "444"]),
    default=DEFAULTS.chroma,
    show_default=True,
    help="JPEG colour resolution: halved or full.",
)
@click.option(
    "--tiff-tile",
    type=int,
    default=DEFAULTS.tiff_tile,
    show_default=True,
    metavar="PX",
    help="Pixels a side of a TIFF tile, a multiple of 16.",
)
@click.option(
    "--flavor",
    type=click.Choice(["svs", "ome", "generic"]),
    default=None,
    show_default="ome for .ome.tif[f], else svs",
    help="TIFF layout.",
)
@click.option(
    "--align",
    is_flag=True,
    help="Pad with glass to a multiple of 2^(levels-1) pixels, which OpenSlide reads faster.",
)
@click.option(
    "--mpp",
    type=float,
    default=None,
    show_default="the mask's, else the generator's",
    metavar="UM",
    help="Micrometres per pixel.",
)
@click.option(
    "--region",
    metavar="X,Y,W,H",
    callback=_region,
    default=None,
    show_default="all of the mask",
    help="Part of the mask to render, in pixels.",
)
@click.option(
    "--level-count",
    metavar="auto|N",
    callback=_level_count,
    default=DEFAULTS.level_count,
    show_default=True,
    help="Pyramid levels; auto halves until one tile is enough.",
)
@click.option(
    "--palette-tolerance",
    type=int,
    default=DEFAULTS.palette_tolerance,
    show_default=True,
    metavar="N",
    help="Largest distance, 0 to 255 a channel, of a colour-coded mask's colours from the palette's.",
)
@click.option(
    "--scratch",
    type=str,
    default=None,
    show_default="beside OUT",
    metavar="FOLDER",
    help="Folder, or address as s3://BUCKET/NAME, for scratch.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    callback=_size,
    default=f"{DEFAULTS.memory >> 30}GiB",
    show_default=True,
    help="Memory that the render may take; a plan over it is refused.",
)
@click.option(
    "--preview",
    type=click.Path(path_type=Path),
    default=None,
    show_default="none",
    metavar="PNG",
    help="Write a picture of the slide, at most 2048 pixels a side.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    default=None,
    show_default="none",
    metavar="JSON",
    help="Write the report as JSON.",
)
@click.option(
    "--slides",
    type=click.Path(path_type=Path),
    default=None,
    show_default="none",
    metavar="CSV",
    help="Render a list instead of MASK and OUT: a line a slide, with columns mask, out and options.",
)
@click.option(
    "--status",
    default=None,
    show_default="none",
    metavar="OUT",
    help="Say how far a render of OUT is, and stop.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option(
    "--overwrite", is_flag=True, help="Replace OUT, preview and report, and scratch of other inputs."
)
@click.option(
    "--fresh", is_flag=True, help="Start over, whatever an unfinished render of OUT left; OUT stays."
)
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--validate",
    expose_value=False,
    is_eager=True,
    callback=_validate,
    metavar="FILE",
    help="Reopen a slide, list every broken promise, and stop.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Print the version and stop.",
)
def main(
    mask: str | None,
    out: str | None,
    slides: Path | None,
    status: str | None,
    batch: int | Path | None,
    dry_run: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Render the tissue mask MASK into the pyramidal slide OUT.

    MASK is a Zarr array, an OME-Zarr or any image that libvips or OpenSlide opens: one label a pixel, or
    colours of the generator's palette. OUT ends in .svs, .tif, .tiff, .ome.tif or .ome.tiff. Both may be
    addresses, as s3://BUCKET/NAME.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    keep_one_heap()
    if isinstance(batch, Path):
        if slides is not None:
            raise click.UsageError("--batch and --slides: both name a list; give one of them")
        slides, batch = batch, None
    _check_usage(mask, out, slides, status, dry_run=dry_run)
    chosen = RenderOptions(batch=batch, **options)
    with _one_line_errors(debug=debug), _warnings(quiet=quiet):
        if status is not None:
            _show_status(status, chosen, quiet=quiet)
        elif slides is not None:
            _render_list(slides, chosen, quiet=quiet)
        else:
            assert mask is not None
            assert out is not None
            _render(mask, out, dry_run=dry_run, quiet=quiet, options=chosen)


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
    from .batch import read_list, render_list, write_results

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
        click.echo(f"safron-render: error: {head}{result.error}", err=True)
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


@contextmanager
def _one_line_errors(*, debug: bool) -> Iterator[None]:
    """Turn failures into one line on stderr and the right exit code."""
    try:
        yield
    except (click.exceptions.Exit, click.ClickException, click.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            import traceback

            traceback.print_exc()
        text, code = _failure(error)
        click.echo(f"safron-render: {text}", err=True)
        sys.exit(code)


def _failure(error: BaseException) -> tuple[str, int]:
    """What to say of a failure, and the exit code that goes with it."""
    if isinstance(error, SafronError):
        return f"error: {' '.join(str(error).split())}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; finished blocks are kept, the same command continues", INTERRUPTED
    first = (str(error).splitlines() or [""])[0]
    return f"error: {type(error).__name__}: {first} (--debug shows where)", SafronError.exit_code


def _render(mask: str, out: str, *, dry_run: bool, quiet: bool, options: RenderOptions) -> None:
    from .execute import local_runner
    from .prepare import check_budget, prepare
    from .rendering import open_runner, run
    from .scan import scan_mask

    prepared = prepare(mask, out, options, dry_run=dry_run)
    if not quiet:
        for note in prepared.warnings:
            warn(note)
    if dry_run:
        with local_runner(options.workers) as runner:
            scan = scan_mask(prepared.job, runner)
        if not quiet:
            for line in plan_lines(prepared, scan):
                click.echo(line)
        check_budget(prepared)
        return
    with open_runner(prepared) as (prepared, runner), _progress(prepared, quiet=quiet) as advance:
        report = run(prepared, runner, progress=advance)
    if not quiet:
        for line in report.lines():
            click.echo(line)


def warn(text: str) -> None:
    """Say something that the user should know, on stderr."""
    click.echo(f"safron-render: warning: {' '.join(text.split())}", err=True)


class _Warnings(logging.Handler):
    """Shows the engine's warnings as our own."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())


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


def plan_lines(prepared: Prepared, scan: Scan) -> list[str]:
    """Say what a render will do."""
    plan, slide = prepared.plan, prepared.plan.slide
    rows, columns = plan.block_shape
    grid = plan.grid
    scale = f"{slide.mpp:g} um/px" if slide.mpp else "no mpp"
    return [
        f"canvas   {slide.width} x {slide.height} px of a mask of {grid.width} x {grid.height} px, {scale}",
        f"patches  {plan.patches} of {grid.tile} px, overlap {grid.overlap} {plan.taper.name}, context {grid.context}: "
        f"{plan.patches - scan.painted} to run, {scan.painted} painted as glass",
        f"blocks   {rows * columns} ({columns} x {rows}) of {plan.block} px, {prepared.options.workers} at a time",
        f"slide    {slide.flavor}, {slide.compression}, {slide.level_count} levels, tiles of {slide.tile} px, "
        f"about {plan.output_bytes() / 1e6:.1f} MB",
        f"memory   at most {prepared.projected_bytes / 2**20:.0f} MiB of {prepared.options.memory / 2**20:.0f} MiB allowed",
        f"scratch  at most {plan.scratch_bytes() / 1e6:.1f} MB in {prepared.job.scratch.path}",
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


if __name__ == "__main__":
    main()
