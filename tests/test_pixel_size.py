"""Pixel sizes: every unit and spelling means its length, and nonsense is told and never passed on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from safron.io.masks.canvas_size import image_size
from safron.io.masks.open import open_mask
from safron.io.masks.pixel_size import UM_PER_UNIT, pixel_size

LABELS = np.ones((30, 40), np.uint8)

# Metres in each unit of OME (UnitsLength) and OME-Zarr, written down independently of the code.
OME_METRES = {
    "Ym": 1e24, "Zm": 1e21, "Em": 1e18, "Pm": 1e15, "Tm": 1e12, "Gm": 1e9, "Mm": 1e6, "km": 1e3, "hm": 1e2,
    "dam": 1e1, "m": 1.0, "dm": 1e-1, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "pm": 1e-12, "fm": 1e-15,
    "am": 1e-18, "zm": 1e-21, "ym": 1e-24, "Å": 1e-10, "thou": 0.0254e-3, "li": 0.0254 / 12, "in": 0.0254,
    "ft": 0.3048, "yd": 0.9144, "mi": 1609.344, "ua": 149_597_870_700.0, "ly": 9_460_730_472_580_800.0,
    "pc": 3.0856775814913673e16, "pt": 0.0254 / 72,
}  # fmt: skip
NGFF_METRES = {
    "angstrom": 1e-10, "attometer": 1e-18, "centimeter": 1e-2, "decimeter": 1e-1, "exameter": 1e18,
    "femtometer": 1e-15, "foot": 0.3048, "gigameter": 1e9, "hectometer": 1e2, "inch": 0.0254, "kilometer": 1e3,
    "megameter": 1e6, "meter": 1.0, "micrometer": 1e-6, "mile": 1609.344, "millimeter": 1e-3, "nanometer": 1e-9,
    "parsec": 3.0856775814913673e16, "petameter": 1e15, "picometer": 1e-12, "terameter": 1e12, "yard": 0.9144,
    "yoctometer": 1e-24, "yottameter": 1e24, "zeptometer": 1e-21, "zettameter": 1e21,
}  # fmt: skip
SPELLINGS = {
    "\u03bcm": 1e-6, "um": 1e-6, "UM": 1e-6, "micron": 1e-6, "Microns": 1e-6, "micrometre": 1e-6, "Micrometers": 1e-6,
    "\\u00B5m": 1e-6, "&#181;m": 1e-6, "Âµm": 1e-6, "um/px": 1e-6, "µm per pixel": 1e-6, " mm ": 1e-3,
    "\u212b": 1e-10, "inches": 0.0254, "Inch": 0.0254, '"': 0.0254, "nanometres": 1e-9, "feet": 0.3048,
}  # fmt: skip


@pytest.mark.parametrize(("unit", "metres"), [*OME_METRES.items(), *NGFF_METRES.items(), *SPELLINGS.items()])
def test_every_unit_means_its_length(unit: str, metres: float) -> None:
    size = pixel_size(0.5e-6 / metres, f"{0.5e-6 / metres!r}", unit)
    assert size.mpp == pytest.approx(0.5, rel=1e-9)
    assert size.notes == ()


def test_no_two_units_are_confused_by_case() -> None:
    for unit in ("MM", "PM", "YM"):  # mm or Mm, pm or Pm, ym or Ym
        assert "not a known unit" in pixel_size(0.5, 0.5, unit).notes[0]
    assert UM_PER_UNIT["Mm"] == 1e12


@pytest.mark.parametrize(
    ("height", "width", "unit", "note"),
    [
        ("0", "0", "um", "is '0', which is not a positive number"),
        (0, 0, "um", "is 0, which is not a positive number"),
        ("NaN", "NaN", "um", "is 'NaN', which is not"),
        ("Infinity", "Infinity", "um", "is 'Infinity', which is not"),
        (-0.5, -0.5, "um", "is -0.5, which is not"),
        ("0,5", "0,5", "um", "is '0,5', which is not"),
        ("", "", "um", "is '', which is not"),
        ("1_0", "1_0", "um", "is '1_0', which is not"),
        (True, True, "um", "is True, which is not"),
        ([0.5], [0.5], "um", "which is not"),
        (10**400, 10**400, "um", "which is not"),
        (0.5, float("nan"), "um", "which is not"),
        (0.5, 0.5, "xyz", "is 0.5 in 'xyz', which is not a known unit"),
        (0.5, 0.5, 7, "is 0.5 in '7', which is not a known unit"),
        (0.5, 0.5, "second", "not a known unit"),
        (1.0, 1.0, "pixel", "is 1 in pixels, which are not a length"),
        (1.0, 1.0, "Pixels", "in pixels"),
        (0.5, 0.5, None, "is 0.5 without a unit"),
        (0.5, 0.5, "", "is 0.5 without a unit"),
        (0.5, 0.5, "km", "is 5e+08 um, and that of a slide is 0.001 to 10000 um"),
        (0.5, 0.5, "pm", "that of a slide is"),
        (0.25, 0.5, "um", "are 0.25 um high and 0.5 um wide, and a slide's are square"),
        (0.5, 0.506, "um", "a slide's are square"),
    ],
)
def test_nonsense_is_told_and_not_passed_on(height: Any, width: Any, unit: Any, note: str) -> None:
    size = pixel_size(height, width, unit)
    assert size.mpp is None
    assert len(size.notes) == 1
    assert note in size.notes[0]
    assert "mpp (--mpp)" in size.notes[0]


def test_units_may_differ_by_axis_and_small_differences_are_rounding() -> None:
    assert pixel_size(0.5, 500, "um", "nm").mpp == 0.5
    assert pixel_size(0.5, 0.504, "um").mpp == 0.5
    assert pixel_size(None, None, "um").notes == ()
    only = pixel_size(None, 0.5, "um")
    assert (only.mpp, only.notes) == (
        0.5,
        ("only the width of its pixels is given (0.5 um), and taken for both",),
    )


def test_resolutions_for_printers_are_told() -> None:
    size = pixel_size(1 / 72, 1 / 72, "inch", resolution=True)
    assert size.mpp is None
    assert "resolution of 72 dpi is meant for printing" in size.notes[0]
    assert pixel_size(1 / 20000, 1 / 20000, "cm", resolution=True).mpp == 0.5


# The same through each kind of file


def tiff(path: Path, **options: Any) -> Path:
    tifffile.imwrite(path, LABELS, **options)
    return path


def imagej(path: Path, size: float, unit: str) -> Path:
    return tiff(path, imagej=True, resolution=(1 / size, 1 / size), metadata={"unit": unit})


def ome_tiff(path: Path, size: str, *, unit: str = "", tag: str = "PhysicalSize") -> Path:
    pixels = "".join(
        f' {tag}{axis}="{size}"' + (f' {tag}{axis}Unit="{unit}"' if unit else "") for axis in "XY"
    )
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="30" SizeC="1" '
        f'SizeZ="1" SizeT="1"{pixels}><Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData/></Pixels></Image></OME>'
    )
    return tiff(path, description=xml.encode(), metadata=None)


def zarr_array(path: Path, mpp: Any) -> Path:
    zarr.create_array(path, data=LABELS, attributes={"mpp": mpp})
    return path


def ome_zarr(path: Path, level: Any, version: str = "0.5", unit: Any = "micrometer", **image: Any) -> Path:
    group = zarr.open_group(path, mode="w")
    group.create_array("0", data=LABELS)
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "yx"]
    transform = {} if level is None else {"coordinateTransformations": level}
    image = {"axes": axes, "datasets": [{"path": "0"} | transform]} | image
    group.attrs["ome"] = {"version": version, "multiscales": [image]}
    return path


def scale(*factors: float) -> list[Any]:
    return [{"type": "scale", "scale": list(factors)}]


def ngff_06(path: Path, level: Any, **image: Any) -> Path:
    """Write axes where OME-Zarr 0.6 has them, beside a coordinate system that is not the level's."""
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    world = [{"name": name, "type": "space", "unit": "millimeter"} for name in "yx"]
    systems = [{"name": "world", "axes": world}, {"name": "intrinsic", "axes": axes}]
    return ome_zarr(path, level, "0.6", **({"axes": None, "coordinateSystems": systems} | image))


