"""Which nuclei are asked for, of what model, and in what regions?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from safron.io.errors import BadInput
from safron.io.fields import Finite, convert
from safron.io.legend import Label
from safron.io.masks.classes import ClassTable, read_table
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask
from safron.io.masks.relabel import Relabel
from safron.io.masks.scaled import ScaledMask
from safron.io.masks.to_geojson import own_legend

from .generator.card import Card
from .generator.model import PatchModel, load_model
from .regional_types import read_region_types

TISSUE = "tissue"
MOST_PIXELS = 30_000_000
"""Of a side: 15 m of tissue at 0.5 um, and nearly as many blocks as a render takes."""


class Codes(Struct, frozen=True):
    """The card's field "nuclei": what its picture means.

    Attributes
    ----------
    types
        Names, in the order of the style's numbers.
    codes
        Point of each on the unit circle.
    """

    types: tuple[str, ...]
    codes: tuple[tuple[Finite, Finite], ...]

    def __post_init__(self) -> None:
        if not self.types or len(self.types) != len(self.codes):
            raise ValueError(
                f"types and codes must be one or more, and as many, not {len(self.types)} and {len(self.codes)}"
            )


@dataclass(frozen=True)
class NucleusPlan:
    """What is made, and of what.

    Attributes
    ----------
    model
        The mask model.
    codes
        Of its card.
    types
        Places of the types that are wanted, where a region has none of its own.
    by_region
        Places of the types of some regions, by label of the model.
    shape
        Height and width of the mask in pixels.
    tissue
        Regions, or None for tissue everywhere.
    values
        uint8 [256]: label of the model for each value of `tissue`.
    table
        Labels of the mask that is written.
    seed, steps
        Of sampling; None takes the card's steps.
    """

    model: PatchModel
    codes: Codes
    types: tuple[int, ...]
    by_region: dict[int, tuple[int, ...]]
    shape: tuple[int, int]
    tissue: LabelMask | None
    values: npt.NDArray[np.uint8]
    table: ClassTable
    seed: int
    steps: int | None

    @property
    def style(self) -> str:
        """Name of the style on the card."""
        return self.named(self.types)

    def named(self, places: Sequence[int]) -> str:
        """Name types by their places."""
        return "+".join(self.codes.types[place] for place in places)

    @property
    def all_types(self) -> tuple[int, ...]:
        """Places of all types that are wanted anywhere."""
        return tuple(sorted({*self.types, *(place for some in self.by_region.values() for place in some)}))

    @property
    def allowed(self) -> npt.NDArray[np.bool_]:
        """Which types may be in a region: bool [256, types] by label of the model."""
        found = np.zeros((256, len(self.codes.types)), bool)
        found[:, list(self.types)] = True
        for label, places in self.by_region.items():
            found[label] = False
            found[label, list(places)] = True
        return found

    @property
    def region_types(self) -> dict[str, str]:
        """Types of regions that have their own, as JSON values by the names of both."""
        names = {label.value: label.name for label in self.model.card.labels}
        return {names[label]: self.named(places) for label, places in sorted(self.by_region.items())}

    def request(self) -> dict[str, Any]:
        """All that decides the picture, as JSON values."""
        return {
            "model": self.model.sha256,
            "--types": self.style,
            "--region-types": self.region_types or None,
            "--size": f"{self.shape[1]},{self.shape[0]}",
            "--tissue": None if self.tissue is None else [self.tissue.fingerprint(), self.values.tolist()],
            "--seed": self.seed,
            "--steps": self.steps,
        }


UNNAMED = 255
"""Stands for labels of a mask that have no name; no model has a region of this number."""


def plan_nuclei(
    types: Sequence[str],
    *,
    region_types: str | None = None,
    size: tuple[int, int] | None = None,
    tissue: str | Path | None = None,
    relabel: Relabel | None = None,
    model: str | Path | PatchModel,
    classes: str = "nuclei",
    seed: int = 0,
    steps: int | None = None,
    **options: Any,
) -> NucleusPlan:
    """Check a request.

    Parameters
    ----------
    types
        Types of nuclei that there shall be.
    region_types
        Other types for some regions of `tissue`, see `safron.engine.regional_types.read_region_types`.
    size
        Height and width in pixels, without `tissue`.
    tissue
        A mask of regions, which has its own size.
    relabel
        Labels of the model for the values of `tissue`; otherwise its labels are found by their names.
    model
        See `load_model`.
    classes
        See `read_table`, or "types" for labels of the model's own types.
    seed, steps
        See `RenderOptions`.
    **options
        Passed to `load_model`.

    Raises
    ------
    BadInput
        A type, region or class is not known, or the model makes no masks.
    """
    loaded = load_model(model, **options)
    codes = read_codes(loaded.card)
    wanted = _places(types, codes, loaded.card)
    opened = None if tissue is None else open_mask(tissue, relabel=relabel)
    if (opened is None) == (size is None):
        raise BadInput("give either --size W,H or --tissue MASK, which has a size")
    card, shape = loaded.card, size
    if region_types is not None and opened is None:
        raise BadInput(f"--region-types {region_types}: give --tissue, whose regions they are")
    by_region = {} if region_types is None else read_region_types(region_types, card, codes.types)
    if opened is not None:
        shape = scaled_regions(opened, card).shape
    assert shape is not None
    if max(shape) > MOST_PIXELS:
        raise BadInput(
            f"{shape[1]} x {shape[0]} pixels: a side may have {MOST_PIXELS} pixels; give a smaller --size or --tissue"
        )
    values = _values(opened, card, by_name=relabel is None)
    return NucleusPlan(
        loaded, codes, wanted, by_region, shape, opened, values, _table(classes, codes, card), seed, steps
    )


def read_codes(card: Card) -> Codes:
    """Read what a model's picture means; `BadInput` if it makes no masks."""
    field = card.extra.get("nuclei")
    if field is None or card.sampler is None or card.style is None or card.mpp is None:
        raise BadInput(
            f"--model: {card.name!r} makes no masks: its card must have nuclei, sampler, style and mpp; give a file of "
            "safron-train export-mask-model"
        )
    codes: Codes = convert(field, Codes, f"generator {card.name!r}: the card's field nuclei", loose=True)
    if card.style.numbers != codes.types:
        raise BadInput(
            f"generator {card.name!r}: nuclei has types {', '.join(codes.types)}, its style {', '.join(card.style.numbers)}; "
            "export it again"
        )
    return codes


