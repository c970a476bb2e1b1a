"""``safron-generator``: make a card for a graph, and check a generator before it is rendered with."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from safron.io.console import SETTINGS, ProgramGroup, debug_option, option, run_program, version_option
from safron.io.errors import BadInput, counted

NAME = "safron-generator"


@click.group(cls=ProgramGroup, context_settings=SETTINGS)
@version_option
def commands() -> None:
    """Bring a generator in an ONNX file to safron-render."""


@commands.command(epilog="\b\nExample:\n  safron-generator draft model.onnx")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@option("--out", "Where to write the card.", "JSON", type=click.Path(path_type=Path), shown="MODEL.json")
@option("--overwrite", "Replace a card that exists.", is_flag=True)
@debug_option
def draft(model: Path, out: Path | None, overwrite: bool) -> None:
    """Write a card for a graph, as far as the graph tells.

    The graph is called with a few masks, which shows context and range. What was guessed and what is left to fill in is listed, all
    at once; edit the card, then run safron-generator check MODEL.onnx.
    """
    from safron.io.files import check_output_path, output

    from .generator.draft import LEFT_OPEN, draft_card, has_card
    from .system.signals import end_soon

    end_soon()
    out = out or model.with_suffix(".json")
    check_output_path(out, overwrite=overwrite, endings=(".json",))
    if model.is_file() and has_card(model):
        raise BadInput(
            f"{model}: has a card in its metadata already, which a file beside it would replace; safron-generator check shows it"
        )
    made = draft_card(model)
    with output(out, overwrite=overwrite, endings=(".json",)) as part:
        part.write_text(json.dumps(made.card, indent=2) + "\n", encoding="utf-8")
    click.echo(f"{out}: written")
    for line in made.measured:
        click.echo(f"measured  {line}")
    for line in made.guessed:
        click.echo(f"guessed   {line}")
    for name, text in LEFT_OPEN.items():
        click.echo(f"fill in   {name}: {text}")


@commands.command(epilog="\b\nExample:\n  safron-generator check model.onnx")
@click.argument("model", metavar="MODEL.onnx|NAME")
@debug_option
def check(model: str) -> None:
    """Check a generator and its card, and call it.

    Everything that is wrong with the card is listed at once. Then the generator draws a small mask as safron-render would.
    """
    import numpy as np
    from safron.io.slides.preview import write_png

    from .generator.card import read_card
    from .generator.draft import card_faults
    from .generator.model import load_model
    from .plan.render_plan import check_tile_size
    from .preparation.options import RenderOptions
    from .preparation.prepare import prepare
    from .system.signals import end_soon

    end_soon()
    beside = Path(model).with_suffix(".json")
    if Path(model).is_file() and beside.is_file():
        faults = card_faults(read_card(beside), str(beside))
        for fault in faults:
            click.echo(f"wrong     {fault}")
        if faults:
            raise BadInput(
                f"{beside}: {len(faults)} fields are wrong; docs/generator-contract.md lists all fields"
            )
    card = load_model(model, device="cpu", threads=1).card
    check_tile_size(card.tile)
    side = 2 * card.tile + 1
    values = [label.value for label in card.labels]
    labels = np.array(values, np.uint8)[
        np.random.default_rng(0).integers(0, len(values), (side // 16 + 1,) * 2)
    ]
    mask = np.repeat(np.repeat(labels, 16, 0), 16, 1)[:side, :side]
    options = RenderOptions(
        model=model, device="cpu", threads=1, mpp=card.mpp or 1.0, overlap=min(20, card.tile - 1)
    )
    with TemporaryDirectory() as folder:
        if card.initial is not None:
            picture = Path(folder) / "white.png"
            write_png(picture, np.full((*mask.shape, 3), 255, np.uint8))
            options = replace(options, image=str(picture))
        prepared = prepare(mask, "never-written.tiff", options, dry_run=True)
    click.echo(f"name      {card.name}, version {card.version}")
    click.echo(
        f"patches   {card.tile} px, context {card.context}, {counted(len(card.noise_scales), 'channel')} of noise"
    )
    click.echo("labels    " + ", ".join(f"{label.value} {label.name}" for label in card.labels))
    for note in prepared.warnings:
        if not note.startswith("mask "):  # of the mask above
            click.echo(f"note      {note}")
    for name, given in (("mpp", card.mpp), ("licence", card.licence), ("trained_on", card.trained_on)):
        if given in (None, "unknown"):
            click.echo(f"note      {name} is not on the card")
    if not card.is_fill.any():
        click.echo("note      no label has a fill, so that background is generated as well")
    click.echo(f"{model}: can be used")


@commands.command(epilog="\b\nExample:\n  safron-generator card safron-seamless")
@click.argument("model", metavar="MODEL.onnx|NAME")
@debug_option
def card(model: str) -> None:
    """Print a generator's card as JSON, with what it leaves out.

    "reach" is the number of label pixels around a patch that its colours may depend on.
    """
    import msgspec

    from .generator.model import load_model

    found = load_model(model, device="cpu", threads=1).card
    click.echo(json.dumps({**msgspec.to_builtins(found), "reach": found.reach}, indent=2))


main = partial(run_program, commands, NAME)


if __name__ == "__main__":
    main()