SEQUENCE = [
    {
        "type": "sequence",
        "input": {"path": "0"},
        "output": {"name": "intrinsic"},
        "transformations": [*scale(0.5, 0.5), {"type": "translation", "translation": [0.0, 0.0]}],
    }
]
BY_AXIS = [
    {
        "type": "byDimension",
        "output": "intrinsic",
        "transformations": [
            {"type": "scale", "scale": [0.5], "input": ["y"], "output": ["y"]},
            {"type": "scale", "scale": [0.5], "input": ["x"], "output": ["x"]},
        ],
    }
]


def leads(transformation: dict[str, Any]) -> list[dict[str, Any]]:
    """Transformations of a level that lead to the coordinate system of `ngff_06`."""
    return [transformation | {"output": "intrinsic"}]


FILES: dict[str, tuple[Callable[[Path], Path], float | None, str]] = {
    "ImageJ um": (lambda d: imagej(d / "a.tif", 0.5, "um"), 0.5, ""),
    "ImageJ micron": (lambda d: imagej(d / "a.tif", 0.5, "micron"), 0.5, ""),
    "ImageJ escape": (lambda d: imagej(d / "a.tif", 0.5, "\\u00B5m"), 0.5, ""),
    "ImageJ mm": (lambda d: imagej(d / "a.tif", 0.0005, "mm"), 0.5, ""),
    "ImageJ cm": (lambda d: imagej(d / "a.tif", 0.00005, "cm"), 0.5, ""),
    "ImageJ pixel": (lambda d: imagej(d / "a.tif", 0.5, "pixel"), None, "in pixels"),
    "ImageJ 72 dpi": (lambda d: imagej(d / "a.tif", 1 / 72, "inch"), None, "72 dpi is meant for printing"),
    "OME default": (lambda d: ome_tiff(d / "a.ome.tif", "0.5"), 0.5, ""),
    "OME Greek": (lambda d: ome_tiff(d / "a.ome.tif", "0.5", unit="\u03bcm"), 0.5, ""),
    "OME pm": (lambda d: ome_tiff(d / "a.ome.tif", "500000", unit="pm"), 0.5, ""),
    "OME entity": (lambda d: ome_tiff(d / "a.ome.tif", "0.5", unit="&#956;m"), 0.5, ""),
    "OME comma": (lambda d: ome_tiff(d / "a.ome.tif", "0,5"), None, "'0,5'"),
    "OME empty": (lambda d: ome_tiff(d / "a.ome.tif", ""), None, "is ''"),
    "OME pixels": (lambda d: ome_tiff(d / "a.ome.tif", "1", unit="pixel"), None, "in pixels"),
    "OME none": (lambda d: ome_tiff(d / "a.ome.tif", "1", tag="Other"), None, ""),
    "TIFF cm": (lambda d: tiff(d / "a.tif", resolution=(20000, 20000), resolutionunit=3), 0.5, ""),
    "TIFF 72 dpi": (lambda d: tiff(d / "a.tif", resolution=(72, 72), resolutionunit=2), None, "72 dpi"),
    "TIFF without unit": (
        lambda d: tiff(d / "a.tif", resolution=(20000, 20000), resolutionunit=1),
        None,
        "without a unit",
    ),
    "TIFF zero": (lambda d: tiff(d / "a.tif", resolution=(0, 0), resolutionunit=3), None, "not a positive"),
    "TIFF oblong": (
        lambda d: tiff(d / "a.tif", resolution=(20000, 40000), resolutionunit=3),
        None,
        "0.25 um high and 0.5 um wide",
    ),
    "TIFF plain": (lambda d: tiff(d / "a.tif"), None, ""),
    "PNG": (lambda d: png(d / "a.png"), None, ""),
    "PNG 0.5 um": (lambda d: png(d / "a.png", 2000.0), 0.5, ""),
    "PNG 300 dpi": (lambda d: png(d / "a.png", 300 / 25.4), None, "300 dpi"),
    "Zarr": (lambda d: zarr_array(d / "a.zarr", 0.5), 0.5, ""),
    "Zarr list": (lambda d: zarr_array(d / "a.zarr", [0.5, 0.5]), 0.5, ""),
    "Zarr oblong list": (lambda d: zarr_array(d / "a.zarr", [0.5, 1.0]), None, "0.5 um high and 1 um wide"),
    "Zarr text": (lambda d: zarr_array(d / "a.zarr", "half"), None, "'half'"),
    "Zarr -1": (lambda d: zarr_array(d / "a.zarr", -1), None, "-1, which is not"),
    "Zarr null": (lambda d: zarr_array(d / "a.zarr", None), None, ""),
    "OME-Zarr": (lambda d: ome_zarr(d / "a.zarr", scale(0.5, 0.5)), 0.5, ""),
    "OME-Zarr micron": (lambda d: ome_zarr(d / "a.zarr", scale(0.5, 0.5), unit="micron"), 0.5, ""),
    "OME-Zarr without unit": (
        lambda d: ome_zarr(d / "a.zarr", scale(0.5, 0.5), unit=None),
        None,
        "0.5 without a unit",
    ),
    "OME-Zarr in pixels": (lambda d: ome_zarr(d / "a.zarr", scale(1, 1), unit=None), None, ""),
    "OME-Zarr without scale": (lambda d: ome_zarr(d / "a.zarr", None, unit=None), None, ""),
    "iohub identity": (
        lambda d: ome_zarr(d / "a.zarr", [{"type": "identity"}], "0.4"),
        None,
        "its axes are in micrometer, but no scale is given",
    ),
    "OME-Zarr, wrong scale": (lambda d: ome_zarr(d / "a.zarr", scale(0.5)), None, "not one that is read"),
    "OME-Zarr, scale in a file": (
        lambda d: ome_zarr(d / "a.zarr", [{"type": "scale", "path": "s"}]),
        None,
        "not one that is read",
    ),
    "OME-Zarr, NaN": (
        lambda d: ome_zarr(d / "a.zarr", scale(float("nan"), float("nan"))),
        None,
        "not a positive",
    ),
    "NGFF 0.6": (lambda d: ngff_06(d / "a.zarr", SEQUENCE), 0.5, ""),
    "NGFF 0.6, axis by axis": (lambda d: ngff_06(d / "a.zarr", BY_AXIS), 0.5, ""),
    "NGFF 0.6, image moved": (
        lambda d: ngff_06(
            d / "a.zarr",
            SEQUENCE,
            coordinateTransformations=[{"type": "scale", "scale": [9, 9], "output": "world"}],
        ),
        0.5,
        "",
    ),
    "NGFF 0.6, plain scale": (
        lambda d: ngff_06(d / "a.zarr", [{"type": "scale", "scale": [0.5, 0.5], "output": "intrinsic"}]),
        0.5,
        "",
    ),
    "NGFF 0.6, affine": (
        lambda d: ngff_06(d / "a.zarr", leads({"type": "affine", "affine": [[0.5, 0, 3], [0, 0.5, 4]]})),
        0.5,
        "",
    ),
    "NGFF 0.6, both ways": (
        lambda d: ngff_06(d / "a.zarr", leads({"type": "bijection", "forward": scale(0.5, 0.5)[0]})),
        0.5,
        "",
    ),
    "NGFF 0.6, turned by nothing": (
        lambda d: ngff_06(
            d / "a.zarr",
            leads(
                {
                    "type": "sequence",
                    "transformations": [
                        {"type": "mapAxis", "mapAxis": {"y": "y", "x": "x"}},
                        {"type": "rotation", "rotation": [[1, 0], [0, 1]]},
                        *scale(0.5, 0.5),
                    ],
                }
            ),
        ),
        0.5,
        "",
    ),
    "NGFF 0.7": (lambda d: ome_zarr(d / "a.zarr", scale(0.5, 0.5), "0.7"), 0.5, "OME-Zarr 0.7 is not known"),
}


