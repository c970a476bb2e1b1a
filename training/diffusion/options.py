"""Which options do the commands share that train and export diffusion models, whatever those learn?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import POSITIVE, Command, debug_option, option, with_options
from safron.training.config.exported import OVERWRITE

if TYPE_CHECKING:
    from .running import Running
    from .settings import RunSettings

COUNT = click.IntRange(min=1)
PATH = click.Path(path_type=Path)


def run_options(
    usual: RunSettings, *, crop: str = "Side of a crop in pixels."
) -> Callable[[Command], Command]:
    """Make the options of a training; `usual` has what they change, with its defaults."""
    rate, start = click.FloatRange(0, 1, min_open=True), click.IntRange(min=0)
    shown = {name: f"{getattr(usual, name):g}" for name in ("crop", "batch", "rate", "steps", "seed")}
    return with_options(
        option("--crop", crop, "PX", type=COUNT, shown=shown["crop"]),
        option("--batch", "Number of crops per step.", "N", type=COUNT, shown=shown["batch"]),
        option("--rate", "Learning rate of AdamW, 0 to 1.", "R", type=rate, shown=shown["rate"]),
        option("--steps", "Number of steps.", "N", type=COUNT, shown=shown["steps"]),
        option(
            "--seed",
            "The whole number that fixes weights, crops and noise.",
            "N",
            type=start,
            shown=shown["seed"],
        ),
        option("--minutes", "Stop after this number of minutes, before --steps.", "MIN", type=POSITIVE),
        option("--resume", "Continue from OUT/checkpoint.pt, with its settings.", is_flag=True),
        option("--threads", "Number of CPU threads.", "N", type=COUNT, shown="PyTorch's choice"),
        option(
            "--save-every", "Number of steps from checkpoint to checkpoint.", "N", type=COUNT, default=200
        ),
        debug_option,
    )


def running_of(options: dict[str, Any]) -> Running:
    """Tell how a run begins, is saved and ends."""
    from .running import Running

    return Running(options["minutes"], options["save_every"], options["resume"], click.echo)


def settings_of(options: dict[str, Any], kind: type[RunSettings]) -> dict[str, Any]:
    """Give those options that are fields of the settings and were given."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in options.items() if name in names and value is not None}


def export_options(*further: Callable[[Any], Any], tile: int) -> Callable[[Command], Command]:
    """Make the options of an export; some follow the number of steps."""
    steps = click.IntRange(1, 1000)
    return with_options(
        option("--steps", "Number of sampling steps on the card.", "N", type=steps, default=20),
        *further,
        option("--tile", "Usual side of a patch in pixels.", "PX", type=COUNT, default=tile),
        option("--name", "Generator's name on its card.", "TEXT", shown="the folder's"),
        option("--licence", "Licence of the weights on the card.", "TEXT", shown="unknown"),
        option("--trained-on", "Data named on the card.", "TEXT", shown="unknown"),
        OVERWRITE,
        debug_option,
    )
