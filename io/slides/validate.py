"""Do common readers open a slide and see all of it?

Offset and length are checked for all tiles, and up to 64 tiles of each level are decoded. Pixels are not compared with
anything, since a slide does not say what it should show.

The file is read in slices and tiles are decoded one by one, so a check needs little memory for any size.
Slides of other programs are checked by the same rules. A file that cannot be read at all counts as one problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import openslide
from safron.io.errors import BadInput, counted

from .tiff_directories import BrokenTiff, Directory, TiffReader

MAX_SAMPLED = 64
"""Largest number of tiles of a level that are decoded: evenly spaced ones, with the first and the last."""

_MAX_TILE_BYTES = 1 << 30
_TILE_OFFSETS, _TILE_BYTE_COUNTS = 324, 325
_NONE, _JPEG, _JPEG_2000 = 1, 7, (33003, 33005, 34712)
_RGB, _YCBCR = 2, 6
_UNITS_PER_UM = {2: 25_400.0, 3: 10_000.0}  # ResolutionUnit inch, centimetre


@dataclass(frozen=True)
class _Level:
    """One level as its directory describes it."""

    index: int
    directory: Directory
    height: int
    width: int
    tile_height: int
    tile_width: int

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"level {self.index}"

    @property
    def tiles(self) -> int:
        """Number of tiles that its size needs."""
        return -(-self.height // self.tile_height) * -(-self.width // self.tile_width)

    @property
    def tile_bytes(self) -> int:
        """Size of a decoded tile."""
        return self.tile_height * self.tile_width * 3


def validate_slide(path: str | Path) -> list[str]:
    """Reopen a slide and list its problems.

    Parameters
    ----------
    path
        A TIFF or SVS file.

    Returns
    -------
    list of str
        One line for each problem; empty for a good slide.

    Raises
    ------
    BadInput
        If the file does not exist or cannot be opened.
    """
    path = Path(path)
    try:
        with TiffReader(path) as tiff:
            problems = list(_check(tiff, path))
    except BrokenTiff as error:
        problems = [str(error)]
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give the path of a slide") from None
    return [" ".join(problem.split()) for problem in problems]


def _check(tiff: TiffReader, path: Path) -> Iterator[str]:
    chain = tiff.chain()
    if 322 not in chain[0]:
        yield "directory 0 is not tiled, so viewers read the whole image at once"
        return
    ours = tiff.text(chain[0], 305).startswith("safron")
    directories, in_chain = _level_directories(tiff, chain)
    levels = []
    for index, directory in enumerate(directories):
        try:
            level = _read_level(tiff, index, directory)
            levels.append(level)
            yield from _check_coding(tiff, level)
            if ours:
                yield from _check_our_coding(tiff, level)
            yield from _check_tiles(tiff, level)
        except BrokenTiff as error:
            yield f"level {index}: {error}"
    if len(levels) < len(directories):
        return
    yield from _check_sizes(levels)
    yield from _check_scale(tiff, levels)
    if _is_aperio(tiff, chain[0]):
        yield from _check_aperio(tiff, chain, levels)
    elif "<OME" in tiff.text(chain[0], 270):
        yield from _check_ome(tiff, levels[0])
        yield from _check_children(tiff, chain, ours=ours)
    yield from _check_openslide(path, levels if in_chain else levels[:1], _mpp(tiff, levels[0]))


def _is_aperio(tiff: TiffReader, first: Directory) -> bool:
    return tiff.text(first, 270).startswith("Aperio")


def _level_directories(tiff: TiffReader, chain: list[Directory]) -> tuple[list[Directory], bool]:
    """Find the levels, and whether all of them are in the main chain, which OpenSlide follows."""
    if _is_aperio(tiff, chain[0]):
        return [directory for directory in chain if 322 in directory], True
    reduced, children = _reduced(tiff, chain), tiff.children(chain[0])
    if len(children) > len(reduced):
        return [chain[0], *children], False
    return [chain[0], *reduced], True


def _reduced(tiff: TiffReader, chain: list[Directory]) -> list[Directory]:
    """Find levels 1 and up in the chain by their subfile type, which levels of an Aperio file do not have."""
    return [item for item in chain[1:] if 322 in item and tiff.number(item, 254, 0) & 1]


def _read_level(tiff: TiffReader, index: int, directory: Directory) -> _Level:
    height, width, tile_height, tile_width = (tiff.number(directory, code) for code in (257, 256, 323, 322))
    if min(height, width, tile_height, tile_width) < 1:
        raise BrokenTiff(f"{height} x {width} pixels in tiles of {tile_height} x {tile_width}")
    level = _Level(index, directory, height, width, tile_height, tile_width)
    if level.tile_bytes > _MAX_TILE_BYTES:
        raise BrokenTiff(f"tiles of {tile_height} x {tile_width} pixels: viewers read one at a time")
    return level


def _check_coding(tiff: TiffReader, level: _Level) -> Iterator[str]:
    """Check that pixels are 8-bit RGB in a coding that all readers know."""
    wanted = (
        (258, [8, 8, 8], "BitsPerSample"),
        (277, [3], "SamplesPerPixel"),
        (284, [1], "PlanarConfiguration"),
    )
    for code, values, name in wanted:
        entry = level.directory.get(code)
        found = tiff.numbers(entry, 0, 4).tolist() if entry else [1]
        if found != values:
            yield f"{level.name}: {name} is {_listed(found)}, not {_listed(values)}"
    compression, photometric = (tiff.number(level.directory, code) for code in (259, 262))
    if compression not in (1, 5, 8, 32946, _JPEG, *_JPEG_2000):
        yield f"{level.name}: compression {compression} is not read by all viewers; JPEG, deflate and LZW are"
    if photometric not in (_RGB, _YCBCR):
        yield f"{level.name}: photometric {photometric} is neither RGB (2) nor YCbCr (6)"
    if photometric == _YCBCR and compression not in (_JPEG, *_JPEG_2000):
        yield f"{level.name}: photometric 6 (YCbCr) without JPEG, which readers show in wrong colours"
    if compression == _JPEG and photometric == _YCBCR and 530 in level.directory:
        sampling = tiff.numbers(level.directory[530], 0, 2).tolist()
        if sampling == [1, 1]:
            yield f"{level.name}: YCbCrSubSampling 1, 1 shows wrong colours in Bio-Formats; leave it out"


def _check_our_coding(tiff: TiffReader, level: _Level) -> Iterator[str]:
    """Check how the bytes of our own files were made, which holds for no other program's files."""
    compression, photometric = (tiff.number(level.directory, code) for code in (259, 262))
    if compression == _JPEG and photometric != _YCBCR:
        yield f"{level.name}: photometric is {photometric}, but safron's JPEG tiles are YCbCr (6)"
    predictor = tiff.number(level.directory, 317, 1)
    if compression not in (_NONE, _JPEG) and predictor != 2:
        yield f"{level.name}: predictor is {predictor}, but safron's tiles are differences (2)"


