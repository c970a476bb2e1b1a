"""Which picture does a generator refine, and does it fit the mask?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
from safron.engine.generator.card import Card
from safron.engine.generator.pictures import content_of, open_picture
from safron.engine.plan.scale import Scale
from safron.io.errors import BadInput


def choose_image(card: Card, image: str | Path | None, shape: tuple[int, int]) -> Card:
    """Return the card of a generator that refines a picture.

    Parameters
    ----------
    card
        Of the generator.
    image
        The picture; None where none is given.
    shape
        Pixels (height, width) of the mask.

    Returns
    -------
    Card
        It names the picture.

    Raises
    ------
    BadInput
        The generator needs a picture and there is none, or takes none; or the picture is unreadable or of another size.
    """
    if card.initial is None:
        if image is not None:
            raise BadInput(
                f"--image {image}: generator {card.name!r} takes no image; leave it out, or choose a refiner"
            )
        return card
    if image is None:
        raise BadInput(f"generator {card.name!r} refines an image; give one of the mask's size with --image")
    path = str(image).removeprefix("file://")
    if "://" in path:
        raise BadInput(f"--image {image}: is read from this machine only; copy it here")
    path = str(Path(path).absolute())
    try:
        found = open_picture(path).shape
    except BadInput as error:
        raise BadInput(f"--image {error}") from error
    if found != tuple(shape):
        raise BadInput(
            f"--image {image}: has {found[1]} x {found[0]} px, the mask {shape[1]} x {shape[0]}; both must be of one size"
        )
    chosen = msgspec.structs.replace(card.initial, source=path, content=content_of(path))
    return replace(card, initial=chosen)


def check_scale(card: Card, scale: Scale) -> None:
    """Refuse to resample a picture: what is refined would no longer be its pixels."""
    if card.initial is not None and not scale.is_one:
        raise BadInput(
            f"--image: mask and generator {card.name!r} have different pixel sizes, and an image is not resampled; "
            "make it at the generator's, or pass --scale 1"
        )