def _places(types: Sequence[str], codes: Codes, card: Card) -> tuple[int, ...]:
    known = {name.lower(): place for place, name in enumerate(codes.types)}
    unknown = [name for name in types if name.lower() not in known]
    if unknown or not types:
        raise BadInput(
            f"--types {','.join(types)}: {card.name!r} knows {', '.join(codes.types)}; give some of these"
        )
    return tuple(sorted({known[name.lower()] for name in types}))


def scaled_regions(tissue: LabelMask, card: Card) -> ScaledMask:
    """Give regions at the pixel size of the model; those of unknown size are taken to have it."""
    ratio = 1.0 if tissue.mpp is None or card.mpp is None else tissue.mpp / card.mpp
    if abs(ratio - 1) < 0.02:
        ratio = 1.0
    height, width = (max(1, round(side * ratio)) for side in tissue.shape)
    return ScaledMask(tissue, (height, width), lambda pixels: ((pixels + 0.5) / ratio).astype(np.int64))


def _values(tissue: LabelMask | None, card: Card, *, by_name: bool) -> npt.NDArray[np.uint8]:
    """Label of the model for each value of a mask, uint8 [256]; one without a name is `UNNAMED`, and is refused where it occurs.

    Background may go without a name, if other labels have one.
    """
    if tissue is None or not by_name:
        return np.arange(256, dtype=np.uint8)
    values = np.full(256, UNNAMED, np.uint8)
    values[0] = 0
    legend = own_legend(tissue)
    known = {label.name.lower(): label.value for label in card.labels}
    if not legend:
        raise BadInput(
            f"--tissue {tissue.source}: its labels have no names; {card.name!r} has regions "
            f"{', '.join(f'{label.value} {label.name}' for label in card.labels)}; say what each label is, as --map 0=0,1=1"
        )
    if unknown := [label for label in legend if label.name.lower() not in known]:
        example = ",".join(f"{label.value}={known.get(label.name.lower(), 1)}" for label in legend)
        raise BadInput(
            f"--tissue {tissue.source}: {card.name!r} knows no region {unknown[0].name!r}; it has "
            f"{', '.join(f'{label.value} {label.name}' for label in card.labels)}; say what each label is, as --map {example}"
        )
    for label in legend:
        values[label.value] = known[label.name.lower()]
    return values


def _table(classes: str, codes: Codes, card: Card) -> ClassTable:
    """Labels of the mask that is written, for types and regions alike."""
    if classes != "types":
        table = read_table(classes)
        table.values(codes.types, source=f"generator {card.name!r}")
        return table
    own = [Label(0, "background", (255, 255, 255)), Label(1, TISSUE, (255, 200, 220))]
    colors = [(0, 160, 0), (0, 0, 255), (255, 0, 0), (255, 160, 0), (0, 200, 200), (160, 0, 200)]
    own += [Label(2 + place, name, colors[place % len(colors)]) for place, name in enumerate(codes.types)]
    return ClassTable({name: name for name in codes.types}, tuple(own))
