"""How is a generator trained and exported from the shell?

Options become dataclasses, errors one line and an exit code. PyTorch is imported inside the commands, so that ``--help``
works without it.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import (
    PIXEL_SIZE,
    POSITIVE,
    SETTINGS,
    ProgramGroup,
    debug_option,
    option,
    run_program,
    version_option,
    with_options,
)
from safron.io.errors import BadInput
from safron.training.cli_refiner import export_refiner, refiner
from safron.training.config.data_sets import DATA_SETS, DataFacts
from safron.training.config.exported import OVERWRITE
from safron.training.config.needs import need_torch, prepare_torch
from safron.training.config.settings import PRESETS, SIZES, TrainConfig, override, preset, read_overrides
from safron.training.config.stopping import tell_of
from safron.training.diffusion.commands import diffusion, export_diffusion
from safron.training.layouts.commands import export_mask_model, mask_model

if TYPE_CHECKING:
    from safron.training.run_data import Run

DEFAULT = "safron-seamless"
COUNT, WHOLE = click.IntRange(min=1), click.IntRange(min=0)
PATH = click.Path(path_type=Path)


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
def commands() -> None:
    """Train a patch generator on images and masks, and export it to ONNX for safron-render.

    "safron-train DATA OUT" is short for "safron-train fit DATA OUT".
    """


PRESET = option(
    "--preset", "Named settings of network and training.", type=click.Choice(sorted(PRESETS)), shown=DEFAULT
)
SIZE = option(
    "--size",
    "Size of networks and tiles: small fits a CPU.",
    type=click.Choice([*SIZES[DEFAULT]]),
    shown="full",
)
SEED = option("--seed", "The whole number that fixes weights, batches and noise.", "N", type=WHOLE, shown="0")
FLOAT16 = option("--float16", "Half precision: half the file, faster on some GPUs.", is_flag=True)
FACTS = ("data_set", "slide_of", "map", "palette", "generator", "licence", "trained_on")
CARD = (
    option(
        "--name",
        "Generator's name on its card.",
        "TEXT",
        called="generator",
        shown="the settings', or the folder's",
    ),
    option("--licence", "Licence of the weights on the card.", "TEXT", shown="the data's, or unknown"),
    option("--trained-on", "Data named on the card.", "TEXT", shown="name and counts of the data"),
)
SETTING_NAMES = ("preset", "size", "config", "discriminator", "no_skips", "overlap", "mpp", "batch", "seed")
"""Options that change settings. Without any of them, --resume takes all settings from the checkpoint."""

FIT_OPTIONS = (
    option(
        *("--data-set", "Layout of the data, meaning of their masks, preparation."),
        type=click.Choice([*DATA_SETS]),
        shown="by the folders, or pairs",
    ),
    option("--slide-of", "What in an image's name is its slide.", "REGEX", shown="each image is a slide"),
    option(
        "--map",
        "What numbers in masks of labels become: 255=2,3=1 or 1-65535=2 or *=1 for all others.",
        "N=LABEL,...",
        shown="as they are",
    ),
    option(
        "--palette",
        "Labels of the colours in masks: builtin, the colours that safron-mask knows; indices, the numbers stored in an indexed PNG; or a file.",
        "FILE.json|builtin|indices",
        shown="the colours of the settings",
    ),
    *CARD,
    PRESET,
    SIZE,
    option("--config", 'Settings (YAML, TOML, JSON), as {"model": {"mpp": 0.5}}.', "FILE", type=PATH),
    option(
        "--discriminator",
        "Input of safron's discriminator.",
        type=click.Choice(["tile", "patch"]),
        shown="tile",
    ),
    option("--no-skips", "Leave out the skip connections of safron's U-Net.", is_flag=True),
    option("--overlap", "Number of pixels that patches of safron share.", "PX", type=WHOLE, shown="20"),
    option("--mpp", "Pixel size to train at, in micrometres.", "UM", type=PIXEL_SIZE, shown="the data's own"),
    option(
        "--batch", "Number of tiles per step, of all GPUs together.", "N", type=COUNT, shown="the preset's"
    ),
    SEED,
    option("--steps", "Number of steps; rates fall towards the last.", "N", type=COUNT, shown="the preset's"),
    option("--minutes", "Stop after this number of minutes, before --steps.", "MIN", type=POSITIVE),
    option("--resume", "Continue from OUT/checkpoint.pt, with its settings.", is_flag=True),
    option("--start", "Begin with the weights of another run or an exported file.", "FILE", type=PATH),
    option("--device", "auto (a GPU if there is one), cpu or cuda.", default="auto"),
    option("--compile/--no-compile", "Compile the networks.", called="compiled", shown="on a GPU"),
    option("--threads", "Number of CPU threads.", "N", type=COUNT, shown="PyTorch's choice"),
    option("--save-every", "Number of steps from checkpoint to checkpoint.", "N", type=COUNT, default=500),
)


@commands.command(epilog="Example: safron-train pairs/ runs/first --minutes 90")
@click.argument("data", type=PATH)
@click.argument("out", type=PATH)
@with_options(*FIT_OPTIONS)
@debug_option
def fit(data: Path, out: Path, **options: Any) -> None:
    """Train on the images and masks in DATA; write checkpoints, log and sample sheets to OUT."""
    need_torch()
    from safron.training.run_data import check_beginning, open_run

    given: dict[str, Any] = {name: options[name] or "" for name in FACTS}
    checkpoint, facts = out / "checkpoint.pt", DataFacts(**given)
    config = _choose_config(checkpoint, options)
    tell_of(checkpoint)
    opened: Path | Run = data
    if not options["resume"] and "WORLD_SIZE" not in os.environ:
        # Before PyTorch is imported, which takes seconds: what is wrong with the data is said at once.
        check_beginning(out, resume=False, start=options["start"])
        opened = open_run(data, config, facts, None, checkpoint, out)
    prepare_torch(options["threads"])
    from safron.training.distributed import join_team, name_device
    from safron.training.notes import Schedule
    from safron.training.train import Hardware
    from safron.training.train import fit as run

    compiled = options["compiled"]
    with join_team(name_device(options["device"])) as (team, device):
        path = run(
            opened,
            out,
            config,
            Schedule(config.steps, options["minutes"], save_every=options["save_every"], show=True),
            facts=facts,
            resume=options["resume"],
            start=options["start"],
            hardware=Hardware(device, team, device.startswith("cuda") if compiled is None else compiled),
        )
    if team.leads:
        click.echo(f"wrote {path}; export it with: safron-train export {path} OUT.onnx")


def _choose_config(checkpoint: Path, options: dict[str, Any]) -> TrainConfig:
    """Choose settings: the preset's, changed by the file and then by options; or those of the run that is resumed."""
    kept: TrainConfig | None = None
    if options["resume"]:
        from safron.training.checkpoint import load_checkpoint

        kept = load_checkpoint(checkpoint).config
    given = {
        name: options[name]
        for name in SETTING_NAMES
        if options[name] is not None and options[name] is not False
    }
    config = kept if kept is not None and not given else _given_config(given, kept)
    if options["steps"] is not None:
        return dataclasses.replace(config, steps=options["steps"], epochs=0)
    if kept is not None and _length(config) != _length(kept):
        raise BadInput(
            f"{checkpoint} was made for {_length(kept)}, and {options['config']} says {_length(config)}; leave that out to "
            "continue as it was, or give --steps"
        )
    return config


