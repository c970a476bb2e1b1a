"""Which commands of safron-train concern diffusion models?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from safron.io.console import PIXEL_SIZE, option
from safron.io.errors import BadInput
from safron.training.config.data_sets import DATA_SETS, DataFacts
from safron.training.config.exported import check_run_folder
from safron.training.config.needs import need_torch, prepare_torch
from safron.training.config.stopping import tell_of

from .options import COUNT, PATH, export_options, run_options, running_of, settings_of
from .settings import NUCLEI, DiffusionConfig

if TYPE_CHECKING:
    from safron.training.data import Source


@click.command("diffusion", epilog="Example: safron-train diffusion consep/ runs/nuclei --minutes 600")
@click.argument("data", type=PATH)
@click.argument("out", type=PATH)
@option(
    "--data-set",
    "Layout of the data and meaning of their masks.",
    type=click.Choice([*DATA_SETS]),
    shown="pairs",
)
@option("--mpp", "Pixel size to train at, in micrometres.", "UM", type=PIXEL_SIZE, shown="0.5")
@option(
    "--norm",
    "pixel normalizes each pixel, so that patches agree; group takes statistics over a patch, as SDM.",
    type=click.Choice(["pixel", "group"]),
    shown="pixel",
)
@option(
    "--prediction",
    "What the network predicts: noise, picture or v.",
    type=click.Choice(["epsilon", "x0", "v"]),
    shown="epsilon",
)
@option("--widths", "Channels at half and at a quarter of the size, as 32,64.", "N,N", shown="32,64")
@option("--blocks", "Number of residual blocks of each level.", "N", type=COUNT, shown="1")
@option(
    "--ema",
    "Share of the moving average that a step keeps, 0 to 1.",
    "S",
    type=click.FloatRange(0, 1, max_open=True),
    shown="0.999",
)
@option(
    "--edges", "Give the network edges of nuclei as well; needs data with numbers of nuclei.", is_flag=True
)
@option(
    "--learn-variance",
    "Learn the variance of each step as well: L_simple + 0.001 L_vlb. A render uses none, so the exported file is without it.",
    is_flag=True,
)
@run_options(DiffusionConfig())
def diffusion(data: Path, out: Path, **options: Any) -> None:
    """Train a diffusion model on the images and masks in DATA; write checkpoints and sheets to OUT."""
    need_torch()
    from .data import open_data

    tell_of(out / "checkpoint.pt")
    kept, facts = DiffusionConfig(), DataFacts(data_set=options["data_set"] or "")
    opened: Path | Source = data
    if not options["resume"]:
        # Before PyTorch is imported, which takes seconds: what is wrong with the data is said at once.
        check_run_folder(out, resume=False)
        opened = open_data(data, _changed(kept, options), facts)
    prepare_torch(options["threads"])
    from .train import KIND, fit

    if options["resume"]:
        kept = KIND.load(out / "checkpoint.pt")[0]
    path = fit(opened, out, _changed(kept, options), running_of(options), facts=facts)
    click.echo(f"wrote {path}; export it with: safron-train export-diffusion {path} OUT.onnx")


def _changed(config: DiffusionConfig, options: dict[str, Any]) -> DiffusionConfig:
    """Let options change settings."""
    given = settings_of(options, DiffusionConfig)
    if "widths" in given:
        parts = str(given["widths"]).split(",")
        if len(parts) != 2 or not all(
            part.isdecimal() and int(part) % 8 == 0 and int(part) for part in parts
        ):
            raise BadInput(f"--widths {given['widths']}: must be two multiples of 8, as 32,64")
        given["widths"] = (int(parts[0]), int(parts[1]))
    if options["edges"]:
        given["nuclei"] = NUCLEI
    if options["learn_variance"]:
        given["learned_variance"] = True
    return replace(config, **given)


@click.command(
    "export-diffusion",
    epilog="Example: safron-train export-diffusion runs/nuclei/checkpoint.pt nuclei.onnx --steps 8",
)
@click.argument("checkpoint", type=PATH)
@click.argument("out", type=PATH)
@export_options(
    option(
        *("--usual-steps", "Number of them that a render takes without --steps.", "N"),
        called="usual",
        type=COUNT,
        shown="all",
    ),
    option(
        *("--guidance", "Strength of classifier-free guidance on the card, a number of at least 0.", "W"),
        type=click.FloatRange(min=0),
        default=0.0,
    ),
    tile=256,
)
def export_diffusion(checkpoint: Path, out: Path, **options: Any) -> None:
    """Write the moving average of CHECKPOINT to OUT as a sampler for safron-render, and compare it with PyTorch."""
    need_torch()
    from .export import export_run

    card = export_run(checkpoint, out, **options)
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} in one step, {card['parity_of_five_steps']:.2g} grey levels after five, "
        f"overlap {card['overlap_mismatch']:.2g}"
    )
