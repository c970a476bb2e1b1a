"""Which commands of safron-train concern mask models?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from safron.io.console import option
from safron.training.config.exported import check_run_folder
from safron.training.config.needs import need_torch, prepare_torch
from safron.training.config.stopping import tell_of
from safron.training.diffusion.options import PATH, export_options, run_options, running_of, settings_of

from .settings import LayoutConfig


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
@run_options(LayoutConfig(), crop="Side of a crop in pixels, a multiple of 8.")
def mask_model(nuclei: Path, out: Path, regions: Path | None, **options: Any) -> None:
    """Train a diffusion model that invents where nuclei lie, on NUCLEI, a mask of nuclei with classes and numbers.

    Checkpoints and sheets go to OUT. A share of the slide's rows is held out.
    """
    need_torch()
    from .data import check_masks, read_meanings

    if not options["resume"]:
        # Before PyTorch is imported, which takes seconds: what is wrong with the masks is said at once.
        check_run_folder(out, resume=False)
        kept = read_meanings(nuclei, regions)
        check_masks(nuclei, regions)
    prepare_torch(options["threads"])
    from .train import KIND, fit

    if options["resume"]:
        kept = KIND.load(out / "checkpoint.pt")[0]
    tell_of(out / "checkpoint.pt")
    config = replace(kept, **settings_of(options, LayoutConfig))
    path = fit(nuclei, regions, out, config, running_of(options))
    click.echo(f"wrote {path}; export it with: safron-train export-mask-model {path} OUT.onnx")


@click.command(
    "export-mask-model",
    epilog="Example: safron-train export-mask-model runs/masks/checkpoint.pt masks.onnx --steps 20",
)
@click.argument("checkpoint", type=PATH)
@click.argument("out", type=PATH)
@export_options(tile=512)
def export_mask_model(checkpoint: Path, out: Path, **options: Any) -> None:
    """Write the moving average of CHECKPOINT to OUT as a sampler for safron-mask nuclei, and compare it with PyTorch."""
    need_torch()
    from .export import export_run

    card = export_run(checkpoint, out, **options)
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g}, overlap {card['overlap_mismatch']:.2g}, "
        f"{out.stat().st_size / 1e6:.1f} MB"
    )
