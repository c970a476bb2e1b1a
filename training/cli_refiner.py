"""``safron-train refiner`` and ``export-refiner``: unsupervised synthesis of nuclei."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from safron.io.console import PIXEL_SIZE, POSITIVE, debug_option, option, warn
from safron.io.errors import BadInput, counted
from safron.training.config.exported import OVERWRITE, check_export, check_run_folder
from safron.training.config.needs import need_torch, prepare_torch
from safron.training.config.stopping import tell_of

PATH = click.Path(path_type=Path)


@click.command(
    epilog="Example: safron-train refiner tiles/ runs/refiner --size small --minutes 60",
)
@click.argument("tiles", type=PATH, nargs=-1, required=True, metavar="TILES...")
@click.argument("out", type=PATH)
@option(
    "--size",
    "Size of networks and patches: full is the paper's, small fits two cores.",
    type=click.Choice(["full", "small", "tiny"]),
    default="full",
)
@option(
    "--iterations",
    "Number of iterations of all phases together.",
    "N",
    type=click.IntRange(5),
    shown="of the size",
)
@option(
    "--shrink",
    "Train on tiles made smaller by this whole number: 2 for 0.5 um of tiles at 0.25 um.",
    "N",
    type=click.IntRange(1, 16),
    default=1,
)
@option("--minutes", "Stop after this number of minutes; --resume continues.", "N", type=POSITIVE)
@option("--leave-out", "Name of a tile that is not trained on; repeat for each.", "NAME", multiple=True)
@option("--no-style", "Without references of a style (ablation).", is_flag=True)
@option("--no-hard", "Without hard examples (ablation).", is_flag=True)
@option("--no-weights", "Without weights D/(1-D) on the task's loss (ablation).", is_flag=True)
@option(
    "--no-variation",
    "Show the segmenter pictures as they are, not varied in stain, sharpness and noise (ablation).",
    is_flag=True,
)
@option(
    "--no-pseudo-labels",
    "Show the segmenter no real pictures that it labels itself (ablation).",
    is_flag=True,
)
@option("--seed", "Seed of weights and batches, a whole number.", "N", type=click.IntRange(0), default=0)
@option("--threads", "Number of cores.", "N", type=click.IntRange(1), shown="all")
@option("--resume", "Continue from the checkpoint in OUT.", is_flag=True)
@debug_option
def refiner(tiles: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Train a refiner of synthetic nuclei, and a segmenter, on H&E tiles without labels.

    TILES are images or folders of them. OUT gets refiner.pt and log.jsonl (Hou et al., Unsupervised Histopathology Image
    Synthesis, 2017, algorithm 1).
    """
    need_torch()
    from safron.io.progress import progress
    from safron.io.synthesis.tiles import read_tiles
    from safron.training.refiner.settings import SIZES

    # Before PyTorch is imported, which takes seconds: what is wrong with the tiles is said at once.
    check_run_folder(out, resume=given["resume"], checkpoint="refiner.pt")
    found = read_tiles(tiles)
    prepare_torch(given["threads"])
    from safron.training.fit_refiner import fit_refiner
    from safron.training.refiner.data import Tiles

    used: dict[str, Any] = {
        f"use_{name}": not given[f"no_{name}"]
        for name in ("style", "hard", "weights", "variation", "pseudo_labels")
    }
    config = dataclasses.replace(SIZES[given["size"]], seed=given["seed"], shrink=given["shrink"], **used)
    if given["iterations"]:
        config = config.with_total(given["iterations"])
    if unknown := set(given["leave_out"]) - {name for name, _ in found}:
        raise BadInput(f"--leave-out {min(unknown)}: no tile has this name; give names as {found[0][0]}")
    kept = Tiles([(name, rgb) for name, rgb in found if name not in given["leave_out"]], config)
    kept.leave_out_plain()
    for reason in kept.left:
        warn("safron-train", f"{reason}; left out")
    click.echo(
        f"{counted(len(kept.names), 'tile')}; iterations of each phase: {', '.join(map(str, config.steps))}",
        err=True,
    )
    with progress(config.total, "iterations") as advance:
        begun = [0]

        def report(done: int, losses: dict[str, float]) -> None:
            advance(done - begun[0])
            begun[0] = done

        tell_of(out / "refiner.pt")
        trainer = fit_refiner(
            kept, out, config, resume=given["resume"], minutes=given["minutes"], report=report
        )
    click.echo(f"{out / 'refiner.pt'}: {trainer.done} of {config.total} iterations")


