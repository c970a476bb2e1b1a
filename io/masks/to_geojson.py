"""How do the regions of a mask become annotations that QuPath imports?

A feature is one region: a polygon with holes along the sides of its pixels, an annotation with the name and colour of its
class. `safron.io.masks.annotations` draws such a file back to the same pixels.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import zarr
from safron.io.fields import RGB, convert
from safron.io.files import output
from safron.io.legend import Label

from .array_plane import ArrayPlane
from .mask import LabelMask
from .outlines import Int64
from .region_shapes import shapes

ENDINGS = (".geojson", ".geojson.gz")
_POINTS = 1 << 14
_OTHERS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167), (120, 120, 120)
)  # fmt: skip
"""Colours of labels that have none (Okabe and Ito's, which colour-blind readers tell apart)."""


def legend_of(mask: LabelMask, names: Mapping[str, int]) -> dict[int, Label]:
    """Name and colour of every label, 0 to 255.

    Parameters
    ----------
    mask
        Of a Zarr array, the attribute `labels` says what its labels mean.
    names
        Label by name, as the user says; they go first.

    Returns
    -------
    dict[int, Label]
        Labels that nobody names are called "label N"; `read_geojson` knows such names.
    """
    meanings = {label.value: label for label in own_legend(mask)}
    called = {value: name for name, value in names.items()}
    legend = {}
    for value in range(256):
        label = meanings.get(value) or Label(value, f"label {value}", _other_color(value))
        legend[value] = replace(label, name=called.get(value, label.name))
    return legend


def _other_color(value: int) -> RGB:
    """Colour of a label that has none, another one for each."""
    red, green, blue = _OTHERS[value % len(_OTHERS)]
    return red, green, (blue + 7 * (value // len(_OTHERS))) % 256


def own_legend(mask: LabelMask) -> list[Label]:
    """What a Zarr mask itself says of its labels, in its attribute `labels`; nothing of other masks."""
    plane = mask.plane
    if not (isinstance(plane, ArrayPlane) and isinstance(plane.array, zarr.Array)):
        return []
    known = plane.array.attrs.get("labels") or []
    said: list[Label] = convert(known, list[Label], f"mask {mask.source}, attribute labels", loose=True)
    return said


def write_geojson(
    out: Path,
    mask: LabelMask,
    *,
    legend: Mapping[int, Label],
    left_out: Sequence[int] = (0,),
    min_area: int = 0,
    downsample: float = 1.0,
    origin: tuple[int, int] = (0, 0),
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda pixels: None,
) -> Counter[str]:
    """Write the regions of a mask as a FeatureCollection.

    Parameters
    ----------
    out
        Ends in .geojson or .geojson.gz.
    mask
        Read twice, piece by piece.
    legend
        See `legend_of`.
    left_out
        Labels that are not drawn: the background.
    min_area
        Smaller regions and holes are left out, in pixels.
    downsample
        Pixels of the slide along one pixel of the mask.
    origin
        Y and x of the mask's first pixel on the slide, in the slide's pixels.
    overwrite
        Replace a file.
    progress
        Called with the number of pixels of each piece; every pixel is read twice.

    Returns
    -------
    Counter[str]
        Regions by class.

    Raises
    ------
    BadInput
        `out` exists, cannot be written, or has another ending.
    """
    found: Counter[str] = Counter()
    skip = np.isin(np.arange(256), left_out)
    with (
        output(out, overwrite=overwrite, endings=ENDINGS) as part,
        _writing(part, out.suffix == ".gz") as file,
    ):
        file.write(b'{"type": "FeatureCollection", ' + _meanings(legend) + b'"features": [')
        drawn = shapes(mask, left_out=skip, min_area=min_area, folder=part.parent, progress=progress)
        for number, shape in enumerate(drawn):
            label = legend[shape.value]
            found[label.name] += 1
            properties = {
                "objectType": "annotation",
                "classification": {"name": label.name, "color": list(label.color)},
            }
            file.write(b",\n" if number else b"\n")
            file.write(b'{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [')
            for place, ring in enumerate(shape.rings()):
                file.write(b"," * bool(place))
                for text in _ring(ring, downsample, origin):
                    file.write(text)
            file.write(b']}, "properties": ' + json.dumps(properties).encode() + b"}")
        file.write(b"\n]}\n")
    return found


def _meanings(legend: Mapping[int, Label]) -> bytes:
    """Member that says what labels mean, also those that are not drawn; programs other than ours pass over it."""
    said = [asdict(label) for value, label in sorted(legend.items()) if label.name != f"label {value}"]
    return b'"labels": ' + json.dumps(said).encode() + b",\n" if said else b""


@contextmanager
def _writing(path: Path, packed: bool) -> Iterator[BinaryIO]:
    """Open a file; one that is packed has the same bytes whenever it is written."""
    with path.open("wb") as file:
        if not packed:
            yield file
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packing:
            yield packing  # type: ignore[misc] # a binary file in all that matters here


def _ring(ring: Int64, downsample: float, origin: tuple[int, int]) -> Iterator[bytes]:
    """Text of a ring, which ends where it begins, some points at a time."""
    corner = np.array(origin[::-1])
    for first in range(0, len(ring), _POINTS):
        part: Any = ring[first : first + _POINTS]
        if first + _POINTS >= len(ring):
            part = np.concatenate([part, ring[:1]])
        part = (part if downsample == 1 else part * downsample) + corner
        text = json.dumps(part.tolist(), separators=(",", ":"))
        # Pieces of one list: the first keeps its bracket, the last one, too.
        yield (text if not first else "," + text[1:])[: None if first + _POINTS >= len(ring) else -1].encode()
