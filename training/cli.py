"""How is a generator trained and exported from the shell?

Thin: options to dataclasses, errors to one line and an exit code. PyTorch is imported by the commands, so
that ``--help`` works without it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

import click
from safron.io.errors import BadInput, SafronError
from safron.training.config import PRESETS, preset


def _need_torch() -> None:
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(
                f"training needs {module}, which is not installed; run: pip install 'safron[train]'"
            )


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train a patch generator on image and mask pairs, and export it to ONNX for safron-render."""


_PRESET = click.option(
    "--preset",
    "preset_name",
    type=click.Choice(sorted(PRESETS)),
    default="safron-seamless",
    show_default=True,
    help="Named settings of network and training.",
)
_SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all randomness."
)


@cli.command(epilog="Example: safron-train fit pairs/ runs/first --minutes 90")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_PRESET
@click.option(
    "--steps", type=click.IntRange(min=1), help="Steps to train; the learning rate falls towards the last."
)
@click.option(
    "--minutes", type=click.FloatRange(min=0), help="Stop after this many minutes, whatever --steps says."
)
@click.option("--resume", is_flag=True, help="Go on from OUT/checkpoint.pt.")
@_SEED
@click.option("--device", default="cpu", show_default=True, help="PyTorch device, such as cpu or cuda.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; PyTorch's own choice unless given.")
@click.option(
    "--save-every", type=click.IntRange(min=1), default=500, show_default=True, help="Steps to a checkpoint."
)
def fit(
    data: Path,
    out: Path,
    preset_name: str,
    steps: int | None,
    minutes: float | None,
    resume: bool,
    seed: int,
    device: str,
    threads: int | None,
    save_every: int,
) -> None:
    """Train on pairs NAME.webp and NAME.gland.png in DATA; write checkpoints, log and sheets to OUT."""
    _need_torch()
    # Read when PyTorch's thread library loads. Threads that spin while they wait made a step six times slower
    # on a machine that had other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from safron.training.train import Schedule
    from safron.training.train import fit as run

    config = dataclasses.replace(preset(preset_name), seed=seed)
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    if threads is not None:
        torch.set_num_threads(threads)
    schedule = Schedule(config.steps, minutes, save_every=save_every)
    path = run(data, out, config, schedule, resume=resume, device=device)
    click.echo(f"wrote {path}; export it with: safron-train export {path} OUT.onnx")


@cli.command(epilog="Example: safron-train export runs/first/checkpoint.pt safron-seamless.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export(checkpoint: Path, out: Path) -> None:
    """Write the moving average of CHECKPOINT to OUT as ONNX with its card, and check it against PyTorch."""
    _need_torch()
    from safron.training.export import export_checkpoint

    card = export_checkpoint(checkpoint, out)
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} of 255, overlap {card['overlap_mismatch']:.2g}"
    )


@cli.command("export-random", epilog="Example: safron-train export-random --preset safron paper.onnx")
@click.argument("out", type=click.Path(path_type=Path))
@_PRESET
@_SEED
def export_random(out: Path, preset_name: str, seed: int) -> None:
    """Write an untrained generator to OUT: its pictures are noise, but its cost is real."""
    _need_torch()
    from safron.training.export import export_fresh

    card = export_fresh(dataclasses.replace(preset(preset_name), seed=seed), out)
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} of 255, overlap {card['overlap_mismatch']:.2g}"
    )


def main() -> None:
    """Run the command line; user errors become one line on stderr and an exit code."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        click.echo(
            f"safron-train: {error.filename}: {error.strerror}; make room or choose another path", err=True
        )
        sys.exit(1)
    except SafronError as error:
        click.echo(f"safron-train: {error}", err=True)
        sys.exit(error.exit_code)
