"""How is a generator trained and exported from the shell?

Options become dataclasses, errors one line and an exit code. PyTorch is imported inside the commands, so that ``--help``
works without it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial, reduce
from pathlib import Path
from typing import Any, NoReturn

import click
from safron.io.console import POSITIVE, SETTINGS, ProgramGroup, debug_option, run_program, version_option
from safron.io.errors import BadInput
from safron.training.config import (
    PRESETS,
    SIZES,
    TrainConfig,
    override,
    preset,
    read_overrides,
)

DEFAULT = "safron-seamless"
COUNT, WHOLE = click.IntRange(min=1), click.IntRange(min=0)
PATH = click.Path(path_type=Path)
NAMES, SIZE_NAMES = click.Choice(sorted(PRESETS)), click.Choice(list(SIZES[DEFAULT]))


def _need_torch() -> None:
    for module in ("torch", "onnx", "scipy"):
        if importlib.util.find_spec(module) is None:
            raise BadInput(
                f"training needs {module}, which is not installed; run: pip install 'safron[train]'"
            )


class DefaultFit(ProgramGroup):
    """A group whose command `fit` may be left out: the first word is DATA or an option of fit if it names no command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put "fit" in front if no command is named."""
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


def _option(flags: str, kind: Any, text: str, **more: Any) -> Callable[[Any], Any]:
    return click.option(*flags.split(), type=kind, help=text, **more)


PRESET = _option("--preset", NAMES, "Named settings of network and training.", show_default=DEFAULT)
SIZE = _option(
    "--size", SIZE_NAMES, "Of networks and training tile: small fits a CPU, tiny a test.", show_default="full"
)
SEED = _option("--seed", WHOLE, "Seed of all randomness.", show_default="0")
FLOAT16 = _option(
    "--float16", None, "Half precision: half the file, and faster where a GPU has it.", is_flag=True
)
SETTINGS_OF_RUN = (
    PRESET,
    SIZE,
    _option("--config", PATH, 'File of settings (YAML, TOML, JSON), as {"batch": 4, "model": {"mpp": 0.5}}.'),
    _option(
        "--discriminator",
        click.Choice(["tile", "patch"]),
        "What safron's sees: stitched tiles, or single patches.",
    ),
    _option("--no-skips", None, "Leave out the skip connections of safron's U-Net.", is_flag=True),
    _option("--overlap", WHOLE, "Pixels that neighbouring patches of safron share."),
    _option("--mpp", POSITIVE, "Pixel size to train at, in um."),
    _option("--batch", COUNT, "Training tiles per step, of all GPUs together."),
    SEED,
)
"""Options that change settings. Without any of them, --resume takes all settings from the checkpoint."""

SETTING_NAMES = ("preset", "size", "config", "discriminator", "no_skips", "overlap", "mpp", "batch", "seed")

FIT_OPTIONS = (
    *SETTINGS_OF_RUN,
    _option("--steps", COUNT, "Steps to train; the learning rate falls towards the last."),
    _option("--minutes", POSITIVE, "Stop after this many minutes, before --steps."),
    _option("--resume", None, "Continue from OUT/checkpoint.pt, with its settings.", is_flag=True),
    _option("--device", str, "auto (a GPU if there is one), cpu or cuda.", default="auto", show_default=True),
    _option(
        "--compile/--no-compile compiled", None, "Compile the networks; the default on a GPU.", default=None
    ),
    _option("--threads", COUNT, "CPU threads; PyTorch's own choice by default."),
    _option("--save-every", COUNT, "Steps from checkpoint to checkpoint.", default=500, show_default=True),
)


def _add_options(command: Any) -> Any:
    """Add the options of `fit`, in the order of its help."""
    return reduce(lambda so_far, option: option(so_far), reversed(FIT_OPTIONS), command)


@cli.command(epilog="Example: safron-train pairs/ runs/first --minutes 90")
@click.argument("data", type=PATH)
@click.argument("out", type=PATH)
@_add_options
@debug_option
def fit(data: Path, out: Path, **options: Any) -> None:
    """Train on the images and masks in DATA; write checkpoints, log and sample sheets to OUT."""
    _need_torch()
    # Read when PyTorch's thread library loads. Threads that spin while they wait made a step six times slower on a machine
    # with other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from safron.training.distributed import join_team, name_device
    from safron.training.run_log import watch
    from safron.training.train import Schedule
    from safron.training.train import fit as run

    config = _choose_config(out / "checkpoint.pt", options)
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    compiled = options["compiled"]
    with (
        join_team(name_device(options["device"])) as (team, device),
        watch() if team.leads else nullcontext() as report,
    ):
        path = run(
            data,
            out,
            config,
            Schedule(config.steps, options["minutes"], save_every=options["save_every"]),
            resume=options["resume"],
            device=device,
            team=team,
            compiled=device.startswith("cuda") if compiled is None else compiled,
            report=report,
            tell=partial(click.echo, err=True),
        )
    if team.leads:
        click.echo(f"wrote {path}; export it with: safron-train export {path} OUT.onnx")


def _choose_config(checkpoint: Path, options: dict[str, Any]) -> TrainConfig:
    """Choose settings: the preset's, changed by the file and then by options; or those of the run that is resumed."""
    kept: TrainConfig | None = None
    if options["resume"]:
        from safron.training.checkpoint import load_checkpoint

        kept = load_checkpoint(checkpoint).config
    if kept is not None and not any(options[name] not in (None, False) for name in SETTING_NAMES):
        config = kept
    else:
        config = _given_config(options, kept)
    if options["steps"] is not None:
        return dataclasses.replace(config, steps=options["steps"], epochs=0)
    if kept is not None and _length(config) != _length(kept):
        raise BadInput(
            f"{checkpoint} was made for {_length(kept)}, and {options['config']} says {_length(config)}; leave that out to "
            "continue as it was, or give --steps"
        )
    return config


