"""How is an image file read as labels, region by region, without loading it?

One channel is taken as labels; in a TIFF these are the numbers as they are stored, even where they are indices of a colour
map or white is 0. Colours are looked up in a palette. TIFF is read tile by tile (or strip by strip) with tifffile,
because libvips returns wrong pixels for a damaged TIFF tile without an error. Slides in the formats of scanner vendors
are read by OpenSlide, BMP by OpenCV, everything else by libvips, which decodes formats without random access (PNG, JPEG) to
memory or, where large, to a temporary file.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from safron.io.errors import BadInput, counted, one_line
from safron.io.fields import RGB
from safron.io.image_files import silent

from .image_kinds import is_tiff, slide_vendor, starts, tiff_size
from .image_notes import LOSSY_TIFF, LOSSY_VIPS, fill_of, filled_note, larger_note, lossy_note, turned_note
from .palette import Palette, read_png_colours
from .pixel_size import PixelSize, from_slide, from_tiff, from_vips
from .plane import ACCEPTED, Plane, ReadChunk

MAX_SEGMENT = 1 << 26
"""Decoded bytes of one TIFF tile or strip; larger ones (whole images in a strip) are left to libvips."""

VIPS_INTEGERS = {"uchar": "u1", "char": "i1", "ushort": "u2", "short": "i2", "uint": "u4", "int": "i4"}

# TIFF's photometric interpretations, kinds of extra samples, and codes of lossy compressions.
_WHITE_IS_0, _INDEXED, _CMYK = 0, 3, 5
_ALPHA = (1, 2)
_GDAL_NODATA, _ORIENTATION = 42113, 274


class ImagePlane:
    """The part that all readers of images share: one channel holds labels, three or four hold colours.

    Parameters
    ----------
    path
        An existing file.
    palette
        For colours.
    use_palette
        Whether grey is looked up in it as well.
    """

    kind: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    mpp: float | None = None
    notes: tuple[str, ...] = ()
    keep_chunks = False
    read_chunk: ReadChunk | None = None

    def __init__(self, path: Path, palette: Palette, *, use_palette: bool) -> None:
        self.path = path
        self.palette = palette
        self.use_palette = use_palette
        self.alpha = self.white_is_0 = self.indexed = False

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region, with alpha, if any, as the last channel."""
        raise NotImplementedError

    def read(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Labels [y, x] of an in-bounds region."""
        pixels = self.pixels(rows, cols)
        if self.alpha:
            pixels = self._without_alpha(pixels, rows, cols)
        if pixels.shape[2] >= 3:
            try:
                return self.palette.labels(pixels[:, :, :3], rows.start, cols.start)
            except BadInput as error:
                if not self.indexed:
                    raise
                raise BadInput(
                    f"{error}; it is an indexed image, whose pixels are numbers of {self._table()}: to take these numbers as "
                    f"labels, copy it with safron-mask import {self.path.name} mask.zarr --palette indices"
                ) from None
        if self.use_palette:
            if pixels.dtype == np.bool_:
                pixels = pixels * np.uint8(255)
            if self.white_is_0:
                pixels = 255 - pixels
            return self.palette.labels(np.repeat(pixels[:, :, :1], 3, axis=2), rows.start, cols.start)
        return pixels[:, :, 0]

    def _without_alpha(self, pixels: npt.NDArray[Any], rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Take transparent pixels as white, as slides show them; refuse them where numbers are labels."""
        clear = pixels[:, :, -1] == 0
        pixels = pixels[:, :, :-1]
        if not clear.any():
            return pixels
        if pixels.shape[2] < 3 and not self.use_palette:
            row, col = np.unravel_index(int(clear.argmax()), clear.shape)
            raise BadInput(
                f"the pixel at row {rows.start + row}, column {cols.start + col} is transparent, so its label is "
                "not known; save the mask without an alpha channel"
            )
        return np.where(clear[:, :, None], np.uint8(255), pixels)

    def blame(self, rows: slice, cols: slice) -> str:
        """Name a region that cannot be read."""
        return f"rows {rows.start}..{rows.stop - 1}, columns {cols.start}..{cols.stop - 1}"

    def tell(self, size: PixelSize, *notes: str) -> None:
        """Take over a pixel size, its notes, and others; empty ones are left out."""
        self.mpp = size.mpp
        self.notes = tuple(filter(None, (*self.notes, *size.notes, *notes)))

    def _table(self) -> str:
        """Show the first colours of an indexed PNG's table with their numbers."""
        try:
            table = read_png_colours(self.path)
        except BadInput:
            return "colours in a table"
        shown = ", ".join(f"{number} = {color}" for number, color in list(table.items())[:4])
        return f"{counted(len(table), 'colour')} in a table ({shown}{', ...' if len(table) > 4 else ''})"

    def require(
        self,
        bands: int,
        dtype: np.dtype[Any],
        *,
        alpha: bool = False,
        cmyk: bool = False,
        indexed: bool = False,
    ) -> None:
        """Refuse everything but labels, and colours with a palette.

        Parameters
        ----------
        bands
            Channels, without alpha.
        dtype
            Of the pixels.
        alpha
            Whether there is an alpha channel.
        cmyk
            Whether the colours are inks.
        indexed
            Whether the colours come from a table in the file.
        """
        self.dtype, self.alpha, self.indexed = dtype, alpha, indexed
        if cmyk:
            raise BadInput("its colours are inks (CMYK); colour-coded masks are RGB: convert it")
        if dtype.kind not in "bui":
            rule = "labels are whole numbers from 0 to 255, and numbers of nuclei of any size"
            raise BadInput(f"it holds {dtype}; {rule}: convert it")
        if bands == 2 or bands > 4:
            raise BadInput(
                f"it has {counted(bands, 'channel')}; a mask has one channel of labels, or colours: save the channel that holds the labels alone"
            )
        looked_up = bands > 2 or self.use_palette
        if looked_up and dtype not in (np.uint8, np.bool_):
            raise BadInput(f"its colours are {dtype}; colour-coded masks have 8 bits a channel")
        if bands > 2 and not self.palette.colours:
            if indexed:
                raise BadInput(
                    f"it is an indexed image: its pixels are numbers of {self._table()}; to take these numbers as "
                    f"labels, copy it with safron-mask import {self.path.name} mask.zarr --palette indices"
                )
            raise BadInput(
                "it is a colour image; a palette must say which colour means which label: see --palette"
            )
        if bands < 3 and self.use_palette and not self.palette.has_grey:
            raise BadInput(
                "it is a grey image, and no colour of the palette is a grey; leave the palette out"
            )
        told = ["its transparent pixels, if any, are read as white"] * (alpha and looked_up)
        self.notes = tuple(filter(None, (*told, self.palette.ambiguity() if looked_up else "")))


class TiffPlane(ImagePlane):
    """The first image of a TIFF file: only the tiles or strips of a region are read."""

    def __init__(self, path: Path, palette: Palette, *, use_palette: bool) -> None:
        super().__init__(path, palette, use_palette=use_palette)
        import tifffile

        with silent(logging.getLogger("tifffile")), tifffile.TiffFile(path) as tif:
            if not tif.series:
                raise BadInput("it is a TIFF without an image; was it copied completely?")
            series = tif.series[0]
            if len(series.pages) > 1:
                raise BadInput(
                    f"it holds {len(series.pages)} planes ({series.axes}); a mask has one: save the plane that holds the labels alone"
                )
            self.page: Any = tif.pages.first
            page = self.page
            size, lossy = from_tiff(tif), lossy_note(LOSSY_TIFF.get(int(page.compression)))
            _ = page.jpegtables, page.dataoffsets, page.databytecounts, page.decode  # read while it is open
            nodata, turned = (page.tags.valueof(tag) for tag in (_GDAL_NODATA, _ORIENTATION))
            larger = larger_note(page, tif.series[1:])
        self.shape = (page.imagelength, page.imagewidth)
        self.chunks = (min(page.chunks[0], self.shape[0]), min(page.chunks[1], self.shape[1]))
        self.kind = "tiled TIFF" if page.is_tiled else "TIFF in strips"
        if page.planarconfig != 1 and page.is_tiled:
            raise BadInput("its channels lie apart, in tiles, which nothing here reads; save them together")
        alpha = page.samplesperpixel in (2, 4) and page.extrasamples[-1:] in [(kind,) for kind in _ALPHA]
        self.require(
            page.samplesperpixel - alpha, np.dtype(page.dtype), alpha=alpha, cmyk=page.photometric == _CMYK
        )
        if use_palette and page.photometric == _INDEXED:
            raise BadInput(
                "it is an indexed image, and its indices are not grey levels; leave the palette out"
            )
        self.white_is_0 = page.photometric == _WHITE_IS_0
        large = np.prod(page.chunks) * self.dtype.itemsize > MAX_SEGMENT
        if large and page.photometric in (_WHITE_IS_0, _INDEXED):
            # libvips would give what they look like.
            raise BadInput(
                "it is indexed, or has white as 0, in a strip or tile of more than 64 MiB; save it in tiles"
            )
        if page.planarconfig != 1 or page.imagedepth > 1 or large:
            raise NotImplementedError
        segments = -(-self.shape[0] // page.chunks[0]) * -(-self.shape[1] // page.chunks[1])
        listed = min(len(page.dataoffsets), len(page.databytecounts))
        if listed < segments:
            raise BadInput(f"it lists {listed} of its {segments} tiles or strips; was it written completely?")
        self.absent = sum(count == 0 for count in page.databytecounts[:segments])
        self.fill = fill_of(nodata, self.dtype)
        absent = f"{self.absent} of its {segments} tiles or strips are absent; they are read as " * bool(
            self.absent
        )
        white = "0 is white in it; labels are the numbers as they are stored" * (
            self.white_is_0 and not use_palette
        )
        self.tell(
            size,
            lossy,
            larger,
            turned_note(turned),
            white,
            absent and absent + filled_note(self.fill, nodata),
        )

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        height, width = self.page.chunks[:2]
        across = -(-self.shape[1] // width)
        shape = (rows.stop - rows.start, cols.stop - cols.start, self.page.samplesperpixel)
        region = np.full(shape, self.fill, self.dtype)
        with self.path.open("rb") as file:  # a handle for each read keeps concurrent reads apart
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
        """Decode a tile or strip [y, x, channel]; None where it is absent."""
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
    """Any other image; libvips decodes formats without random access once, at the first read.

    Parameters
    ----------
    size
        Of a pixel, where another reader has found it; else libvips is asked.
    """

    def __init__(
        self, path: Path, palette: Palette, *, use_palette: bool, size: PixelSize | None = None
    ) -> None:
        super().__init__(path, palette, use_palette=use_palette)
        import pyvips

        # revalidate: libvips would otherwise answer from its cache after the file was replaced
        image = pyvips.Image.new_from_file(str(path), fail_on="truncated", revalidate=True)
        fields = image.get_fields()
        bits = image.get("bits-per-sample") if "bits-per-sample" in fields else 8
        alpha = bool(image.hasalpha())
        if image.bands == 1 and bits < 8 and image.format == "uchar" and not use_palette:
            image = image // (255 // ((1 << bits) - 1))  # libvips stretches 1, 2 and 4 bits over 0..255
            image = image.cast("uchar")
        self.image: Any = image
        self.shape = (image.height, image.width)
        self.chunks = (min(512, image.height), min(512, image.width))
        loader = image.get("vips-loader") if "vips-loader" in fields else "vips"
        loader = loader.removesuffix("_source").removesuffix("load")
        self.kind = f"{loader} image"
        dtype = np.dtype(VIPS_INTEGERS.get(image.format, "f4"))
        cmyk, indexed = image.interpretation == "cmyk", "palette" in fields
        self.require(image.bands - alpha, dtype, alpha=alpha, cmyk=cmyk, indexed=indexed)
        turned = turned_note(image.get("orientation") if "orientation" in fields else 1)
        self.tell(size or from_vips(image), lossy_note(LOSSY_VIPS.get(loader)), turned)

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        size = (cols.stop - cols.start, rows.stop - rows.start)
        region = np.asarray(self.image.crop(cols.start, rows.start, *size).numpy())
        return region.reshape(size[1], size[0], -1)


class BitmapPlane(ImagePlane):
    """A Windows bitmap, which libvips does not read; OpenCV reads it whole."""

    def __init__(self, path: Path, palette: Palette, *, use_palette: bool) -> None:
        super().__init__(path, palette, use_palette=use_palette)
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if image is None:
            raise BadInput("it is a damaged bitmap, or of a kind that is not read; save it as PNG")
        image = image[:, :, None] if image.ndim == 2 else image
        # OpenCV stores blue first, and alpha, if any, last.
        self._pixels: npt.NDArray[Any] = (
            image[:, :, [2, 1, 0, 3][: image.shape[2]]] if image.shape[2] > 2 else image
        )
        self.shape = (image.shape[0], image.shape[1])
        self.chunks = (min(512, self.shape[0]), min(512, self.shape[1]))
        self.kind = "bmp image"
        alpha = image.shape[2] == 4
        self.require(image.shape[2] - alpha, image.dtype, alpha=alpha)

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        return self._pixels[rows, cols]


class SlidePlane(ImagePlane):
    """A colour-coded slide in a scanner vendor's format."""

    def __init__(self, path: Path, palette: Palette, *, use_palette: bool) -> None:
        super().__init__(path, palette, use_palette=use_palette)
        import openslide

        self.slide: Any = openslide.OpenSlide(path)
        width, height = self.slide.dimensions
        self.shape = (height, width)
        self.chunks = (min(512, height), min(512, width))
        vendor = self.slide.properties[openslide.PROPERTY_NAME_VENDOR]
        self.kind = f"{vendor} slide"
        self.require(3, np.dtype(np.uint8), alpha=True)
        self.tell(from_slide(self.slide))
        self.notes += ("slides are mostly stored as JPEG, which changes colours along borders of labels",)

    def pixels(self, rows: slice, cols: slice) -> npt.NDArray[Any]:
        """Pixels [y, x, channel] of a region."""
        size = (cols.stop - cols.start, rows.stop - rows.start)
        return np.asarray(self.slide.read_region((cols.start, rows.start), 0, size))


def open_image(
    path: Path, name: str, colours: Mapping[int, RGB], tolerance: int, *, use_palette: bool = False
) -> Plane:
    """Open an image file with the reader that suits it.

    Parameters
    ----------
    path
        An existing file.
    name
        How messages call it.
    colours, tolerance
        See `Palette`.
    use_palette
        Look grey images up in the palette as well.

    Raises
    ------
    BadInput
        No reader knows the file, or it is no mask.
    """
    try:
        palette = Palette(colours, tolerance)
        if slide_vendor(path) not in (None, "generic-tiff"):
            return SlidePlane(path, palette, use_palette=use_palette)
        if is_tiff(path):
            try:
                return TiffPlane(path, palette, use_palette=use_palette)
            except NotImplementedError:  # planes apart, or the whole image in one strip
                size = tiff_size(path)[2]
                return VipsPlane(path, palette, use_palette=use_palette, size=size)
        reader = BitmapPlane if starts(path, b"BM") else VipsPlane
        return reader(path, palette, use_palette=use_palette)
    except BadInput as error:
        raise BadInput(f"mask {name}: {error}") from None
    except Exception as error:  # each library has exceptions of its own
        raise BadInput(f"mask {name}: cannot read it as an image ({one_line(error)}); {ACCEPTED}") from error