@click.command(
    "export-refiner",
    epilog="Example: safron-train export-refiner runs/refiner/refiner.pt tiles/ refiner.onnx",
)
@click.argument("checkpoint", type=PATH)
@click.argument("tiles", type=PATH, nargs=-1, required=True, metavar="TILES...")
@click.argument("out", type=PATH)
@option("--name", "Generator's name on its card.", "TEXT", default="refiner")
@option("--licence", "Licence of the weights on the card.", "TEXT", shown="unknown")
@option("--trained-on", "Data named on the card.", "TEXT", shown="the number of tiles")
@option("--mpp", "Pixel size of the tiles, in micrometres per pixel.", "UM", type=PIXEL_SIZE, default=0.25)
@option("--field", "Read a style in each pixel, so that it may vary over a slide.", is_flag=True)
@OVERWRITE
@debug_option
def export_refiner(checkpoint: Path, tiles: tuple[Path, ...], out: Path, **given: Any) -> None:
    """Write the refiner of CHECKPOINT to OUT as ONNX, with its style encoder beside it.

    TILES are those that it was trained on; their mean style is used where no reference is given. Others are left out, by their names.
    """
    need_torch()
    from safron.io.synthesis.tiles import read_tiles
    from safron.training.fit_refiner import load
    from safron.training.refiner.data import Tiles
    from safron.training.refiner.export import export_refiner as write
    from safron.training.refiner.train import RefinerTrainer

    check_export(out, overwrite=given["overwrite"])
    config, metadata, state = load(checkpoint)
    found = read_tiles(tiles)
    _compare_tiles([name for name, _ in found], metadata["tiles"], checkpoint)
    kept = Tiles([(name, rgb) for name, rgb in found if name in metadata["tiles"]], config)
    for reason in kept.left:
        warn("safron-train", f"{reason}; left out of the mean style")
    trainer = RefinerTrainer(config, kept)
    trainer.load_state_dict(state)
    said = {
        "name": given["name"],
        "licence": given["licence"] or "unknown",
        "trained_on": given["trained_on"] or f"{len(metadata['tiles'])} unlabelled tiles",
        "steps": trainer.done,
    }
    style, mpp, field = trainer.mean_style(), given["mpp"] * config.shrink, given["field"]
    card = write(
        trainer.networks,
        config,
        out,
        style=style,
        said=said,
        mpp=mpp,
        field=field,
        overwrite=given["overwrite"],
    )
    click.echo(
        f"wrote {out}: parity {card['parity_max_abs']:.2g} of 255, overlap {card['overlap_mismatch']:.2g}"
    )


def _compare_tiles(given: Sequence[str], trained: Sequence[str], checkpoint: Path) -> None:
    """Tell of tiles that are not those of a checkpoint, on which the mean style depends; refuse if none is."""
    others, missing = sorted({*given} - {*trained}), sorted({*trained} - {*given})
    if not {*given} & {*trained}:
        raise BadInput(
            f"{given[0]}: {checkpoint} was trained on none of the TILES, but on {missing[0]} and others; give those that it was trained on"
        )
    if others:
        warn(
            "safron-train",
            f"{counted(len(others), 'tile')} that {checkpoint} was not trained on, as {others[0]}; left out",
        )
    if missing:
        warn(
            "safron-train",
            f"{len(missing)} of {counted(len({*trained}), 'tile')} that {checkpoint} was trained on are not given, as {missing[0]}; "
            "the mean style is that of the others",
        )
