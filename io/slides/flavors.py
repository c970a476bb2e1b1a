"""Which directories and tags does each flavor of a slide have?

To add a flavor, write a function that returns the chain of directories, enter it in `_CHAINS`, and name it in
`safron.io.slides.spec.Flavor`; `choose_flavor` in engine/preparation/output_paths.py maps file names to flavors::

    svs      IFD 0 level 0 | IFD 1 thumbnail | IFD 2.. levels 1..     each with an Aperio-style description
    ome      IFD 0 level 0 | IFD 1.. levels 1.., and the same levels again as SubIFDs of IFD 0     OME-XML
    generic  IFD 0 level 0 | IFD 1.. levels 1..                       a description in plain words

The rules behind this were measured with common readers:

- svs: every level has a description and NewSubfileType 0; otherwise Bio-Formats takes levels for labels. IFD 1 is a
  thumbnail in one strip; otherwise tifffile takes level 1 for the thumbnail. The thumbnail is smaller than the last
  level; otherwise Bio-Formats takes it for a level. Without a thumbnail, Bio-Formats reads a file whose name does
  not end in .svs as a plain TIFF.
- ome: OpenSlide follows only the chain, Bio-Formats only the SubIFDs. Each has its own directories, which
  point at the same tiles. The unit of PhysicalSize is written in UTF-8: napari takes a size without a unit for
  pixels, and Bio-Formats rejects the character reference "&#181;m" and then reads one level.
- generic: levels from 1 on have NewSubfileType 1. The description never contains "xml", which ASAP rejects.
- 4:4:4 JPEG has no YCbCrSubSampling tag: with (1, 1) there, Bio-Formats converts the colours twice.
- ResolutionUnit is the centimetre, which ASAP assumes without reading it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from functools import cache
from html import escape
from pathlib import Path

from .bigtiff import (
    Children,
    Directory,
    Kind,
    Table,
    Tag,
    long8_tag,
    long_tag,
    rational_tag,
    short_tag,
    text_tag,
)
from .pyramid import Level
from .spec import SlideSpec

DATE_TIME = 306
TILE_OFFSETS, TILE_BYTE_COUNTS = 324, 325
STRIP_OFFSETS, STRIP_BYTE_COUNTS = 273, 279
SUB_IFDS = 330
ICC_PROFILE = 34675

MASK_CONTENT = "Mask content"
"""Key of the mask's hash in a slide's description."""

COMPRESSION_CODES = {"none": 1, "lzw": 5, "jpeg": 7, "deflate": 8}
_COMPRESSION_WORDS = {"none": "Raw", "lzw": "LZW", "jpeg": "JPEG/YCC", "deflate": "Deflate"}
_PHOTOMETRIC_RGB, _PHOTOMETRIC_YCBCR = 2, 6
_REDUCED = 1  # NewSubfileType: a smaller copy of another image of the file
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"

_Tags = list[Tag | Table | Children]


@dataclass(frozen=True)
class Thumbnail:
    """A written thumbnail: its size in pixels, and offset and length of its JPEG stream in the file."""

    height: int
    width: int
    offset: int
    length: int


def directories(spec: SlideSpec, thumbnail: Thumbnail | None, written: datetime) -> tuple[Directory, ...]:
    """Return the main chain of a slide's directories.

    Parameters
    ----------
    spec
        What the slide is.
    thumbnail
        The thumbnail of an svs slide; None for the other flavors.
    written
        Time of writing, for the DateTime tag.
    """
    return _CHAINS[spec.flavor](spec, thumbnail, written)


def _svs_chain(spec: SlideSpec, thumbnail: Thumbnail | None, written: datetime) -> tuple[Directory, ...]:
    chain = [
        Directory(f"level {level.index}", (*_level_tags(spec, level, written), *_aperio_tag(spec, level)))
        for level in spec.pyramid.levels
    ]
    if thumbnail is not None:
        chain.insert(1, Directory("thumbnail", tuple(_thumbnail_tags(spec, thumbnail, written))))
    return tuple(chain)


def _ome_chain(spec: SlideSpec, _: Thumbnail | None, written: datetime) -> tuple[Directory, ...]:
    first, *reduced = _plain_chain(spec, ome_xml(spec), written)
    subs = tuple(Directory(f"sub {level.name}", level.tags) for level in reduced)
    tags = (*first.tags, Children(SUB_IFDS, subs)) if subs else first.tags
    return Directory(first.name, tags), *reduced


def _generic_chain(spec: SlideSpec, _: Thumbnail | None, written: datetime) -> tuple[Directory, ...]:
    return _plain_chain(spec, plain_text(spec), written)


def _plain_chain(spec: SlideSpec, text: str, written: datetime) -> tuple[Directory, ...]:
    """Return the levels alone, marked as reduced from level 1 on, with a description at level 0."""
    first, *reduced = spec.pyramid.levels
    return (
        Directory("level 0", (*_level_tags(spec, first, written), text_tag(270, text))),
        *(
            Directory(f"level {level.index}", tuple(_level_tags(spec, level, written, _REDUCED)))
            for level in reduced
        ),
    )


_CHAINS = {"svs": _svs_chain, "ome": _ome_chain, "generic": _generic_chain}


def described(spec: SlideSpec) -> str:
    """Return the description of level 0, which holds the metadata in the form of the slide's flavor."""
    if spec.flavor == "svs":
        return aperio_text(spec, f"{spec.width}x{spec.height}")
    return ome_xml(spec) if spec.flavor == "ome" else plain_text(spec)


