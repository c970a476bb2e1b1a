"""How is an image file read as labels, region by region, without loading it?

One channel is taken as labels, in a TIFF the numbers as they are stored, be they indices or inverted; colours
are looked up in a palette. TIFF is read tile by tile (or strip by strip) with tifffile, because libvips returns
wrong pixels for a damaged TIFF tile without an error. Slides of
scanner vendors are read by OpenSlide, everything else by libvips, which unpacks formats without random access
(PNG, JPEG) to memory or, where large, to a temporary file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, one_line
from safron.io.fields import RGB

from .chunk_cache import ReadChunk
from .palette import Palette
from .plane import ACCEPTED, UM_PER_UNIT, Plane

MAX_SEGMENT = 1 << 26
"""Decoded bytes of one TIFF tile or strip; larger ones (whole images in a strip) are left to libvips."""

MAX_PRINT_MPP = 20.0
"""Coarser resolutions in an image file are meant for printers: 72 dpi reads as 353 um per pixel."""

OME_UNITS = {
    "nm": "nanometer",
    "µm": "micrometer",
    "um": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}

# TIFF's photometric interpretations.
_WHITE_IS_0, _INDEXED, _CMYK = 0, 3, 5

VIPS_INTEGERS = {"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2", "uint": "u4", "int": "i4"}


class ImagePlane:
    """What the readers share: one channel is labels, three or four are colours."""

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    mpp: float | None = None
    notes: tuple[str, ...] = ()
    keep_chunks = False
    read_chunk: ReadChunk | None = None

    def __init__(self, path: Path, palette: Palette) -> None:
        self.path = path
        self.palette = palette

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        raise NotImplementedError

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Labels [y, x] of an in-bounds region."""
        pixels = self.pixels(rows, cols)
        if pixels.shape[2] < 3:
            return pixels[:, :, 0]
        return self.palette.labels(pixels[:, :, :3], rows.start, cols.start)

    def blame(self, rows: slice, cols: slice) -> str:
        """Name a region that cannot be read."""
        return f"rows {rows.start}..{rows.stop - 1}, columns {cols.start}..{cols.stop - 1}"

    def require(self, bands: int, dtype: np.dtype[Any], *, cmyk: bool = False) -> None:
        """Refuse what is neither labels nor colours with a palette; libvips counts alpha among the bands."""
        self.dtype = dtype
        if cmyk:
            raise BadInput("its colours are inks (CMYK); colour-coded masks are RGB: convert it")
        if dtype.kind not in "bui":
            raise BadInput(f"it holds {dtype}; labels are whole numbers from 0 to 255: save it as 8 bit")
        if bands > 4:
            raise BadInput(f"it has {bands} channels; a mask has one channel of labels, or colours")
        if bands > 2 and dtype != np.uint8:
            raise BadInput(f"its colours are {dtype}; colour-coded masks have 8 bits a channel")
        if bands > 2 and not self.palette.colours:
            raise BadInput(
                "it is a colour image; a palette must say which colour means which label: see --palette"
            )