def _given_config(options: dict[str, Any], kept: TrainConfig | None) -> TrainConfig:
    """Put together the settings that options and file ask for; the length of a resumed run is `kept`."""
    config = preset(options["preset"] or DEFAULT, options["size"] or "full")
    if kept is not None:
        config = dataclasses.replace(config, steps=kept.steps, epochs=kept.epochs)
    file = read_overrides(options["config"]) if options["config"] is not None else {}
    config = override(config, file, str(options["config"]))
    if config.model.network == "seamless" and (options["no_skips"] or options["overlap"] is not None):
        raise BadInput(
            "--no-skips and --overlap change safron's network; choose --preset safron, or leave them out"
        )
    changes = {
        "discriminator_input": options["discriminator"],
        "batch": options["batch"],
        "seed": options["seed"],
    }
    if options["discriminator"] == "patch" and not {"discriminator_levels", "judge_levels"} & file.keys():
        # A quarter of the tile's view: at full size pix2pix's 70 pixels, which fit into a patch of 256.
        changes["discriminator_levels"] = max(1, config.discriminator_levels - 2)
    model = {
        "overlap": options["overlap"],
        "mpp": options["mpp"],
        "skips": False if options["no_skips"] else None,
    }
    return override(config, _given(changes) | {"model": _given(model)}, "options")


def _length(config: TrainConfig) -> str:
    return f"epochs {config.epochs}" if config.epochs else f"steps {config.steps}"


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}


@cli.command(epilog="Example: safron-train export runs/first/checkpoint.pt safron-seamless.onnx")
@click.argument("checkpoint", type=PATH)
@click.argument("out", type=PATH)
@FLOAT16
@debug_option
def export(checkpoint: Path, out: Path, float16: bool) -> None:
    """Write the moving average of CHECKPOINT to OUT as ONNX with its card, and compare it with PyTorch."""
    _need_torch()
    from safron.training.export import export_checkpoint

    _tell(out, export_checkpoint(checkpoint, out, float16=float16))


@cli.command("export-random", epilog="Example: safron-train export-random --preset safron paper.onnx")
@click.argument("out", type=PATH)
@PRESET
@SIZE
@SEED
@FLOAT16
@debug_option
def export_random(out: Path, preset: str | None, size: str | None, seed: int | None, float16: bool) -> None:
    """Write an untrained generator to OUT: its pictures are noise, but its cost is real."""
    _need_torch()
    from safron.training.export import export_fresh

    options = dict.fromkeys((*SETTING_NAMES, "steps")) | {"preset": preset, "size": size, "seed": seed}
    _tell(out, export_fresh(_given_config(options, None), out, float16=float16))


def _tell(out: Path, card: dict[str, Any]) -> None:
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} of 255, overlap {card['overlap_mismatch']:.2g}"
    )


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command; every failure is one line on stderr and an exit code.

    Parameters
    ----------
    args : the command line after ``safron-train``; by default that of this process.
    """
    run_program(
        cli, "safron-train", args, interrupted="checkpoints are kept, --resume continues from the last"
    )


if __name__ == "__main__":
    main()
