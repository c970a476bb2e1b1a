"""How is a generator trained and exported from the shell?

Thin: options to dataclasses, errors to one line and an exit code. PyTorch is imported by the commands, so
that ``--help`` works without it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import click
from safron.io.console import POSITIVE, SETTINGS, ProgramGroup, debug_option, run_program, version_option
from safron.io.errors import BadInput
from safron.training.config import PRESETS, TrainConfig, override, preset, read_overrides

SIZE_NAMES = ("full", "small", "tiny")


def _need_torch() -> None:
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(
                f"training needs {module}, which is not installed; run: pip install 'safron[train]'"
            )


class DefaultFit(ProgramGroup):
    """A group whose command `fit` may go without its name: what is no command is DATA or an option of fit."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put "fit" in front where no command is named."""
        own = {name for option in self.get_params(ctx) for name in option.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["fit", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=DefaultFit,
    context_settings=SETTINGS,
    epilog="Example: safron-train pairs/ runs/first --minutes 90. Options of training: safron-train fit --help",
)
@version_option
def cli() -> None:
    """Train a patch generator on images and masks, and export it to ONNX for safron-render.

    "safron-train DATA OUT" is short for "safron-train fit DATA OUT".
    """


_PRESET = click.option(
    "--preset",
    "preset_name",
    type=click.Choice(sorted(PRESETS)),
    default="safron-seamless",
    show_default=True,
    help="Named settings of network and training.",
)
_SIZE = click.option(
    "--size",
    type=click.Choice(SIZE_NAMES),
    default="full",
    show_default=True,
    help="How large the networks and the training tile are: small fits a CPU, tiny a test.",
)
_FLOAT16 = click.option(
    "--float16", is_flag=True, help="Half precision inside: half the file, and faster where a GPU has it."
)
_SEED = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of all randomness."
)
_CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help='YAML, TOML or JSON file of settings that the preset is changed by, as {"batch": 4, "model": {"mpp": 0.5}}.',
)


