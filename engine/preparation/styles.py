"""Which style is a slide drawn in: the generator's own, one that its card names, or that of an image?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import zarr
from safron.engine.generator.card import Card
from safron.engine.generator.pictures import content_of
from safron.engine.generator.style_field import read_field
from safron.engine.stains.estimate import estimate_file
from safron.engine.stains.looks import stain_change
from safron.engine.stains.stain import DRAWN, REFERENCE, Stain, StainChange
from safron.io.errors import BadInput, counted
from safron.io.measures.style import BACKGROUND, STYLE_NAMES
from safron.io.measures.style_picture import measure_style_of
from zarr.storage import LocalStore

from .options import RenderOptions
from .style_reference import reference_style


def choose_style(card: Card, style: str | None, folder: Path = Path()) -> Card:
    """Return the card of a generator that draws in a style.

    A style whose first numbers are the colour of its background also decides the card's fills, so that patches that are
    filled match those that are generated.

    Parameters
    ----------
    style
        Name of a style of the card, or path of an image to measure or of a style field; None for the default.
    folder
        Of the generator's file, where its style encoder lies.

    Raises
    ------
    BadInput
        The generator takes no style, or there is neither a style nor a readable image of this name, or its styles cannot
        be measured on images.
    """
    if card.style is None:
        if style is not None:
            raise BadInput(f"--style {style}: generator {card.name!r} takes no style; leave it out")
        return card
    if style is not None and card.style.field and _is_field(style):
        return _with_field(card, style)
    vector = card.style.default if style is None else _find(card, style, folder)
    chosen = dataclasses.replace(card, style=msgspec.structs.replace(card.style, default=vector))
    if card.style.numbers[:3] != BACKGROUND:
        return chosen
    red, green, blue = (int(value) for value in np.clip(np.rint(vector[:3]), 0, 255))
    labels = (
        label if label.fill is None else dataclasses.replace(label, fill=(red, green, blue))
        for label in card.labels
    )
    return dataclasses.replace(chosen, labels=tuple(labels))


def choose_stain(card: Card, options: RenderOptions) -> StainChange | None:
    """Decide how the stain changes; None leaves it as it is drawn.

    Raises
    ------
    BadInput
        There is no such stain, or a picture does not show two stains.
    """
    if options.stain == "reference" and not options.stain_field:
        return None
    return stain_change(
        options.stain,
        seed=options.seed,
        variation=options.stain_field,
        source=_drawn_stain(card, options.style),
    )


def _drawn_stain(card: Card, style: str | None) -> Stain:
    """Return the stain that a generator draws in a style: the style's own where that is a picture, else what is known of the generator."""
    if style is None or style == "default":
        return DRAWN.get(card.name, REFERENCE)
    if card.style is None or style in card.style.named or not Path(style).is_file():
        return REFERENCE
    try:
        return estimate_file(Path(style))
    except BadInput as error:
        raise BadInput(f"--style {error}, or leave --stain and --stain-field out") from error


def _find(card: Card, style: str, folder: Path) -> tuple[float, ...]:
    """Find a named style, or measure an image."""
    assert card.style is not None
    named = {"default": card.style.default, **card.style.named}
    if style in named:
        return named[style]
    if not (Path(style).is_file() or (card.style.encoder and Path(style).is_dir())):
        raise BadInput(
            f"--style {style}: neither a style of generator {card.name!r} ({', '.join(named)}) nor an image file; give one"
        )
    if card.style.encoder is not None:
        return reference_style(card.style.encoder, folder, style)
    if card.style.numbers != STYLE_NAMES:
        raise BadInput(
            f"--style {style}: styles of generator {card.name!r} cannot be measured on an image; give one of "
            f"{', '.join(named)}"
        )
    return measure_style_of(Path(style), "--style")


def _is_field(style: str) -> bool:
    """Whether a path is a Zarr array of three axes that holds floats."""
    try:
        array = zarr.open_array(LocalStore(style, read_only=True), mode="r")
    except Exception:  # no Zarr, or a group: it may be a picture
        return False
    return array.ndim == 3 and array.dtype.kind == "f"


def _with_field(card: Card, style: str) -> Card:
    """Return the card of a generator that draws in the styles of a field."""
    assert card.style is not None
    path = str(Path(style).absolute())
    try:
        channels = len(read_field(path))
    except BadInput as error:
        raise BadInput(f"--style {error}") from error
    if channels != len(card.style.numbers):
        raise BadInput(
            f"--style {style}: its vectors have {counted(channels, 'number')}, those of generator {card.name!r} {len(card.style.numbers)}; "
            "give a field that was made for it"
        )
    chosen = msgspec.structs.replace(card.style, source=path, content=content_of(path))
    return dataclasses.replace(card, style=chosen)