def _given_config(given: dict[str, Any], kept: TrainConfig | None = None) -> TrainConfig:
    """Put together the settings that the given options and their file ask for; a resumed run's length is `kept`."""
    config = preset(given.get("preset", DEFAULT), given.get("size", "full"))
    if kept is not None:
        config = dataclasses.replace(config, steps=kept.steps, epochs=kept.epochs)
    file = read_overrides(given["config"]) if "config" in given else {}
    config = override(config, file, str(given.get("config")))
    if config.model.network == "seamless" and given.keys() & {"no_skips", "overlap"}:
        raise BadInput("--no-skips and --overlap are for safron; choose --preset safron, or leave them out")
    changes: dict[str, Any] = {name: given[name] for name in ("batch", "seed") if name in given}
    changes["model"] = {name: given[name] for name in ("overlap", "mpp") if name in given}
    if "no_skips" in given:
        changes["model"]["skips"] = False
    if "discriminator" in given:
        changes["discriminator_input"] = given["discriminator"]
    if "epoch_stride" not in file:
        paper = TrainConfig().epoch_stride
        changes["epoch_stride"] = (
            config.epoch_stride * DATA_SETS[given.get("data_set", "pairs")].stride // paper
        )
    if given.get("discriminator") == "patch" and not {"discriminator_levels", "judge_levels"} & file.keys():
        # A quarter of the tile's view: at full size pix2pix's 70 pixels, which fit into a patch of 256.
        fewer = max(1, config.discriminator_levels - 2)
        changes["discriminator_levels"] = fewer if kept is None else kept.discriminator_levels
    return override(config, changes, "options")