def png(path: Path, per_mm: float = 0) -> Path:
    image = pyvips.Image.new_from_array(LABELS)
    if per_mm:
        image = image.copy(xres=per_mm, yres=per_mm)
    image.pngsave(str(path))
    return path


@pytest.mark.parametrize(("make", "mpp", "note"), FILES.values(), ids=FILES)
def test_every_reader_judges_alike(
    tmp_path: Path, make: Callable[[Path], Path], mpp: float | None, note: str
) -> None:
    path = make(tmp_path)
    mask = open_mask(path)
    assert mask.mpp == (None if mpp is None else pytest.approx(mpp, rel=1e-6))
    height, width, size = image_size(path)
    assert (height, width, size.mpp) == (*mask.shape, mask.mpp)
    assert len(size.notes) == bool(note)
    assert note in "".join(size.notes)
    assert set(size.notes) <= set(mask.notes)


def test_planes_apart_keep_their_pixel_size(tmp_path: Path) -> None:
    colours = np.zeros((3, 30, 40), np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        colours,
        photometric="rgb",
        planarconfig="separate",
        resolution=(20000, 20000),
        resolutionunit=3,
    )
    assert open_mask(path, palette={0: (0, 0, 0)}).mpp == 0.5


def test_a_damaged_ome_xml_leaves_the_labels_readable(tmp_path: Path) -> None:
    path = ome_tiff(tmp_path / "a.ome.tif", "0.5")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"<TiffData/>", b"<TiffData >"))
    mask = open_mask(path)
    assert (mask.mpp, mask[0:1, 0:1].tolist()) == (None, [[1]])
    assert "OME-XML is damaged" in mask.notes[0]


