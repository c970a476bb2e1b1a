"""Which style is a slide drawn in: the generator's own, one that its card names, or that of an image?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.measures.style import BACKGROUND, STYLE_NAMES, measure_style
from safron.io.slides.whole_image import read_image


def choose_style(card: Card, style: str | None) -> Card:
    """Return the card of a generator that draws in a style.

    A style whose first numbers are the colour of its background also decides the card's fills, so that patches that are
    filled match those that are generated.

    Parameters
    ----------
    style
        Name of a style of the card, or path of an image to measure; None for the default.

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
    vector = card.style.default if style is None else _find(card, style)
    chosen = dataclasses.replace(card, style=msgspec.structs.replace(card.style, default=vector))
    if card.style.numbers[:3] != BACKGROUND:
        return chosen
    red, green, blue = (int(value) for value in np.clip(np.rint(vector[:3]), 0, 255))
    labels = (
        label if label.fill is None else dataclasses.replace(label, fill=(red, green, blue))
        for label in card.labels
    )
    return dataclasses.replace(chosen, labels=tuple(labels))


def _find(card: Card, style: str) -> tuple[float, ...]:
    """Find a named style, or measure an image."""
    assert card.style is not None
    named = {"default": card.style.default, **card.style.named}
    if style in named:
        return named[style]
    if not Path(style).is_file():
        raise BadInput(
            f"--style {style}: neither a style of generator {card.name!r} ({', '.join(named)}) nor an image file; give one"
        )
    if card.style.numbers != STYLE_NAMES:
        raise BadInput(
            f"--style {style}: styles of generator {card.name!r} cannot be measured on an image; give one of "
            f"{', '.join(named)}"
        )
    return tuple(float(value) for value in measure_style(read_image(Path(style))))