def _length(config: TrainConfig) -> str:
    return f"epochs {config.epochs}" if config.epochs else f"steps {config.steps}"


@commands.command(epilog="Example: safron-train export runs/first/checkpoint.pt generator.onnx")
@click.argument("checkpoint", type=PATH)
@click.argument("out", type=PATH)
@with_options(*CARD)
@option(
    "--default-style",
    "Image whose stain is drawn where none is asked for.",
    "IMAGE",
    type=PATH,
    shown="the mean of the training images",
)
@option(
    "--clear-background",
    "Share of the way that background pixels beside tissue go to the background's colour, 0 to 1.",
    "SHARE",
    type=click.FloatRange(0, 1),
    default=0.0,
)
@FLOAT16
@OVERWRITE
@debug_option
def export(
    checkpoint: Path,
    out: Path,
    default_style: Path | None,
    clear_background: float,
    float16: bool,
    overwrite: bool,
    **card: str | None,
) -> None:
    """Write the moving average of CHECKPOINT to OUT as ONNX with its card, and compare it with PyTorch."""
    need_torch()
    from safron.training.export import export_checkpoint

    options: dict[str, Any] = {"default_style": default_style, "float16": float16, "overwrite": overwrite}
    _tell(out, export_checkpoint(checkpoint, out, card=card, clear=clear_background, **options))


@commands.command("page", epilog="Example: safron-train page runs/second run.html --before runs/first")
@click.argument("run", type=PATH)
@click.argument("out", type=PATH, metavar="OUT.html")
@option("--before", "Folder of another run to compare with.", "RUN", type=PATH)
@option("--overwrite", "Replace OUT.", is_flag=True)
@debug_option
def page(run: Path, out: Path, before: Path | None, overwrite: bool) -> None:
    """Write a page about the training in the folder RUN: held-out measures, losses, samples over time, settings."""
    from safron.training.run_page import write_run_page

    write_run_page(run, out, before=before, overwrite=overwrite)
    click.echo(f"wrote {out}")


@commands.command("export-random", epilog="Example: safron-train export-random --preset safron paper.onnx")
@click.argument("out", type=PATH)
@PRESET
@SIZE
@SEED
@FLOAT16
@OVERWRITE
@debug_option
def export_random(out: Path, float16: bool, overwrite: bool, **options: Any) -> None:
    """Write an untrained generator to OUT: its pictures are noise, but its cost is real."""
    need_torch()
    from safron.training.export import export_fresh

    given = {name: value for name, value in options.items() if value is not None}
    _tell(out, export_fresh(_given_config(given), out, float16=float16, overwrite=overwrite))


def _tell(out: Path, card: dict[str, Any]) -> None:
    parity, overlap = card["parity_max_abs"], card["overlap_mismatch"]
    click.echo(f"wrote {out}: parity {parity:.2g} of 255, overlap {overlap:.2g}")


for added in (diffusion, export_diffusion, mask_model, export_mask_model, refiner, export_refiner):
    commands.add_command(added)


main = partial(run_program, commands, "safron-train")


if __name__ == "__main__":
    main()
