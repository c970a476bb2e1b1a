"""Which commands of safron-train concern mask models?"""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from safron.io.console import POSITIVE, debug_option, option
from safron.training.config.exported import OVERWRITE, check_run_folder
from safron.training.config.stopping import tell_of

COUNT = click.IntRange(min=1)
PATH = click.Path(path_type=Path)


@click.command(
    "mask-model", epilog="Example: safron-train mask-model nuclei.zarr runs/masks --regions tissue.zarr"
)
@click.argument("nuclei", type=PATH)
@click.argument("out", type=PATH)
@option(
    "--regions",
    "Mask of the regions in which nuclei lie: 0 background, 1 tissue, then others such as tumor.",
    "MASK",
    type=PATH,
)
@option("--crop", "Side of a crop in pixels, a multiple of 8.", "PX", type=COUNT, shown="96")
@option("--batch", "Number of crops per step.", "N", type=COUNT, shown="4")
@option(
    "--rate",
    "Learning rate of AdamW, 0 to 1.",
    "R",
    type=click.FloatRange(0, 1, min_open=True),
    shown="0.0005",
)
@option("--steps", "Number of steps.", "N", type=COUNT, shown="10000")
@option(
    "--seed",
    "The whole number that fixes weights, crops and noise.",
    "N",
    type=click.IntRange(min=0),
    shown="0",
)
@option("--minutes", "Stop after this number of minutes, before --steps.", "MIN", type=POSITIVE)
@option("--resume", "Continue from OUT/checkpoint.pt, with its settings.", is_flag=True)
@option("--threads", "Number of CPU threads.", "N", type=COUNT, shown="PyTorch's choice")
@option("--save-every", "Number of steps from checkpoint to checkpoint.", "N", type=COUNT, default=200)
@debug_option
def mask_model(nuclei: Path, out: Path, regions: Path | None, **options: Any) -> None:
    """Train a diffusion model that invents where nuclei lie, on NUCLEI, a mask of nuclei with classes and numbers.

    Checkpoints and sheets go to OUT. A share of the slide's rows is held out.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .data import check_masks, read_meanings
    from .settings import LayoutConfig

    if not options["resume"]:
        # Before PyTorch is imported, which takes seconds: what is wrong with the masks is said at once.
        check_run_folder(out, resume=False)
        kept = read_meanings(nuclei, regions)
        check_masks(nuclei, regions)
    import torch

    from .train import fit, load_run

    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    names = {item.name for item in fields(LayoutConfig)}
    given = {name: value for name, value in options.items() if name in names and value is not None}
    if options["resume"]:
        kept = load_run(out / "checkpoint.pt")[0]
    tell_of(out / "checkpoint.pt")
    path = fit(
        nuclei,
        regions,
        out,
        replace(kept, **given),
        minutes=options["minutes"],
        save_every=options["save_every"],
        resume=options["resume"],
        tell=click.echo,
    )
    click.echo(f"wrote {path}; export it with: safron-train export-mask-model {path} OUT.onnx")


@click.command(
    "export-mask-model",
    epilog="Example: safron-train export-mask-model runs/masks/checkpoint.pt masks.onnx --steps 20",
)
@click.argument("checkpoint", type=PATH)
@click.argument("out", type=PATH)
@option("--steps", "Number of sampling steps on the card.", "N", type=click.IntRange(1, 1000), default=20)
@option("--tile", "Usual side of a patch in pixels.", "PX", type=COUNT, default=512)
@option("--name", "Generator's name on its card.", "TEXT", shown="the run's")
@option("--licence", "Licence of the weights on the card.", "TEXT", shown="unknown")
@option("--trained-on", "Data named on the card.", "TEXT", shown="unknown")
@OVERWRITE
@debug_option
def export_mask_model(checkpoint: Path, out: Path, **options: Any) -> None:
    """Write the moving average of CHECKPOINT to OUT as a sampler for safron-mask nuclei, and compare it with PyTorch."""
    from .export import export_run

    card = export_run(checkpoint, out, **options)
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g}, overlap {card['overlap_mismatch']:.2g}, "
        f"{out.stat().st_size / 1e6:.1f} MB"
    )
