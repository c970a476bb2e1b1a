"""How large is a pixel, in micrometres, whichever way a file says it?

Every reader hands the value and the unit that it finds to `pixel_size`, the only place where they are judged. A number
that cannot be the size of a slide's pixel is never passed on as one: the size is then unknown, and a note says why.

    Zarr attribute      mpp                           um
    OME-Zarr            scale of level 0              unit of each axis
    OME-TIFF            PhysicalSizeX, PhysicalSizeY  PhysicalSizeXUnit, PhysicalSizeYUnit; um where absent
    ImageJ TIFF         1 / resolution                unit= in the description
    other TIFF          1 / resolution                ResolutionUnit: inch or centimetre
    slide (OpenSlide)   openslide.mpp-x, -y           um
    other image         1 / resolution (libvips)      mm
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from safron.io.fields import LEAST_MPP, MOST_MPP

MAX_PRINT_MPP = 20.0
"""Coarser resolutions in the tags of an image file are meant for printers: 72 dpi would be 353 um per pixel."""

SQUARE = 0.01
"""Largest relative difference of height and width of a pixel that counts as square."""

REMEDY = "give the true one with mpp (--mpp)"

_SI = {
    "yotta": ("Y", 24), "zetta": ("Z", 21), "exa": ("E", 18), "peta": ("P", 15), "tera": ("T", 12),
    "giga": ("G", 9), "mega": ("M", 6), "kilo": ("k", 3), "hecto": ("h", 2), "deca": ("da", 1), "": ("", 0),
    "deci": ("d", -1), "centi": ("c", -2), "milli": ("m", -3), "micro": ("u", -6), "nano": ("n", -9),
    "pico": ("p", -12), "femto": ("f", -15), "atto": ("a", -18), "zepto": ("z", -21), "yocto": ("y", -24),
}  # fmt: skip
_INCH = 25_400.0
_OTHERS = {
    "micron": 1.0, "\u03bcm": 1.0, "\u03bc": 1.0, "angstrom": 1e-4, "ångström": 1e-4, "Å": 1e-4,
    "inch": _INCH, "in": _INCH, '"': _INCH, "thou": _INCH / 1000, "mil": _INCH / 1000, "li": _INCH / 12,
    "line": _INCH / 12, "pt": _INCH / 72, "point": _INCH / 72, "foot": 12 * _INCH, "feet": 12 * _INCH,
    "ft": 12 * _INCH, "yard": 36 * _INCH, "yd": 36 * _INCH, "mile": 63_360 * _INCH, "mi": 63_360 * _INCH,
    "ua": 1.495978707e17, "au": 1.495978707e17, "ly": 9.4607304725808e21, "pc": 3.0856775814913673e22,
    "parsec": 3.0856775814913673e22,
}  # fmt: skip
UM_PER_UNIT = (
    {symbol + "m": 10.0 ** (6 + power) for symbol, power in _SI.values()}
    | {prefix + "meter": 10.0 ** (6 + power) for prefix, (_, power) in _SI.items()}
    | _OTHERS
)
"""Micrometres in each unit of length of OME and OME-Zarr, by symbol and by name."""

PIXELS = {"pixel", "px", "reference frame", "dimensionless"}
"""What some files name as the unit where they know none."""


@dataclass(frozen=True)
class PixelSize:
    """What a file says about the size of its pixels.

    Attributes
    ----------
    mpp
        Micrometres along a pixel's side; None where unknown.
    notes
        What the user should know: what was not understood, or taken for granted.
    """

    mpp: float | None = None
    notes: tuple[str, ...] = ()


UNKNOWN = PixelSize()


def pixel_size(
    height: Any, width: Any, unit: Any, width_unit: Any = None, *, resolution: bool = False
) -> PixelSize:
    """Judge what a file says about its pixels.

    Parameters
    ----------
    height, width
        Along one pixel; numbers or texts as the file holds them, None where it says nothing.
    unit, width_unit
        Of both; of the width alone where that differs.
    resolution
        Whether they come from resolution tags, which most programs write for printers.

    Returns
    -------
    PixelSize
        A size only where it is plausible, and the same in both directions.

    Examples
    --------
    >>> pixel_size("0.5", "0.5", "\u03bcm")
    PixelSize(mpp=0.5, notes=())
    >>> pixel_size(0.5, 0.5, "pixel").notes
    ('its pixel size is 0.5 in pixels, which are not a length; give the true one with mpp (--mpp)',)
    """
    if height is None and width is None:
        return UNKNOWN
    sizes: list[float] = []
    for value, its_unit in ((height, unit), (width, unit if width_unit is None else width_unit)):
        if value is None:
            continue
        um, fault = _micrometres(value, its_unit)
        if um is None:
            return PixelSize(None, (f"its pixel size is {fault}; {REMEDY}",))
        sizes.append(um)
    high, wide = sizes[0], sizes[-1]
    if resolution and max(sizes) > MAX_PRINT_MPP:
        dpi = _INCH / high
        return PixelSize(None, (f"its resolution of {dpi:.4g} dpi is meant for printing; {REMEDY}",))
    if not all(LEAST_MPP <= size <= MOST_MPP for size in sizes):
        return PixelSize(
            None,
            (
                f"its pixel size is {high:g} um, and that of a slide is {LEAST_MPP:g} to {MOST_MPP:g} um; {REMEDY}",
            ),
        )
    if abs(high - wide) > SQUARE * min(sizes):
        return PixelSize(
            None,
            (
                f"its pixels are {high:g} um high and {wide:g} um wide, and a slide's are square; "
                f"resample it, or {REMEDY}",
            ),
        )
    if len(sizes) == 1:
        given = "width" if height is None else "height"
        return PixelSize(
            high, (f"only the {given} of its pixels is given ({high:g} um), and taken for both",)
        )
    return PixelSize(high)


def _micrometres(value: Any, unit: Any) -> tuple[float | None, str]:
    """Micrometres of a value and its unit, or None and what is wrong with them."""
    shown = f"{value:g}" if isinstance(value, float) else repr(value)[:60]
    try:
        number = (
            math.nan if isinstance(value, bool) or (isinstance(value, str) and "_" in value) else float(value)
        )
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 < number < math.inf:
        return None, f"{shown}, which is not a positive number"
    name = "" if unit is None else str(unit).strip()
    if not name:
        return None, f"{shown} without a unit"
    if _plain(name).casefold().removesuffix("s") in PIXELS:
        return None, f"{shown} in pixels, which are not a length"
    factor = _factor(name)
    return (number * factor, "") if factor else (None, f"{shown} in {name[:60]!r}, which is not a known unit")


def _plain(unit: str) -> str:
    """Spell a unit in one way: micro signs, escapes and encodings differ between programs."""
    import html

    unit = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), html.unescape(unit))
    unit = unicodedata.normalize("NFKC", unit).replace("Â\u03bc", "\u03bc")  # UTF-8 taken for Latin-1
    return re.sub(r"\s*(/|per)\s*(px|pixels?)$", "", unit.strip())


def _factor(unit: str) -> float | None:
    """Micrometres in a unit; None where it is not known."""
    unit = _plain(unit)
    if unit in UM_PER_UNIT:
        return UM_PER_UNIT[unit]
    lower = unit.casefold().replace("metre", "meter")
    for name in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        # Several symbols may differ in case only: "MM" may mean mm or Mm.
        found = {factor for known, factor in UM_PER_UNIT.items() if known.casefold() == name}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


# What each kind of file says


def from_attribute(value: Any) -> PixelSize:
    """Pixel size from the attribute `mpp` of a Zarr array: one number, or two for height and width; a text may name its unit."""
    both = value if isinstance(value, list | tuple) and len(value) == 2 else (value, value)
    parted = [
        re.fullmatch(r"\s*((?>[\d.]+(?:[eE][+-]?\d+)?))\s*([^\W\d_].*)", side)
        if isinstance(side, str)
        else None
        for side in both
    ]
    sizes = [side if part is None else part[1] for side, part in zip(both, parted, strict=True)]
    return pixel_size(*sizes, *("um" if part is None else part[2] for part in parted))


def from_slide(slide: Any) -> PixelSize:
    """Pixel size of a slide that OpenSlide has opened."""
    height, width = (slide.properties.get(f"openslide.mpp-{axis}") for axis in "yx")
    return pixel_size(height, width, "um")


def from_vips(image: Any) -> PixelSize:
    """Pixel size of an image that libvips has opened; where a file says nothing, it answers 1 per mm, or 72 dpi."""
    if min(image.xres, image.yres) <= 0 or image.xres == image.yres == 1:
        return UNKNOWN
    if all(abs(per_mm * 25.4 - 72) < 0.1 for per_mm in (image.xres, image.yres)):
        return UNKNOWN
    return pixel_size(1 / image.yres, 1 / image.xres, "mm", resolution=True)


def from_tiff(tif: Any) -> PixelSize:
    """Pixel size of the first image of an open `tifffile.TiffFile`."""
    if tif.ome_metadata:
        from xml.etree import ElementTree

        try:
            pixels = ElementTree.fromstring(tif.ome_metadata).find(".//{*}Pixels")
        except ElementTree.ParseError as error:
            return PixelSize(None, (f"its OME-XML is damaged ({error}), so its pixel size is unknown",))
        if pixels is not None and (pixels.get("PhysicalSizeX") or pixels.get("PhysicalSizeY")) is not None:
            height, width = pixels.get("PhysicalSizeY"), pixels.get("PhysicalSizeX")
            units = (pixels.get(f"PhysicalSize{axis}Unit", "um") for axis in "YX")
            return pixel_size(height, width, *units)
    tags = tif.pages.first.tags
    high, wide = (_side(tags.valueof(f"{axis}Resolution")) for axis in "YX")
    if high is None and wide is None:
        return UNKNOWN
    imagej = (tif.imagej_metadata or {}) if tif.is_imagej else {}
    if named := imagej.get("unit"):
        printed = _factor(str(named)) in (_INCH, 1e4)
        return pixel_size(high, wide, imagej.get("yunit", named), named, resolution=printed)
    unit = {1: None, 2: "inch", 3: "cm"}.get(int(tags.valueof("ResolutionUnit", default=2)))
    if high == wide:
        # 1 without a unit says that pixels are square, and no more; 1 mm is what libvips writes where it knows nothing.
        if unit is None and high == 1:
            return UNKNOWN
        if unit is not None and high is not None and abs(high * UM_PER_UNIT[unit] - 1000) < 0.1:
            return UNKNOWN
    return pixel_size(high, wide, unit, resolution=True)


def _side(resolution: Any) -> float | None:
    """Side of a pixel, from pixels per unit as a fraction; 0 where the fraction makes no sense."""
    if resolution is None:
        return None
    try:
        top, bottom = resolution
        return float(bottom / top)
    except (TypeError, ValueError, ZeroDivisionError):
        return 0.0