@pytest.mark.parametrize(
    "matrix",
    [[[0, 0.5, 3], [0.5, 0, 4]], [[-0.5, 0, 3], [0, 0.5, 4]], [[0.5, 0.1, 0], [0, 0.5, 0]], [[0.5, 0, 0]]],
    ids=["transposed", "mirrored", "sheared", "short"],
)
def test_matrices_that_move_more_than_a_scale_are_refused(tmp_path: Path, matrix: list[list[float]]) -> None:
    path = ngff_06(tmp_path / "a.zarr", leads({"type": "affine", "affine": matrix}))
    with pytest.raises(ValueError, match="transformation of type 'affine'; only scales and translations"):
        open_mask(path)


def test_ome_zarr_of_a_turned_level_is_refused(tmp_path: Path) -> None:
    path = ngff_06(tmp_path / "a.zarr", [{"type": "mapAxis", "mapAxis": [1, 0], "output": "intrinsic"}])
    with pytest.raises(ValueError, match=r"transformation of type 'mapAxis'; only scales and translations"):
        open_mask(path)
    path = ngff_06(tmp_path / "b.zarr", SEQUENCE, coordinateSystems=[{"name": "intrinsic", "axes": [{"name": "x"}, {"name": "y"}]}])  # fmt: skip
    with pytest.raises(ValueError, match="axis x comes before y"):
        open_mask(path)
