"""``safron-render``: parses options, prints plans and reports, and leaves the work to `safron.engine.rendering`."""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from safron.engine.preparation.options import RenderOptions
from safron.engine.system.memory import keep_one_heap
from safron.engine.system.signals import end_soon_after_a_signal
from safron.io.console import (
    SETTINGS,
    Program,
    debug_option,
    option,
    options_of,
    run_program,
    show_warnings,
    version_option,
    warn,
)
from safron.io.errors import BadInput, Failed, counted
from safron.io.interruptions import (
    INTERRUPTED,
    NOTHING,
    SIGNALS,
    begin,
    own_process,
    say_if_interrupted,
    say_last,
)
from safron.io.json_report import check_report_path, write_report
from safron.io.progress import progress

if TYPE_CHECKING:
    from safron.engine.preparation.prepared import Prepared

    from .slide_list import Row, SlideResult

NAME = "safron-render"
MOST_SEEDS = 100_000
KEPT = "finished blocks are kept, the same command continues"


def _validate(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    from safron.io.slides.validate import validate_slide

    problems = validate_slide(Path(value))
    for problem in problems:
        click.echo(f"{value}: {problem}")
    if not problems:
        click.echo(f"{value}: valid")
    ctx.exit(1 if problems else 0)


def _seeds(text: str) -> list[int]:
    """Read numbers and ranges."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + MOST_SEEDS:
            raise ValueError(
                f"{text!r} must be whole numbers, as 1-10 (from the smaller on) or 1,4,9, at most {MOST_SEEDS}"
            )
        seeds += range(first, last + 1)
    return seeds


EPILOG = """\b
Examples:
  safron-render mask.zarr slide.tiff --tile 256 --overlap 20
  safron-render labels.png slide.ome.tiff --model generator.onnx --preview slide.png
  safron-render mask.zarr slide.svs --region 0,0,2048,2048 --dry-run
  safron-render mask.zarr slide-{seed}.svs --seeds 1-10 --stain random
  safron-render --slides list.csv --executor processes --workers 4
  safron-render --status slide.svs
  safron-render --validate slide.svs

After exit codes 1 and 130 the same command continues.
"""


@click.command(cls=Program, epilog=EPILOG, context_settings=SETTINGS)
@click.argument("mask", type=str, required=False)
@click.argument("out", type=str, required=False)
@options_of(RenderOptions)
@option(
    "--slides",
    "Render a list of slides instead of MASK and OUT: one per line, with columns mask, out and options.",
    "CSV",
    type=click.Path(path_type=Path),
)
@option(
    "--seeds",
    "Render one slide for each of these seeds, whole numbers as 1-10 or 1,4,9; {seed} stands for it in OUT, --preview, --labels-out and --html.",
    "N-M",
    parse=_seeds,
)
@option("--status", "Print how far the render of OUT is, and stop.", "OUT")
@option("--dry-run", "Print the plan and stop.", is_flag=True)
@option("--quiet", "Print only errors.", is_flag=True)
@debug_option
@option(
    "--validate",
    "Check a slide: print everything that is wrong with it, and stop.",
    "FILE",
    expose_value=False,
    is_eager=True,
    callback=_validate,
)
@version_option
def command(mask: str | None, out: str | None, *, dry_run: bool, quiet: bool, **options: Any) -> None:
    """Render the tissue mask MASK into the pyramidal slide OUT.

    MASK is a Zarr array, an OME-Zarr, or an image that tifffile, libvips or OpenSlide opens. Its pixels are labels, or
    colours of the generator's palette. OUT ends in .svs, .tif, .tiff, .ome.tif or .ome.tiff. Both can be addresses
    such as s3://BUCKET/NAME.
    """
    # Importing NumPy starts threads for linear algebra, which spin for a tenth of a second and are not needed here.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    slides, status, seeds = options.pop("slides"), options.pop("status"), options.pop("seeds")
    if isinstance(options["batch"], Path):
        if slides is not None:
            raise click.UsageError("--batch and --slides: both name a list; give only one")
        slides, options["batch"] = options["batch"], None
    _check_usage(mask, out, slides, status, seeds=seeds is not None, dry_run=dry_run)
    if seeds is not None:
        _check_seeds(slides, status, dry_run=dry_run)
    chosen = RenderOptions(**options)
    _import_engine()
    begin()
    with show_warnings(NAME, quiet=quiet):
        if status is not None:
            _show_status(status, chosen, quiet=quiet)
        elif slides is not None:
            _render_list(slides, chosen, quiet=quiet)
        elif seeds is not None:
            _render_seeds(str(mask), str(out), seeds, chosen, quiet=quiet)
        else:
            assert mask is not None
            assert out is not None
            _render(mask, out, dry_run=dry_run, quiet=quiet, options=chosen)


def _import_engine() -> None:
    """Import what every command needs, without garbage collection: it would find nothing, in 0.03 s here and 0.07 s at the end."""
    gc.disable()
    try:
        import_module(".rendering", __package__)
    finally:
        gc.freeze()
        gc.enable()


def _check_usage(
    mask: str | None,
    out: str | None,
    slides: Path | None,
    status: str | None,
    *,
    seeds: bool,
    dry_run: bool,
) -> None:
    """Refuse combinations of arguments that click cannot express."""
    if slides is None and status is None:
        for param, value in (("MASK", mask), ("OUT", out)):
            if value is None:
                raise click.UsageError(f"Missing argument '{param}'.")
        if "{seed}" in str(out) and not seeds:
            raise click.UsageError(f"{out}: {{seed}} stands for the seeds of --seeds; give them")
        return
    name = "--slides" if slides is not None else "--status"
    if slides is not None and status is not None:
        raise click.UsageError("--slides and --status: give only one")
    if mask is not None:
        raise click.UsageError(f"{name}: leave out MASK and OUT")
    if dry_run:
        raise click.UsageError(f"{name}: --dry-run needs MASK and OUT")


def _check_seeds(slides: Path | None, status: str | None, *, dry_run: bool) -> None:
    """Refuse what does not go together with --seeds."""
    for name, given in (("--slides", slides), ("--status", status), ("--dry-run", dry_run or None)):
        if given is not None:
            raise click.UsageError(f"--seeds: leave out {name}")


def _show_status(out: str, options: RenderOptions, *, quiet: bool) -> None:
    from .status import render_status

    found = render_status(out, scratch=options.scratch)
    if options.report is not None:
        check_report_path(
            options.report, overwrite=options.overwrite, ours=lambda earlier: "all_blocks" in earlier
        )
        write_report(options.report, asdict(found))
    if not quiet:
        click.echo(found.line())


def _render_list(file: Path, options: RenderOptions, *, quiet: bool) -> None:
    """Render the slides of a list and print a line for each."""
    from .slide_list import read_list

    _render_rows(f"--slides {file}", lambda: read_list(file), options, quiet=quiet)


def _render_seeds(mask: str, out: str, seeds: list[int], options: RenderOptions, *, quiet: bool) -> None:
    """Render a slide for each seed."""
    from .slide_list import seed_rows

    rows = partial(seed_rows, mask, out, seeds, options)
    _render_rows(f"--seeds {seeds[0]}..{seeds[-1]}", rows, options, quiet=quiet)


def _render_rows(name: str, read: Callable[[], list[Row]], options: RenderOptions, *, quiet: bool) -> None:
    from .slide_list import check_rows, outcome, render_list

    if options.report is not None:
        check_report_path(
            options.report, overwrite=options.overwrite, ours=lambda earlier: "slides" in earlier
        )
    context = click.get_current_context()
    params = {option.lstrip("-"): param for param in context.command.params for option in param.opts}

    def convert(name: str, text: str) -> Any:
        param = params[name]
        if isinstance(param, click.Option) and param.is_flag:
            return click.BOOL.convert(text, param, context)
        try:
            return param.process_value(context, text)
        except click.ClickException as error:
            raise BadInput(error.format_message()) from error

    rows = read()
    check_rows(rows, options)
    results: list[SlideResult] = []
    try:
        for result in render_list(
            rows, options, convert=convert, watch=lambda slide: _progress(slide, quiet=quiet)
        ):
            results.append(result)
            _show_result(result, len(results), len(rows), quiet=quiet)
    finally:
        if options.report is not None:
            write_report(options.report, outcome(results))
    failed = sum(result.state == "failed" for result in results)
    if failed:
        raise Failed(
            f"{name}: {failed} of {counted(len(rows), 'slide')} failed; the same command tries them again"
        )


def _show_result(result: SlideResult, number: int, total: int, *, quiet: bool) -> None:
    head = f"{number}/{total} {result.out}: "
    if result.state == "failed":
        click.echo(f"{NAME}: error: {head}{result.error}", err=True)
    elif quiet:
        return
    elif result.report is None:
        click.echo(f"{head}already exists, skipped")
    else:
        report = result.report
        click.echo(
            f"{head}done, {report.width} x {report.height} px, {counted(report.generated, 'patch')} generated, {report.filled} filled, "
            f"{report.seconds:.1f} s, digest {report.digest}"
        )


def _render(mask: str, out: str, *, dry_run: bool, quiet: bool, options: RenderOptions) -> None:
    from safron.engine.execution.local import local_runner
    from safron.engine.preparation.mask_scan import scan_mask
    from safron.engine.preparation.options import workers_of
    from safron.engine.preparation.prepare import prepare

    from .plan_lines import plan_lines
    from .rendering import open_runner, run

    prepared = prepare(mask, out, options, dry_run=dry_run)
    if not quiet:
        for note in prepared.warnings:
            warn(NAME, note)
    if dry_run:
        with local_runner(workers_of(prepared.options)) as runner:
            scan = scan_mask(prepared.job, runner)
        if not quiet:
            for note in scan.notes:
                warn(NAME, note)
            for line in plan_lines(prepared, scan):
                click.echo(line)
        prepared.check_budget()
        return
    ends = f"{out} is finished; {prepared.job.scratch.path} can be deleted if it still exists"
    with open_runner(prepared) as (prepared, runner), _progress(prepared, quiet=quiet) as advance:
        tell = advance and partial(advance, 0)
        report = run(prepared, runner, progress=advance, done=partial(say_if_interrupted, ends), tell=tell)
    if not quiet:
        for line in report.lines():
            click.echo(line)


def _left(scratch: Path) -> str:
    """Say what an interrupted render leaves behind, as --status will."""
    from safron.engine.scratch.arrays import recorded

    if recorded(scratch):
        return KEPT
    return (
        f"nothing is finished yet; the same command starts again, or delete {scratch}"
        if scratch.exists()
        else NOTHING
    )


def _progress(prepared: Prepared, *, quiet: bool) -> AbstractContextManager[Callable[..., None] | None]:
    """Begin to tell how far a render is, and what is kept of it."""
    say_if_interrupted(partial(_left, prepared.job.scratch.path))
    if quiet:
        return nullcontext()
    from safron.engine.plan.passes import all_patches

    plan = prepared.plan
    megapixels, patches = plan.region.height * plan.region.width / 1e6, all_patches(plan)
    return progress(patches, "patches", also=(megapixels / patches, "Mpx"))


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command. Every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args
        Arguments after ``safron-render``; None takes those of the command line.
    """
    run_program(command, NAME, args)


def main_of_process(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command in a process that does nothing else, and ends within seconds of a signal.

    Parameters
    ----------
    args
        See `main`.
    """
    keep_one_heap()  # before the first thread, since the C library looks once at how many heaps it may have
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.default_int_handler)
    own_process(NAME, begun=False)
    end_soon_after_a_signal(say_last, code=INTERRUPTED)
    main(args)


if __name__ == "__main__":
    main()
