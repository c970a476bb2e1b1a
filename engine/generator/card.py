"""What does a generator need and promise?

The card is JSON in the ONNX file's ``metadata_props["safron"]``; a card file beside it
(``model.onnx`` and ``model.json``) takes its place for files made by others.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from safron.io.errors import BadInput, counted
from safron.io.fields import RGB, Byte, Count, Finite, Line, Mpp, NotNegative, Text, convert, hints
from safron.io.files import parse_text
from safron.io.json_texts import parse_json
from safron.io.legend import Label
from safron.io.measures.guides import Guides

from .sampler import Sampler

__all__ = ["RGB", "Card", "Label", "parse_card"]

PAGE = "see docs/generator-contract.md"

Name = Annotated[str, Meta(min_length=1, description="a name in the graph")]
Layout = Literal["nchw", "nhwc"]
Range = Annotated[tuple[Finite, Finite], Meta(description="two different numbers, as [-1, 1]")]


class AdapterInput(Struct, frozen=True, forbid_unknown_fields=True):
    """The input of a foreign network.

    Attributes
    ----------
    name
        In the graph.
    kind
        What it takes: "labels" (the mask's values), "one_hot" (one channel a label, in the card's order) or
        "rgb" (the labels' colours).
    layout
        Of its axes.
    range
        What 0 and 1 of a one-hot, or 0 and 255 of a colour, become; None for "labels".
    """

    name: Name
    kind: Literal["labels", "one_hot", "rgb"]
    layout: Layout = "nchw"
    range: Range | None = None

    def __post_init__(self) -> None:
        if self.kind == "labels" and self.range is not None:
            raise ValueError("range is for kinds one_hot and rgb; labels go in as they are")
        if self.kind == "rgb" or self.range is not None:
            _check_range(self.range)

    @property
    def ends(self) -> tuple[float, float]:
        """Give the range, or that of a one-hot without one."""
        return self.range or (0.0, 1.0)


class AdapterOutput(Struct, frozen=True, forbid_unknown_fields=True):
    """The output of a foreign network, an RGB image.

    Attributes
    ----------
    name
        In the graph.
    range
        What stands for black and for full colour.
    layout
        Of its axes.
    crop
        Pixels cut from every side.
    """

    name: Name
    range: Range
    layout: Layout = "nchw"
    crop: NotNegative = 0

    def __post_init__(self) -> None:
        _check_range(self.range)


class Adapter(Struct, frozen=True, forbid_unknown_fields=True):
    """How a foreign network is called.

    Attributes
    ----------
    input, output
        Its input and output.
    noise
        Name of its noise input, float [N, K, y, x]; None where it takes none.
    """

    input: AdapterInput
    output: AdapterOutput
    noise: Name | None = None


class Edges(Struct, frozen=True, forbid_unknown_fields=True):
    """The input "edges", uint8 [N, 1, y, x]: 1 in pixels at the border of a region, else 0.

    Attributes
    ----------
    of
        What ends at an edge: "labels", regions of one label; "instances", single nuclei: of a mask without their numbers,
        regions of one of `labels`; "image", what Canny's method finds in a real picture, which no mask has: edges must be given.
    labels
        Those of nuclei, for "instances".
    """

    of: Literal["labels", "instances", "image"] = "labels"
    labels: tuple[Byte, ...] = ()

    def __post_init__(self) -> None:
        if (self.of == "instances") != bool(self.labels):
            raise ValueError('labels are for of "instances", which needs one label of nuclei at least')


class StyleEncoder(Struct, frozen=True, forbid_unknown_fields=True):
    """A network that measures the style of an image: input "image" uint8 [N, 3, y, x], output "style" float32 [N, S].

    Attributes
    ----------
    file
        Its ONNX file, beside the generator's.
    side
        Pixels a side of the squares that it is given.
    mpp
        Micrometres per pixel of those; None where any will do.
    """

    file: Name
    side: Count
    mpp: Mpp | None = None

    def __post_init__(self) -> None:
        if "/" in self.file or "\\" in self.file:
            raise ValueError(
                f"file {self.file!r} must be a name without folders; the encoder lies beside the generator"
            )


class Style(Struct, frozen=True, forbid_unknown_fields=True):
    """The input "style", float32 [N, S]: one vector for the whole slide; or [N, S, y, x], one for each pixel.

    Attributes
    ----------
    numbers
        What each of the S numbers is; see `safron.io.measures.style` for those that can be measured on an image.
    default
        The vector that is used if no other is asked for.
    named
        Further vectors, by name.
    encoder
        The network that measures it on images; None where there is none.
    field
        Whether the graph reads it in each pixel, so that it may vary over the slide.
    source, content
        Path of a style field and hash of its files; a render sets them.
    """

    numbers: tuple[Name, ...]
    default: tuple[Finite, ...]
    named: Mapping[str, tuple[Finite, ...]] = {}
    encoder: StyleEncoder | None = None
    field: bool = False
    source: str = ""
    content: str = ""

    def __post_init__(self) -> None:
        for name, vector in {"default": self.default, **self.named}.items():
            if len(vector) != len(self.numbers):
                raise ValueError(
                    f"{name} has {counted(len(vector), 'value')}; its numbers are {len(self.numbers)}"
                )


class InitialImage(Struct, frozen=True, forbid_unknown_fields=True):
    """The input "initial", uint8 [N, 3, y, x]: RGB of a picture that the generator refines.

    It is not called "image", since no ONNX graph has an input and an output of one name.

    Attributes
    ----------
    source, content
        Path of the picture and hash of its files; a render sets them.
    """

    source: str = ""
    content: str = ""


def _check_range(given: tuple[float, float] | None) -> None:
    """Refuse a range without extent, or none: a guess at what is missing would give wrong colours in silence."""
    if given is None or given[0] == given[1]:
        said = given and f"[{given[0]:g}, {given[1]:g}]"
        raise ValueError(f"range {said} must be two different numbers, as [-1, 1]")


class Difference(Struct, frozen=True):
    """How far pixels are from those in float32.

    Attributes
    ----------
    mean, max
        Measured grey levels, over all channels.
    """

    mean: Finite
    max: Finite


@dataclass(frozen=True)
class Card:
    """The contract of a patch generator.

    Attributes
    ----------
    name, version, licence, trained_on
        Provenance.
    tile
        Pixels written by default.
    tile_multiple
        A tile must be a multiple of this; None where only `tile` works.
    context
        Mask pixels read around a patch.
    alignment
        Patches agree in their overlap when the stride is a multiple of this.
    labels
        The mask values it was trained on.
    outside
        Label read beyond the canvas; None repeats the nearest canvas label.
    noise_scales
        One entry per noise channel, see `safron.engine.generator.noise`.
    mpp
        Micrometres per pixel of what it draws, or None.
    edges
        What its input "edges" shows, or None where it has none.
    guides
        What its input "guides" measures, or None where it has none.
    style
        Its input "style", or None where it has none.
    sampler
        How a picture is made of its predictions, or None where it gives the picture itself.
    initial
        Its input "initial", or None where it has none.
    adapter
        How to call a network that does not follow the contract itself, or None.
    bfloat16
        What bfloat16 changes, where ``--precision auto`` may take it; None where it may not.
    extra
        Every other field of the card.
    """

    name: Line
    tile: Count
    context: NotNegative
    labels: tuple[Label, ...]
    tile_multiple: Count | None = None
    alignment: Count = 1
    outside: Byte | None = None
    noise_scales: tuple[Count, ...] = ()
    mpp: Mpp | None = None
    version: Line = "1"
    licence: Text = "unknown"
    trained_on: Text = "unknown"
    edges: Edges | None = None
    guides: Guides | None = None
    style: Style | None = None
    sampler: Sampler | None = None
    initial: InitialImage | None = None
    adapter: Adapter | None = None
    bfloat16: Difference | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def output(self) -> str:
        """Name of the generator's output in the graph."""
        return "prediction" if self.sampler else "image"

    @property
    def channels(self) -> int:
        """Values per pixel of its output."""
        return self.sampler.channels if self.sampler else 3

    @property
    def reach(self) -> int:
        """Label pixels on each side of a patch that its colours may depend on: its context, and what guides and edges read."""
        return self.context + (self.guides.reach if self.guides else 0) + bool(self.edges)

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


def read_card(path: Path) -> str:
    """Read the text of a card beside a graph.

    Raises
    ------
    BadInput
        It is no text, too large, or no regular file.
    """
    return parse_text(path, str, kind="a generator card", remedy="save it as JSON in UTF-8")


def parse_card(text: str, *, source: str) -> Card:
    """Read a card from JSON.

    Parameters
    ----------
    text
        The JSON document.
    source
        The file it came from, for messages.

    Raises
    ------
    BadInput
        When a field is missing or breaks its rule; the message names it.
    """
    try:
        raw = parse_json(text)
    except (ValueError, RecursionError) as error:  # no JSON; a number of thousands of digits, lists in lists
        raise BadInput(
            f"{source}: the generator card cannot be read as JSON ({error}); export the model again"
        ) from error
    if not isinstance(raw, dict):
        raise BadInput(f"{source}: the generator card must be a JSON object; export the model again")
    where = f"{source}: the generator card is wrong"
    known = {name: raw[name] for name in (*hints(Card), "noise_channels") if name in raw}
    _take_what_was_always_taken(known)
    file: _File = convert(known, _File, where, then=PAGE, loose=True)
    card: Card = convert(known | file.changes(), Card, where, then=PAGE, loose=True)
    return replace(card, extra={name: value for name, value in raw.items() if name not in known})


class _Tiles(Struct, frozen=True):
    """A network that writes tiles of several sizes."""

    multiple_of: Count
    default: Count | None = None

    @property
    def usual(self) -> int:
        return self.default or max(self.multiple_of, 256 - 256 % self.multiple_of)

    def __post_init__(self) -> None:
        if self.usual % self.multiple_of:
            raise ValueError(f"default {self.default} must be a multiple of {self.multiple_of}")


MOST_NOISE = 4096
"""Channels of noise that a card may ask for; more are an error of writing."""


class _File(Struct, frozen=True):
    """Fields that a card's file has in another form than `Card`."""

    tile: Count | _Tiles
    labels: tuple[Label, ...]
    outside: Annotated[Byte, Meta(description="one of its labels")] | Literal["edge"] = "edge"
    noise_channels: Annotated[int, Meta(ge=0, le=MOST_NOISE)] = 0
    noise_scales: tuple[Count, ...] | None = None

    def __post_init__(self) -> None:
        values = [label.value for label in self.labels]
        if not values or len({*values}) < len(values):
            raise ValueError(f"labels must be one or more, of distinct values, not {values}")
        if self.outside != "edge" and self.outside not in values:
            raise ValueError(f"outside {self.outside!r} must be one of its labels or 'edge'")
        scales = self.noise_scales
        if scales is not None and len(scales) != self.noise_channels:
            raise ValueError(
                f"noise_scales {list(scales)} must be as many as noise_channels {self.noise_channels}"
            )

    def changes(self) -> dict[str, Any]:
        """Give what becomes of them."""
        tiles = self.tile if isinstance(self.tile, _Tiles) else None
        return {
            "tile": tiles.usual if tiles else self.tile,
            "tile_multiple": tiles.multiple_of if tiles else None,
            "outside": None if self.outside == "edge" else self.outside,
            "noise_scales": (1,) * self.noise_channels if self.noise_scales is None else self.noise_scales,
            "extra": {},
        }


def _take_what_was_always_taken(fields: dict[str, Any]) -> None:
    """Take numbers for texts, and a pixel size in quotes: cards are written by hand, too."""
    labels = fields.get("labels")
    for holder in (fields, *(labels if isinstance(labels, list) else ())):
        for name in ("name", "version", "licence", "trained_on"):
            if isinstance(holder, dict) and isinstance(holder.get(name), int | float):
                holder[name] = str(holder[name])
    with suppress(ValueError):
        if isinstance(fields.get("mpp"), str):
            fields["mpp"] = float(fields["mpp"])
