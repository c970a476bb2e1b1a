"""``safron-optimize``: write a faster graph of a generator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
from safron.io.console import SETTINGS, Program, debug_option, option, run_program, version_option


@click.command(
    cls=Program,
    context_settings=SETTINGS,
    epilog="Example: safron-optimize generator.onnx generator-cpu.onnx",
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@option("--overwrite", "Replace OUT, and the card beside it.", is_flag=True)
@option(
    "--runtime",
    "Library that is to run OUT. With openvino, render with --runtime openvino or --precision bfloat16.",
    type=click.Choice(["onnxruntime", "openvino"]),
    default="onnxruntime",
)
@debug_option
@version_option
def command(source: Path, out: Path, *, overwrite: bool, runtime: str) -> None:
    """Rewrite a generator IN.onnx so that it runs faster on a CPU, as OUT.onnx.

    Large convolutions become products of spectra, transposed convolutions become plain ones, and the last convolution makes
    2 x 2 pixels at once. Both graphs are run on example masks, and OUT is written only if no pixel differs by more than one grey level. Needs: pip install
    'safron[optimize]'.
    """
    from .optimize import optimize

    done = optimize(source, out, overwrite=overwrite, runtime=runtime)
    for change in done.changes:
        click.echo(change)
    click.echo(
        f"pixels: within {done.levels} level ({done.max_abs:.1e} before rounding); "
        f"{done.seconds_before:.3f} s per patch before, {done.seconds_after:.3f} s after, "
        f"{done.seconds_before / done.seconds_after:.1f}x"
    )


main = partial(run_program, command, "safron-optimize")


if __name__ == "__main__":
    main()
