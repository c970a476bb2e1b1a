"""Do the labels of a mask mean what they mean to the generator?

Both may have names, and a mask that was made for another generator often has the same numbers. Only names can tell.
"""

from __future__ import annotations

import re

from safron.engine.generator.card import Card
from safron.io.errors import BadInput
from safron.io.masks.mask import LabelMask

_SAME = ({"tissue", "stroma"}, {"background", "glass", "other"})
"""Names that stand for one thing: what lies between structures, and where nothing lies."""

_NO_NAME = re.compile(r"(label|class)? ?\d*")


def name_notes(mask: LabelMask, card: Card) -> list[str]:
    """Tell of labels whose names in the mask and on the card differ, in one line; nothing where the mask has no names.

    Upper and lower case, a plural and names such as "label 2" make no difference.
    """
    from safron.io.masks.to_geojson import own_legend  # which loads what a render does not need

    try:
        own = {label.value: label.name for label in own_legend(mask)}
    except BadInput:  # another program's attribute of that name
        return []
    differing = [
        f"label {label.value} is {own[label.value]} in it and {label.name} to generator {card.name!r}"
        for label in card.labels
        if label.value in own and _differ(own[label.value], label.name)
    ]
    if not differing:
        return []
    return [
        f"mask {mask.source}: {', '.join(differing)}; if they do not mean the same, relabel it (safron-mask import --map, "
        "safron-mask from-polygons --classes), or choose another generator"
    ]


def _differ(one: str, other: str) -> bool:
    first, second = _plain(one), _plain(other)
    if first == second or _NO_NAME.fullmatch(first) or _NO_NAME.fullmatch(second):
        return False
    return not any({first, second} <= {*map(_plain, same)} for same in _SAME)


def _plain(name: str) -> str:
    """A name in lower case, with single spaces, of one thing."""
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip().removesuffix("s")