def _check_tiles(tiff: TiffReader, level: _Level) -> Iterator[str]:
    """Check the offsets of all tiles, then decode some."""
    for code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS):
        if code not in level.directory:
            raise BrokenTiff(f"tag {code} is missing")
        if level.directory[code].count != level.tiles:
            raise BrokenTiff(f"{level.directory[code].count} entries in tag {code} for {level.tiles} tiles")
    empty = outside = 0
    tables = level.directory[_TILE_OFFSETS], level.directory[_TILE_BYTE_COUNTS]
    for _, (offsets, counts) in tiff.slices(*tables):
        empty += int(np.count_nonzero((counts <= 0) | (offsets <= 0)))
        outside += int(np.count_nonzero((counts > tiff.size) | (offsets > tiff.size - counts)))
    if empty:
        yield f"{level.name}: {empty} of {level.tiles} tiles are empty; readers show them black or refuse them"
    if outside:
        yield f"{level.name}: {outside} of {level.tiles} tiles lie beyond the file's end"
    if not empty and not outside:
        yield from _check_samples(tiff, level)


def _check_samples(tiff: TiffReader, level: _Level) -> Iterator[str]:
    chosen = np.unique(np.linspace(0, level.tiles - 1, min(level.tiles, MAX_SAMPLED)).astype(int)).tolist()
    decode = _decoder(tiff, level)
    for number in chosen:
        offset, count = (
            int(tiff.numbers(level.directory[code], number, number + 1)[0])
            for code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS)
        )
        # The bound keeps memory small, and no codec here makes a tile so much larger.
        if count > 2 * level.tile_bytes + 65_536:
            yield f"{level.name}: tile {number} has {count} bytes, more than its pixels"
            return
        try:
            found = decode(tiff.bytes_at(offset, count))
        except Exception as error:  # each codec has errors of its own, and all mean the same here
            yield f"{level.name}: tile {number} does not decode ({error})"
            return
        if found != level.tile_bytes:
            yield f"{level.name}: tile {number} decodes to {found} bytes of {level.tile_bytes}"
            return