def aperio_text(spec: SlideSpec, size: str) -> str:
    """Return an Aperio-style description: a head with the `size`, then pairs of key and value."""
    coding = _COMPRESSION_WORDS[spec.compression]
    coding += f" Q={spec.quality}" if spec.compression == "jpeg" else ""
    head = f"Aperio Image compatible, written by {_clean(spec.software)}\r\n{size} {coding}"
    pairs = [("AppMag", _number(spec.objective_power)), ("MPP", _number(spec.mpp)), *_provenance(spec)]
    return "|".join([head, *(f"{key} = {value}" for key, value in pairs if value)])


def plain_text(spec: SlideSpec) -> str:
    """Return a description in plain text: a pair of key and value on each line, without the word "xml"."""
    pairs = [("Objective", _number(spec.objective_power)), ("MPP", _number(spec.mpp)), *_provenance(spec)]
    head = f"Pyramid written by {_clean(spec.software)}"
    text = "\n".join([head, *(f"{key} = {value}" for key, value in pairs if value)])
    return re.sub("xml", "x_ml", text, flags=re.IGNORECASE)


def ome_xml(spec: SlideSpec) -> str:
    """Return the OME-XML of a slide: ASCII but for the unit, which Bio-Formats reads in UTF-8 alone."""
    software = escape(_clean(spec.software))
    power, mpp = _number(spec.objective_power), _number(spec.mpp)
    scale = (
        "".join(f' PhysicalSize{axis}="{mpp}" PhysicalSize{axis}Unit="µm"' for axis in "XY") if mpp else ""
    )
    objective = f'<Objective ID="Objective:0" NominalMagnification="{power}"/>'
    instrument = f'<Instrument ID="Instrument:0">{objective}</Instrument>' if power else ""
    settings = '<InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>' if power else ""
    pairs = "".join(f'<M K="{escape(key)}">{escape(value)}</M>' for key, value in _provenance(spec))
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{_OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{_OME} {_OME}/ome.xsd" Creator="{software}">'
        f'{instrument}<Image ID="Image:0" Name="slide">{settings}'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SignificantBits="8" Interleaved="true" '
        f'SizeX="{spec.width}" SizeY="{spec.height}" SizeZ="1" SizeC="3" SizeT="1"{scale}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"/></Pixels>'
        '<AnnotationRef ID="Annotation:0"/></Image>'
        '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="safron/provenance">'
        f"<Value>{pairs}</Value></MapAnnotation></StructuredAnnotations></OME>"
    )


def resolution(spec: SlideSpec, level: Level) -> Fraction | None:
    """Return a level's pixels per centimetre, as the exact fraction that the decimal digits of `mpp` mean."""
    return None if spec.mpp is None else 10_000 / (Fraction(repr(float(spec.mpp))) * level.downsample)


