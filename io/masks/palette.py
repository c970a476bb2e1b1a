"""Which colour stands for which label?"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct
from safron.io.errors import BadInput
from safron.io.fields import RGB, Byte, convert
from safron.io.files import open_input, parse_text
from safron.io.json_texts import parse_json
from safron.io.legend import DEFAULT_LABELS

_STRIP = 64
_NAMED = 8
_FORM = 'it must look like {"0": [0, 0, 255], "1": "#ff0000"}, label value to colour'
_Color = RGB | Annotated[str, Meta(pattern="^#?[0-9a-fA-F]{6}$", description="a text as '#ff0000'")]


class _Entry(Struct):
    """A label of a list, as in a model card."""

    value: Byte
    color: _Color


class Palette:
    """Converts colours to labels.

    Parameters
    ----------
    colours
        Label value, 0..255, to RGB.
    tolerance
        Largest difference in any channel, 0..255, to the nearest colour.

    Raises
    ------
    BadInput
        A value, a channel or the tolerance is out of range, or two labels have the same colour.
    """

    def __init__(self, colours: Mapping[int, RGB], tolerance: int = 0) -> None:
        if not 0 <= tolerance <= 255:
            raise BadInput(f"palette tolerance {tolerance}: it is a difference in 8-bit channels, 0 to 255")
        for value, rgb in colours.items():
            if not (0 <= value <= 255 and len(rgb) == 3 and all(0 <= channel <= 255 for channel in rgb)):
                raise BadInput(f"palette: {value}: {tuple(rgb)}; values and the three channels are 0 to 255")
        if len(set(colours.values())) < len(colours):
            raise BadInput("palette: two labels have the same colour")
        self.colours = dict(colours)
        self.tolerance = tolerance

    @property
    def has_grey(self) -> bool:
        """Whether any of the colours is a grey, so that a grey image may be looked up."""
        return any(len(set(rgb)) == 1 for rgb in self.colours.values())

    def ambiguity(self) -> str:
        """Say which labels a colour may be within the tolerance of at once; empty if there are none."""
        if not self.tolerance:
            return ""
        pairs = combinations(self.colours.items(), 2)
        apart = ((max(abs(p - q) for p, q in zip(a, b, strict=True)), u, v) for (u, a), (v, b) in pairs)
        least, first, second = min(apart, default=(256, 0, 0))
        if 2 * self.tolerance < least:
            return ""
        return (
            f"the colours of labels {first} and {second} differ by {least}, and with a palette tolerance of {self.tolerance} a colour "
            f"may be within reach of both: it takes the nearer without a word; a tolerance below {(least + 1) // 2} parts them"
        )

    def labels(self, rgb: npt.NDArray[np.uint8], y: int, x: int) -> npt.NDArray[np.uint8]:
        """Look colours up.

        Parameters
        ----------
        rgb
            uint8 [y, x, 3].
        y, x
            Canvas position of the first pixel, for messages.

        Returns
        -------
        npt.NDArray[np.uint8]
            uint8 [y, x].

        Raises
        ------
        BadInput
            A colour is further than the tolerance from every colour of the palette.
        """
        labels = np.empty(rgb.shape[:2], np.uint8)
        for top in range(0, len(rgb), _STRIP):  # the distances take more memory than the colours
            strip = slice(top, min(top + _STRIP, len(rgb)))
            labels[strip] = self._labels(np.ascontiguousarray(rgb[strip]), y + top, x)
        return labels

    def _labels(self, rgb: npt.NDArray[np.uint8], y: int, x: int) -> npt.NDArray[np.uint8]:
        labels = np.zeros(rgb.shape[:2], np.uint8)
        nearest = np.full(rgb.shape[:2], 256, np.int16)
        for value, colour in self.colours.items():
            if self.tolerance:
                red, green, blue = cv2.split(cv2.absdiff(rgb, np.array([*colour, 0], np.float64)))
                distance = cv2.max(cv2.max(red, green), blue)
            else:
                distance = cv2.bitwise_not(cv2.inRange(rgb, np.array(colour), np.array(colour)))
            better = (distance <= self.tolerance) & (distance < nearest)
            labels[better] = value
            nearest[better] = distance[better]
        unknown = nearest == 256
        if unknown.any():
            row, col = np.unravel_index(int(unknown.argmax()), unknown.shape)
            known = ", ".join(f"{value} = {colour}" for value, colour in [*self.colours.items()][:_NAMED])
            known += ", ..." if len(self.colours) > _NAMED else ""
            raise BadInput(
                f"colour {tuple(int(c) for c in rgb[row, col])} at row {y + row}, column {x + col} is not in "
                f"the palette ({known}); give a palette with it to safron-mask import --palette, or allow a larger palette tolerance "
                f"than {self.tolerance}"
            )
        return labels


def read_palette(source: str) -> dict[int, RGB]:
    """Read a palette: colours by label value.

    Parameters
    ----------
    source
        "builtin" for `DEFAULT_LABELS`, or a JSON file: an object ``{"2": [0, 255, 0]}`` or
        ``{"2": "#00ff00"}``, or a list of labels ``[{"value": 2, "color": [0, 255, 0]}]`` as in a model card
        (which may be given whole).

    Raises
    ------
    BadInput
        The file is missing, not JSON, or has another form.
    """
    if source == "builtin":
        return {label.value: label.color for label in DEFAULT_LABELS}
    document = parse_text(source, parse_json, kind="JSON", name="palette ", remedy=_FORM)
    kind: Any = dict[Byte, _Color]
    if isinstance(document, dict) and "labels" in document:
        document = document["labels"]
    if isinstance(document, list):
        kind = list[_Entry]
    found: Any = convert(document, kind, f"palette {source}", then=_FORM, loose=True, strict=False)
    pairs = found.items() if isinstance(found, dict) else ((entry.value, entry.color) for entry in found)
    return {value: _rgb(color) for value, color in pairs}


def _rgb(color: RGB | str) -> RGB:
    if isinstance(color, str):
        red, green, blue = bytes.fromhex(color.removeprefix("#"))
        return red, green, blue
    return color


def read_png_colours(path: Path) -> dict[int, RGB]:
    """Read the colour table of an indexed PNG: RGB by index, the first index of each colour.

    Raises
    ------
    BadInput
        The file is not an indexed PNG.
    """
    with open_input(path) as file:
        data = file.read(1 << 16)  # the table precedes the pixels
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[25:26] == b"\3":
        start = 8
        while start + 8 <= len(data):
            size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
            if kind == b"PLTE":
                table = data[start + 8 : start + 8 + size]
                colours: dict[RGB, int] = {}
                for index in range(len(table) // 3):
                    red, green, blue = table[3 * index : 3 * index + 3]
                    colours.setdefault((red, green, blue), index)
                return {index: rgb for rgb, index in colours.items()}
            start += 12 + size
    raise BadInput(
        f"palette indices: {path} is not an indexed PNG; leave the palette out, or give its colours"
    )