def _decoder(tiff: TiffReader, level: _Level) -> Callable[[bytes], int]:
    """Return a function that decodes a tile and returns the number of bytes of its pixels."""
    compression = tiff.number(level.directory, 259)
    nbytes = level.tile_bytes
    if compression == 1:
        return len
    if compression == 5:
        return lambda data: len(imagecodecs.lzw_decode(data, out=nbytes))
    if compression in (8, 32946):
        return lambda data: len(imagecodecs.zlib_decode(data, out=nbytes))
    if compression == _JPEG:
        tables = tiff.raw(level.directory, 347)

        def decode_jpeg(data: bytes) -> int:
            # libjpeg fills the missing part with grey, without an error.
            if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
                raise ValueError("its data are cut off")
            return int(imagecodecs.jpeg8_decode(data, tables=tables).size)

        return decode_jpeg
    if compression in _JPEG_2000:
        return lambda data: int(imagecodecs.jpeg2k_decode(data).size)
    return lambda data: nbytes  # `_check_coding` has reported it


def _check_sizes(levels: list[_Level]) -> Iterator[str]:
    """Check that each level has half the size of the one above, rounded down or up."""
    for above, level in pairwise(levels):
        halved = all(
            size in {max(1, of >> 1), (of + 1) >> 1}
            for size, of in ((level.height, above.height), (level.width, above.width))
        )
        if not halved:
            sizes = f"{level.height} x {level.width} under {above.height} x {above.width}"
            yield f"{level.name}: {sizes} pixels is not half"


def _check_scale(tiff: TiffReader, levels: list[_Level]) -> Iterator[str]:
    """Check that pixel sizes double from level to level, and agree with the description. There may be none."""
    mpp = _mpp(tiff, levels[0])
    if mpp is None:
        return
    described = _described_mpp(tiff, levels[0])
    tagged = _tagged_mpp(tiff, levels[0])
    if described and tagged and not math.isclose(described, tagged, rel_tol=1e-6):
        yield f"the description says {described:g} um per pixel, the resolution tags {tagged:g}"
    for level in levels[1:]:
        found = _tagged_mpp(tiff, level)
        wanted = mpp * 2.0**level.index
        if tagged and not (found and math.isclose(found, wanted, rel_tol=1e-6)):
            told = f"{found:g}" if found else "missing or different in x and y"
            yield f"{level.name}: resolution is {told}, not {wanted:g} um per pixel"


def _mpp(tiff: TiffReader, level: _Level) -> float | None:
    return _described_mpp(tiff, level) or _tagged_mpp(tiff, level)


def _described_mpp(tiff: TiffReader, level: _Level) -> float | None:
    text = tiff.text(level.directory, 270)
    unit = re.search(r'\bPhysicalSizeXUnit="([^"]*)"', text)
    if unit and not unit[1].endswith(("µm", "um", "&#181;m", "&#xB5;m")):
        return None
    found = re.search(r'(?:\bMPP = |\bPhysicalSizeX=")([0-9.]{1,30})\b', text)
    try:
        return float(found[1]) if found else None
    except ValueError:
        return None


def _tagged_mpp(tiff: TiffReader, level: _Level) -> float | None:
    """Return micrometres per pixel if both resolutions agree and have a unit."""
    across, down = (tiff.rational(level.directory, code) for code in (282, 283))
    scale = _UNITS_PER_UM.get(tiff.number(level.directory, 296, 2))
    return scale / across if scale and across and across == down else None