@cache
def srgb_profile() -> bytes:
    """Return the sRGB colour profile, 480 bytes in the public domain. It is libvips's, without the time that takes to load."""
    return Path(__file__).with_name("srgb.icc").read_bytes()


def _level_tags(spec: SlideSpec, level: Level, written: datetime, subfile: int = 0) -> _Tags:
    tags = [*_image_tags(spec, level.height, level.width, spec.compression, subfile, written)]
    scale = resolution(spec, level)
    if scale is not None:
        tags += [rational_tag(282, scale), rational_tag(283, scale), short_tag(296, 3)]
    if spec.compression in ("deflate", "lzw"):
        tags.append(short_tag(317, 2))
    if spec.compression == "jpeg" and spec.chroma == "420":
        tags.append(short_tag(530, 2, 2))
    if level.index == 0:
        profile = srgb_profile()
        tags.append(Tag(ICC_PROFILE, Kind.UNDEFINED, len(profile), profile))
    return [
        *tags,
        long_tag(322, spec.tile),
        long_tag(323, spec.tile),
        Table(TILE_OFFSETS, Kind.LONG8, level.tiles, level.index, "offset"),
        Table(TILE_BYTE_COUNTS, Kind.LONG, level.tiles, level.index, "length"),
    ]


def _thumbnail_tags(spec: SlideSpec, thumbnail: Thumbnail, written: datetime) -> _Tags:
    size = f"{spec.width}x{spec.height} -> {thumbnail.width}x{thumbnail.height} -"
    return [
        *_image_tags(spec, thumbnail.height, thumbnail.width, "jpeg", 0, written),
        text_tag(270, aperio_text(spec, size)),
        long8_tag(STRIP_OFFSETS, thumbnail.offset),
        long_tag(278, thumbnail.height),
        long_tag(STRIP_BYTE_COUNTS, thumbnail.length),
        short_tag(530, 2, 2),
    ]


def _image_tags(
    spec: SlideSpec, height: int, width: int, compression: str, subfile: int, written: datetime
) -> Iterator[Tag]:
    """Yield the tags that levels and thumbnails share: 8-bit RGB, or YCbCr inside JPEG."""
    yield long_tag(254, subfile)
    yield long_tag(256, width)
    yield long_tag(257, height)
    yield short_tag(258, 8, 8, 8)
    yield short_tag(259, COMPRESSION_CODES[compression])
    yield short_tag(262, _PHOTOMETRIC_YCBCR if compression == "jpeg" else _PHOTOMETRIC_RGB)
    yield short_tag(277, 3)
    yield short_tag(284, 1)
    yield text_tag(305, _clean(spec.software))
    yield text_tag(DATE_TIME, written.strftime("%Y:%m:%d %H:%M:%S"))


def _aperio_tag(spec: SlideSpec, level: Level) -> Iterator[Tag]:
    size = f"{spec.width}x{spec.height} [0,0 {spec.width}x{spec.height}] ({spec.tile}x{spec.tile})"
    if level.index:
        size += f" -> {level.width}x{level.height}"
    yield text_tag(270, aperio_text(spec, size))


def _provenance(spec: SlideSpec) -> Iterator[tuple[str, str]]:
    """Yield the metadata as one-line ASCII, so that every reader's parser of key = value splits it right."""
    yield "Background", " ".join(map(str, spec.background))
    for key, value in spec.metadata:
        yield _clean(key).replace("=", "-"), _clean(value)
    if spec.mask_content:
        yield MASK_CONTENT, spec.mask_content


def _clean(text: str) -> str:
    """Make text printable ASCII on one line. A bar, which would end the value, becomes a slash."""
    one_line = " ".join(text.split()).replace("|", "/").encode("ascii", "replace").decode()
    return one_line if one_line.isprintable() else "".join(c if c.isprintable() else "?" for c in one_line)


def _number(value: float | None) -> str:
    """Write a number with as few digits as read back the same, without exponent: 20, 0.2527."""
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) else repr(float(value))