class TiffPlane(ImagePlane):
    """The first image of a TIFF file: only the tiles or strips of a region are read."""

    def __init__(self, path: Path, palette: Palette) -> None:
        super().__init__(path, palette)
        import tifffile

        with _silent(logging.getLogger("tifffile")), tifffile.TiffFile(path) as tif:
            if not tif.series:
                raise BadInput("it is a TIFF without an image; was it copied completely?")
            series = tif.series[0]
            if len(series.pages) > 1:
                raise BadInput(f"it holds {len(series.pages)} planes ({series.axes}); a mask has one")
            self.page: Any = tif.pages.first
            self.mpp = tiff_mpp(self.page, tif.ome_metadata)
            page = self.page
            _ = page.jpegtables, page.dataoffsets, page.databytecounts, page.decode  # read while it is open
        self.shape = (page.imagelength, page.imagewidth)
        self.chunks = (min(page.chunks[0], self.shape[0]), min(page.chunks[1], self.shape[1]))
        self.kind = "tiled TIFF" if page.is_tiled else "TIFF in strips"
        if page.planarconfig != 1 and page.is_tiled:
            raise BadInput("its channels lie apart, in tiles, which nothing here reads; save them together")
        self.require(page.samplesperpixel, np.dtype(page.dtype), cmyk=page.photometric == _CMYK)
        large = np.prod(page.chunks) * self.dtype.itemsize > MAX_SEGMENT
        if large and page.photometric in (_WHITE_IS_0, _INDEXED):
            # libvips would give what they look like.
            raise BadInput(
                "it is indexed, or has white as 0, in a strip or tile of more than 64 MiB; save it in tiles"
            )
        if page.planarconfig != 1 or page.imagedepth > 1 or large:
            raise NotImplementedError

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        height, width = self.page.chunks[:2]
        across = -(-self.shape[1] // width)
        region = np.zeros(
            (rows.stop - rows.start, cols.stop - cols.start, self.page.samplesperpixel), self.dtype
        )
        with self.path.open("rb") as file:  # a handle of its own keeps concurrent reads apart
            for row in range(rows.start // height, -(-rows.stop // height)):
                for col in range(cols.start // width, -(-cols.stop // width)):
                    tile = self._segment(file, row * across + col)
                    if tile is None:
                        continue
                    y, x = row * height, col * width
                    top, left = max(y, rows.start), max(x, cols.start)
                    bottom, right = min(y + height, rows.stop), min(x + width, cols.stop)
                    region[top - rows.start : bottom - rows.start, left - cols.start : right - cols.start] = (
                        tile[top - y : bottom - y, left - x : right - x]
                    )
        return region

    def _segment(self, file: Any, index: int) -> npt.NDArray[Any] | None:
        """Decode a tile or strip [y, x, channel]; None where the file leaves it out, which means zeros."""
        count = self.page.databytecounts[index]
        if count == 0:
            return None
        file.seek(self.page.dataoffsets[index])
        data = file.read(count)
        if len(data) < count:
            raise OSError(f"the file ends within tile {index}")
        segment: Any = self.page.decode(data, index, jpegtables=self.page.jpegtables)[0]
        if segment is None:
            raise OSError(f"tile {index} does not decode")
        tile: npt.NDArray[Any] = segment[0]
        return tile


class VipsPlane(ImagePlane):
    """Any other image; libvips unpacks what has no random access once, at the first read."""

    def __init__(self, path: Path, palette: Palette) -> None:
        super().__init__(path, palette)
        import pyvips

        # revalidate: libvips would otherwise answer from its cache after the file was replaced
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True)
        bits = image.get("bits-per-sample") if "bits-per-sample" in image.get_fields() else 8
        if image.hasalpha():
            image = image[: image.bands - 1]
        if image.bands == 1 and bits < 8 and image.format == "uchar":
            image = image // (255 // ((1 << bits) - 1))  # libvips stretches 1, 2 and 4 bits over 0..255
            image = image.cast("uchar")
        self.image: Any = image
        self.shape = (image.height, image.width)
        self.chunks = (min(512, image.height), min(512, image.width))
        loader = image.get("vips-loader") if "vips-loader" in image.get_fields() else "vips"
        self.kind = f"{loader.removesuffix('load').removesuffix('_source')} image"
        self.mpp = print_mpp(1000.0 / image.yres)
        dtype = np.dtype(VIPS_INTEGERS.get(image.format, "f4"))
        self.require(image.bands, dtype, cmyk=image.interpretation == "cmyk")

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        size = (cols.stop - cols.start, rows.stop - rows.start)
        region = np.asarray(self.image.crop(cols.start, rows.start, *size).numpy())
        return region.reshape(size[1], size[0], -1)


class SlidePlane(ImagePlane):
    """A colour-coded slide in a scanner vendor's format."""

    def __init__(self, path: Path, palette: Palette) -> None:
        super().__init__(path, palette)
        import openslide

        self.slide: Any = openslide.OpenSlide(path)
        width, height = self.slide.dimensions
        self.shape = (height, width)
        self.chunks = (min(512, height), min(512, width))
        self.kind = f"{self.slide.properties[openslide.PROPERTY_NAME_VENDOR]} slide"
        mpp = self.slide.properties.get(openslide.PROPERTY_NAME_MPP_Y)
        self.mpp = float(mpp) if mpp else None
        self.require(3, np.dtype(np.uint8))

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        size = (cols.stop - cols.start, rows.stop - rows.start)
        return np.asarray(self.slide.read_region((cols.start, rows.start), 0, size))


def open_image(path: Path, name: str, colours: Mapping[int, RGB], tolerance: int) -> Plane:
    """Open an image file with the reader that suits it.

    Parameters
    ----------
    path : an existing file.
    name : how messages call it.
    colours, tolerance : see `Palette`.

    Raises
    ------
    BadInput
        No reader knows the file, or it is no mask.
    """
    try:
        palette = Palette(colours, tolerance)
        vendor = slide_vendor(path)
        if vendor not in (None, "generic-tiff"):
            return SlidePlane(path, palette)
        if is_tiff(path):
            try:
                return TiffPlane(path, palette)
            except NotImplementedError:  # planes apart, or the whole image in one strip
                return VipsPlane(path, palette)
        return VipsPlane(path, palette)
    except BadInput as error:
        raise BadInput(f"mask {name}: {error}") from None
    except Exception as error:  # each library has exceptions of its own
        raise BadInput(f"mask {name}: cannot read it as an image ({one_line(error)}); {ACCEPTED}") from error


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Keep a library from telling of a fault that comes as an exception as well."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def shown_area(slide: Any) -> tuple[int, int, int, int]:
    """Find what QuPath shows of a slide that OpenSlide has opened: y, x, height, width in pixels of level 0.

    Some scanners (MRXS, SCN) scan parts of a large canvas. QuPath cuts it to their bounds, and counts from there.
    """
    names = (f"openslide.bounds-{name}" for name in ("y", "x", "height", "width"))
    try:
        y, x, height, width = (int(slide.properties[name]) for name in names)
    except (KeyError, ValueError):
        return 0, 0, slide.dimensions[1], slide.dimensions[0]
    return y, x, height, width


def slide_vendor(path: Path) -> str | None:
    """Name the format by which OpenSlide knows a file; None where it does not."""
    import openslide

    vendor: str | None = openslide.OpenSlide.detect_format(path)
    return vendor


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF or BigTIFF does."""
    with path.open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def print_mpp(mpp: float) -> float | None:
    """Return a pixel size in um, or None where it is a resolution for printers, or none at all."""
    return mpp if 0 < mpp <= MAX_PRINT_MPP else None


def tiff_mpp(page: Any, ome: str | None) -> float | None:
    """Micrometres along a pixel's height: OME-XML first, then the resolution tags."""
    if ome:
        pixels = ElementTree.fromstring(ome).find(".//{*}Pixels")
        if pixels is not None and "PhysicalSizeY" in pixels.attrib:
            unit = OME_UNITS.get(pixels.get("PhysicalSizeYUnit", "µm"))
            return float(pixels.attrib["PhysicalSizeY"]) * UM_PER_UNIT[unit] if unit else None
    resolution, unit = page.tags.valueof("YResolution"), page.tags.valueof("ResolutionUnit")
    um_per_unit = {2: UM_PER_UNIT["inch"], 3: UM_PER_UNIT["centimeter"]}.get(int(unit or 0))
    if not resolution or not um_per_unit or 0 in resolution:
        return None
    return print_mpp(um_per_unit * resolution[1] / resolution[0])