def _check_aperio(tiff: TiffReader, chain: list[Directory], levels: list[_Level]) -> Iterator[str]:
    """Check the rules by which readers tell levels from thumbnail, label and macro."""
    for level in levels:
        if tiff.number(level.directory, 254, 0):
            yield f"{level.name}: NewSubfileType is not 0, so Bio-Formats takes it for a label"
        if not _is_aperio(tiff, level.directory):
            yield f"{level.name}: has no Aperio description"
    if len(chain) == 1 or 322 in chain[1]:
        yield "directory 1 is not a thumbnail, so tifffile takes level 1 for it"
        return
    last = levels[-1]
    height, width = (tiff.number(chain[1], code) for code in (257, 256))
    smaller = height * width < last.height * last.width or height * width == 1
    if not smaller and len(levels) > 1:
        yield f"the thumbnail of {height} x {width} pixels is not smaller than the last level, so Bio-Formats takes it for a level"


def _check_ome(tiff: TiffReader, level: _Level) -> Iterator[str]:
    """Check that the OME-XML can be read and describes this image."""
    try:
        pixels = ElementTree.fromstring(tiff.text(level.directory, 270)).find(".//{*}Pixels")
        facts = {} if pixels is None else pixels.attrib
        size = int(facts["SizeY"]), int(facts["SizeX"])
    except (ElementTree.ParseError, KeyError, ValueError):
        yield "the OME-XML is damaged, so some readers see only one level"
        return
    if size != (level.height, level.width):
        yield f"the OME-XML says {size[0]} x {size[1]} pixels, level 0 has {level.height} x {level.width}"
    if facts.get("PhysicalSizeX") != facts.get("PhysicalSizeY"):
        yield "the OME-XML says that pixels are not square"


def _check_children(tiff: TiffReader, chain: list[Directory], *, ours: bool) -> Iterator[str]:
    """Check that the SubIFDs, which Bio-Formats and tifffile follow, have the levels of the chain, which OpenSlide follows."""
    children, reduced = tiff.children(chain[0]), _reduced(tiff, chain)
    if len(children) != len(reduced):
        if ours or (children and reduced):
            yield f"SubIFDs have {counted(len(children), 'level')}, the chain {len(reduced)}: some readers see fewer"
        return
    for index, pair in enumerate(zip(children, reduced, strict=True), start=1):
        tables = [
            [item[code] for code in (_TILE_OFFSETS, _TILE_BYTE_COUNTS) if code in item] for item in pair
        ]
        same = all(
            tiff.number(pair[0], code, 0) == tiff.number(pair[1], code, 0)
            for code in (256, 257, 259, 262, 317, 322, 323)
        )
        same = same and [entry.count for entry in tables[0]] == [entry.count for entry in tables[1]]
        if not same or any(
            (found != wanted).any()
            for entries in zip(*tables, strict=True)
            for _, (found, wanted) in tiff.slices(*entries)
        ):
            yield f"level {index}: its SubIFD and the chain point at different tiles"


def _check_openslide(path: Path, levels: list[_Level], mpp: float | None) -> Iterator[str]:
    """Check that OpenSlide sees the same levels and the same pixel size."""
    wanted = tuple((level.width, level.height) for level in levels)
    try:
        with openslide.OpenSlide(path) as slide:
            found = slide.level_dimensions
            seen_mpp = float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X, "nan"))
            for index in range(len(found)):
                slide.read_region((0, 0), index, (1, 1))
            for picture in slide.associated_images.values():
                picture.load()
    except (openslide.OpenSlideError, ValueError) as error:
        yield f"OpenSlide does not read it: {error}"
        return
    if found != wanted:
        yield f"OpenSlide sees {counted(len(found), 'level')} from {_size(found[0])}, not {len(wanted)} from {_size(wanted[0])}"
    if mpp is not None and not math.isclose(seen_mpp, mpp, rel_tol=1e-6):
        yield f"OpenSlide sees {seen_mpp:g} um per pixel, not {mpp:g}"


def _size(dimensions: tuple[int, int]) -> str:
    return f"{dimensions[1]} x {dimensions[0]}"


def _listed(values: list[int]) -> str:
    return ", ".join(map(str, values))