def _fit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `fit`, in the order in which help shows them."""
    options = (
        _PRESET,
        _SIZE,
        _CONFIG,
        click.option(
            "--discriminator",
            type=click.Choice(["tile", "patch"]),
            help="What the judge of safron sees: the stitched tile, as in the paper, or single patches.",
        ),
        click.option("--no-skips", is_flag=True, help="Leave out the skip connections of safron's U-Net."),
        click.option("--overlap", type=click.IntRange(min=0), help="Pixels that patches of safron share."),
        click.option("--mpp", type=POSITIVE, help="Pixel size to train at, in um."),
        click.option(
            "--batch", type=click.IntRange(min=1), help="Training tiles in a step, of all GPUs together."
        ),
        click.option(
            "--steps",
            type=click.IntRange(min=1),
            help="Steps to train; the learning rate falls towards the last.",
        ),
        click.option(
            "--minutes",
            type=POSITIVE,
            help="Stop after this many minutes, whatever --steps says.",
        ),
        click.option("--resume", is_flag=True, help="Go on from OUT/checkpoint.pt, with its settings."),
        _SEED,
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu or cuda; auto takes a GPU if there is one.",
        ),
        click.option(
            "--compile/--no-compile",
            "compiled",
            default=None,
            help="Let PyTorch compile the generator and the paper's judge; it does on a GPU unless told not to.",
        ),
        click.option(
            "--threads", type=click.IntRange(min=1), help="CPU threads; PyTorch's own choice unless given."
        ),
        click.option(
            "--save-every",
            type=click.IntRange(min=1),
            default=500,
            show_default=True,
            help="Steps to a checkpoint and a sample sheet.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog="Example: safron-train pairs/ runs/first --minutes 90")
@click.argument("data", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_fit_options
@debug_option
def fit(data: Path, out: Path, **options: Any) -> None:
    """Train on the images and masks in DATA; write checkpoints, log and sheets to OUT."""
    _need_torch()
    # Read when PyTorch's thread library loads. Threads that spin while they wait made a step six times slower
    # on a machine that had other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from safron.training.distributed import join_team
    from safron.training.progress import watch
    from safron.training.train import Schedule, name_device
    from safron.training.train import fit as run

    config = _choose_config(click.get_current_context(), out / "checkpoint.pt", options)
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    schedule = Schedule(config.steps, options["minutes"], save_every=options["save_every"])
    with join_team(name_device(options["device"])) as (team, place):
        shown = watch(None if config.epochs else config.steps) if team.leads else nullcontext()
        with shown as report:
            path = run(
                data,
                out,
                config,
                schedule,
                resume=options["resume"],
                device=place,
                team=team,
                compiled=place.startswith("cuda") if options["compiled"] is None else options["compiled"],
                report=report,
            )
    if team.leads:
        click.echo(f"wrote {path}; export it with: safron-train export {path} OUT.onnx")


def _choose_config(ctx: click.Context, checkpoint: Path, options: dict[str, Any]) -> TrainConfig:
    """Settings of the preset, changed by the file and then by options; those of the run that is resumed, if none is given."""
    names = (
        "preset_name",
        "size",
        "config_file",
        "discriminator",
        "no_skips",
        "overlap",
        "mpp",
        "batch",
        "seed",
    )
    given = {
        name for name in names if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    kept: TrainConfig | None = None
    if options["resume"]:
        from safron.training.checkpoint import load_checkpoint

        kept = load_checkpoint(checkpoint).config
    if kept is not None and not given:
        config = kept
    else:
        config = preset(options["preset_name"], options["size"])
        if kept is not None:
            config = dataclasses.replace(config, steps=kept.steps, epochs=kept.epochs)
        if options["config_file"] is not None:
            config = override(config, read_overrides(options["config_file"]), str(options["config_file"]))
        if config.model.network == "seamless" and given & {"no_skips", "overlap"}:
            raise BadInput(
                "--no-skips and --overlap change safron's network; choose --preset safron, or leave them out"
            )
        if "seed" in given or options["config_file"] is None:
            config = dataclasses.replace(config, seed=options["seed"])
        changes: dict[str, Any] = {"judged": options["discriminator"], "batch": options["batch"]}
        model = {
            "overlap": options["overlap"],
            "mpp": options["mpp"],
            "skips": False if options["no_skips"] else None,
        }
        config = override(config, _given(changes) | {"model": _given(model)}, "options")
    if options["steps"] is not None:
        return dataclasses.replace(config, steps=options["steps"], epochs=0)
    if kept is not None and _length(config) != _length(kept):
        raise BadInput(
            f"{checkpoint} was made for {_length(kept)}, and {options['config_file']} says {_length(config)}; leave that out "
            "to go on as it was, or give --steps"
        )
    return config


def _length(config: TrainConfig) -> str:
    return f"epochs {config.epochs}" if config.epochs else f"steps {config.steps}"


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


@cli.command(epilog="Example: safron-train export runs/first/checkpoint.pt safron-seamless.onnx")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@_FLOAT16
@debug_option
def export(checkpoint: Path, out: Path, float16: bool) -> None:
    """Write the moving average of CHECKPOINT to OUT as ONNX with its card, and check it against PyTorch."""
    _need_torch()
    from safron.training.export import export_checkpoint

    _tell(out, export_checkpoint(checkpoint, out, float16=float16))


@cli.command("export-random", epilog="Example: safron-train export-random --preset safron paper.onnx")
@click.argument("out", type=click.Path(path_type=Path))
@_PRESET
@_SIZE
@_SEED
@_FLOAT16
@debug_option
def export_random(out: Path, preset_name: str, size: str, seed: int, float16: bool) -> None:
    """Write an untrained generator to OUT: its pictures are noise, but its cost is real."""
    _need_torch()
    from safron.training.export import export_fresh

    config = override(preset(preset_name, size), {"seed": seed}, "options")
    _tell(out, export_fresh(config, out, float16=float16))


def _tell(out: Path, card: dict[str, Any]) -> None:
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} of 255, overlap {card['overlap_mismatch']:.2g}"
    )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args : what follows ``safron-train`` on the command line; None takes it from there.
    """
    run_program(cli, "safron-train", args, interrupted="checkpoints are kept, --resume goes on from the last")


if __name__ == "__main__":
    main()
