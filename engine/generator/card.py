"""What does a generator need and promise?

The card is JSON in the ONNX file's ``metadata_props["safron"]``; a card file beside it
(``model.onnx`` and ``model.json``) takes its place for files made by others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput

from .adapter import Adapter, parse_adapter

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Label:
    """One mask value that a generator knows.

    Attributes
    ----------
    value : 0..255 in the mask.
    name : tissue component.
    color : RGB that stands for it in colour-coded masks.
    fill : RGB of glass: windows holding only fill labels are painted, never sent to the model.
    """

    value: int
    name: str
    color: RGB
    fill: RGB | None = None


@dataclass(frozen=True)
class Card:
    """The contract of a patch generator.

    Attributes
    ----------
    name, version, licence, trained_on : provenance.
    tile : pixels written by default.
    tile_multiple : a tile must be a multiple of this; None where only `tile` works.
    context : mask pixels read around a patch.
    alignment : patches agree in their overlap when the stride is a multiple of this.
    labels : the mask values it was trained on.
    outside : label read beyond the canvas; None repeats the nearest canvas label.
    noise_scales : one entry per noise channel, see `safron.engine.generator.noise`.
    mpp : micrometres per pixel of what it draws, or None.
    adapter : how to call a network that does not follow the contract itself, or None.
    extra : every other field of the card.
    """

    name: str
    tile: int
    context: int
    labels: tuple[Label, ...]
    tile_multiple: int | None = None
    alignment: int = 1
    outside: int | None = None
    noise_scales: tuple[int, ...] = ()
    mpp: float | None = None
    version: str = "1"
    licence: str = "unknown"
    trained_on: str = "unknown"
    adapter: Adapter | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which mask values the generator knows: bool [256]."""
        known = np.zeros(256, bool)
        known[[label.value for label in self.labels]] = True
        return known

    @property
    def is_fill(self) -> npt.NDArray[np.bool_]:
        """Which mask values are glass: bool [256]."""
        fill = np.zeros(256, bool)
        fill[[label.value for label in self.labels if label.fill is not None]] = True
        return fill

    @property
    def fill_colors(self) -> npt.NDArray[np.uint8]:
        """Colour of each glass value: uint8 [256, 3]; other values are black."""
        colors = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            if label.fill is not None:
                colors[label.value] = label.fill
        return colors

    @property
    def background(self) -> RGB:
        """Colour of empty slide: the first glass label's, else white."""
        return next((label.fill for label in self.labels if label.fill is not None), (255, 255, 255))

    @property
    def palette(self) -> dict[int, RGB]:
        """Colours of a colour-coded mask, by mask value."""
        return {label.value: label.color for label in self.labels}

    def require_tile(self, tile: int) -> None:
        """Raise `BadInput` unless the generator writes tiles of this size."""
        if tile == self.tile or (self.tile_multiple and tile > 0 and tile % self.tile_multiple == 0):
            return
        rule = f"multiples of {self.tile_multiple}" if self.tile_multiple else f"{self.tile} only"
        raise BadInput(
            f"--tile {tile}: generator {self.name!r} writes tiles of {rule}; try --tile {self.tile}"
        )


def parse_card(text: str, *, source: str) -> Card:
    """Read a card from JSON.

    Parameters
    ----------
    text : the JSON document.
    source : the file it came from, for messages.

    Raises
    ------
    BadInput
        When a field is missing or breaks its rule; the message names it.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON; a number of thousands of digits, lists in lists
        raise BadInput(
            f"{source}: the generator card is not JSON ({error}); export the model again"
        ) from error
    if not isinstance(raw, dict):
        raise BadInput(f"{source}: the generator card must be a JSON object; export the model again")
    try:
        return _card_from_dict(raw)
    except KeyError as error:
        raise BadInput(
            f"{source}: the generator card has no field {error}; see docs/generator-contract.md"
        ) from error
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise BadInput(
            f"{source}: the generator card is wrong: {error}; see docs/generator-contract.md"
        ) from error


def _card_from_dict(raw: dict[str, Any]) -> Card:
    fields = dict(raw)
    tile, multiple = _tile(fields.pop("tile"))
    outside = fields.pop("outside", "edge")
    labels = tuple(_label(entry) for entry in fields.pop("labels"))
    channels = _whole(fields.pop("noise_channels", 0), "noise_channels", least=0)
    given = fields.pop("noise_scales", [1] * channels)
    scales = tuple(_whole(scale, "noise scale", least=1) for scale in given)
    if len(scales) != channels:
        raise ValueError(f"noise_scales {list(scales)} must be as many as noise_channels {channels}")
    if not labels or len({label.value for label in labels}) != len(labels):
        raise ValueError("labels must be a list of distinct values")
    if outside != "edge" and outside not in {label.value for label in labels}:
        raise ValueError(f'outside {outside!r} must be "edge" or one of its labels')
    adapter = fields.pop("adapter", None)
    mpp = fields.pop("mpp", None)
    if mpp is not None and not 0 < float(mpp) < float("inf"):
        raise ValueError(f"mpp {mpp!r} must be micrometres per pixel, above 0")
    return Card(
        name=str(fields.pop("name")),
        tile=tile,
        tile_multiple=multiple,
        context=_whole(fields.pop("context"), "context", least=0),
        alignment=_whole(fields.pop("alignment", 1), "alignment", least=1),
        labels=labels,
        outside=None if outside == "edge" else int(outside),
        noise_scales=scales,
        mpp=None if mpp is None else float(mpp),
        version=str(fields.pop("version", "1")),
        licence=str(fields.pop("licence", "unknown")),
        trained_on=str(fields.pop("trained_on", "unknown")),
        adapter=None if adapter is None else parse_adapter(adapter),
        extra=fields,
    )


def _tile(value: Any) -> tuple[int, int | None]:
    """Return the default tile and the step of tiles, or None where there is one tile only."""
    if not isinstance(value, dict):
        return _whole(value, "tile", least=1), None
    multiple = _whole(value["multiple_of"], "tile multiple_of", least=1)
    default = _whole(value.get("default", max(multiple, 256 - 256 % multiple)), "tile default", least=1)
    if default % multiple:
        raise ValueError(f"tile default {default} must be a multiple of {multiple}")
    return default, multiple


def _label(entry: dict[str, Any]) -> Label:
    fill = entry.get("fill")
    value = _whole(entry["value"], "label value", least=0, most=255)
    return Label(value, str(entry["name"]), _rgb(entry["color"]), None if fill is None else _rgb(fill))


def _rgb(value: Any) -> RGB:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError(f"colour {value!r} must be a list of three numbers")
    red, green, blue = (_whole(part, "colour channel", least=0, most=255) for part in value)
    return red, green, blue


def _whole(value: Any, what: str, *, least: int, most: int | None = None) -> int:
    """Return a whole number in its range; JSON would also let fractions, texts and true through."""
    if type(value) is int and value >= least and (most is None or value <= most):
        return value
    rule = f"at least {least}" if most is None else f"{least} to {most}"
    raise ValueError(f"{what} {value!r} must be a whole number, {rule}")
