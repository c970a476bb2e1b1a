"""Masks from anywhere: the same labels however they are stored, and one line for whatever is no mask."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import dask.array
import numpy as np
import numpy.typing as npt
import pytest
import pyvips
import tifffile
import zarr
from fsspec.implementations.memory import MemoryFileSystem
from safron.io.errors import BadInput, Failed
from safron.io.legend import DEFAULT_LABELS
from safron.io.masks import image_planes
from safron.io.masks.open import open_mask
from safron.io.masks.palette import Palette, read_palette
from safron.io.masks.write import blocks, write_labels

HEIGHT, WIDTH = 150, 210
LABELS = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)
BUILTIN = read_palette("builtin")
COLOURS = np.array([BUILTIN[value] for value in range(3)], np.uint8)[LABELS]
WHOLE = np.s_[0:HEIGHT, 0:WIDTH]


def save_zarr(path: Path, data: npt.NDArray[Any] = LABELS, **options: Any) -> Path:
    zarr.create_array(str(path), data=data, **({"chunks": (64, 48)} | options))
    return path


def save_ome(path: Path, data: npt.NDArray[Any], names: str, version: str, **image: Any) -> Path:
    """Write an OME-Zarr image as napari or ome-zarr-py would; `image` replaces parts of the multiscale."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    group.create_array("0", data=data, chunks=(1,) * (data.ndim - 2) + (64, 64))
    space = {"z": "space", "y": "space", "x": "space", "c": "channel", "t": "time"}
    multiscale: dict[str, Any] = {
        "axes": [
            {"name": axis, "type": space[axis]} | ({"unit": "micrometer"} if axis in "zyx" else {})
            for axis in names
        ],
        "datasets": [
            {
                "path": "0",
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * (data.ndim - 2) + [0.5, 0.5]}
                ],
            }
        ],
    } | image
    if version == "0.4":
        group.attrs["multiscales"] = [multiscale | {"version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [multiscale]}
    return path


def save_png(path: Path, data: npt.NDArray[Any], *options: int) -> Path:
    assert cv2.imwrite(str(path), data[..., ::-1] if data.ndim == 3 else data, list(options))
    return path


def save_npy(path: Path, data: npt.NDArray[Any]) -> Path:
    np.save(path, data)
    return path


def save_zip(path: Path, folder: Path, root: str) -> Path:
    """Pack a folder, as `root` in the archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(root) / file.relative_to(folder))
    shutil.rmtree(folder)
    return path


def save_vips(path: Path) -> Path:
    pyvips.Image.new_from_array(LABELS).vipssave(str(path))
    return path


def save_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def save_pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def save_tiff(path: Path, data: npt.NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, data, **options)
    return path


GOOD: dict[str, Callable[[Path], Path]] = {
    "zarr v3": lambda d: save_zarr(d / "m.zarr"),
    "zarr v2": lambda d: save_zarr(d / "m.zarr", zarr_format=2),
    "zarr in shards": lambda d: save_zarr(d / "m.zarr", shards=(128, 96)),
    "zarr int64": lambda d: save_zarr(d / "m.zarr", LABELS.astype(np.int64)),
    "zarr big-endian uint16": lambda d: save_zarr(d / "m.zarr", LABELS.astype(">u2"), zarr_format=2),
    "zarr of one plane": lambda d: save_zarr(d / "m.zarr", LABELS[None], chunks=(1, 64, 64)),
    "its zarr.json": lambda d: save_zarr(d / "m.zarr") / "zarr.json",
    "ome-zarr 0.5": lambda d: save_ome(d / "m.zarr", LABELS, "yx", "0.5"),
    "ome-zarr 0.4": lambda d: save_ome(d / "m.zarr", LABELS, "yx", "0.4"),
    "ome-zarr of five axes": lambda d: save_ome(d / "m.zarr", LABELS[None, None, None], "tczyx", "0.4"),
    "png": lambda d: save_png(d / "m.png", LABELS),
    "png in colours": lambda d: save_png(d / "m.png", COLOURS),
    "tiff in strips": lambda d: save_tiff(d / "m.tif", LABELS, rowsperstrip=16),
    "tiff in tiles": lambda d: save_tiff(
        d / "m.tif", LABELS, tile=(64, 64), compression="zlib", predictor=True
    ),
    "big tiff, lzw": lambda d: save_tiff(d / "m.tif", LABELS, tile=(32, 64), compression="lzw", bigtiff=True),
    "tiff uint16": lambda d: save_tiff(d / "m.tif", LABELS.astype(np.uint16)),
    "tiff in colours": lambda d: save_tiff(d / "m.tif", COLOURS, tile=(64, 64), compression="zlib"),
    "tiff, planes apart": lambda d: save_tiff(
        d / "m.tif", COLOURS.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"
    ),
    "tiff, indexed": lambda d: save_tiff(
        d / "m.tif", LABELS, photometric="palette", colormap=np.zeros((3, 256), np.uint16)
    ),
    "bmp": lambda d: save_png(d / "m.bmp", LABELS),
    "bmp in colours": lambda d: save_png(d / "m.bmp", COLOURS),
    "numpy": lambda d: save_npy(d / "m.npy", LABELS.astype(np.int32)),
    "numpy, column by column": lambda d: save_npy(d / "m.npy", np.asfortranarray(LABELS)),
    "zarr in a zip": lambda d: save_zip(d / "m.zip", save_zarr(d / "m.zarr"), "m.zarr"),
    "ome-zarr in an ozx": lambda d: save_zip(d / "m.ozx", save_ome(d / "m.zarr", LABELS, "yx", "0.5"), "."),
    "a path with ::": lambda d: save_zarr(d / "m.zarr").rename(d / "a::b.zarr"),
    "vips' own": lambda d: save_vips(d / "m.v"),
    "tiff, white is 0": lambda d: save_tiff(d / "m.tif", LABELS, photometric="miniswhite"),
}


@pytest.mark.parametrize("save", GOOD.values(), ids=GOOD)
def test_every_format_gives_the_same_labels(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    mask = open_mask(save(tmp_path), palette=BUILTIN)
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[WHOLE].dtype == np.uint8
    np.testing.assert_array_equal(mask[WHOLE], LABELS)
    np.testing.assert_array_equal(mask[37:101, 5:WIDTH], LABELS[37:101, 5:])
    assert mask[5:5, 0:9].shape == (0, 9)
    assert 0 < mask.chunks[0] <= HEIGHT
    again = pickle.loads(pickle.dumps(mask))
    np.testing.assert_array_equal(again[60:70, 60:130], LABELS[60:70, 60:130])
    assert again.fingerprint() == mask.fingerprint()


@pytest.mark.parametrize("save", GOOD.values(), ids=GOOD)
def test_threads_may_read_at_once(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    mask = open_mask(save(tmp_path), palette=BUILTIN)
    regions = [np.s_[y : y + 40, x : x + 50] for y in range(0, 110, 10) for x in range(0, 160, 20)]
    with ThreadPoolExecutor(8) as pool:
        for region, labels in zip(regions, pool.map(mask.__getitem__, regions), strict=True):
            np.testing.assert_array_equal(labels, LABELS[region])


@pytest.mark.parametrize(
    "wrap", [np.asarray, lambda a: dask.array.from_array(a, chunks=(64, 100)), zarr.array]
)
def test_arrays_in_memory(wrap: Callable[[Any], Any]) -> None:
    mask = open_mask(wrap(LABELS))
    np.testing.assert_array_equal(mask[20:90, 7:100], LABELS[20:90, 7:100])
    other = LABELS.copy()
    other[3, 4] = 9
    assert open_mask(wrap(LABELS)).fingerprint() == mask.fingerprint() != open_mask(wrap(other)).fingerprint()


def test_booleans_and_one_bit_images_are_0_and_1(tmp_path: Path) -> None:
    yes = LABELS > 0
    np.testing.assert_array_equal(open_mask(yes)[WHOLE], yes)
    png = save_png(tmp_path / "m.png", yes.astype(np.uint8) * 255, cv2.IMWRITE_PNG_BILEVEL, 1)
    np.testing.assert_array_equal(open_mask(png)[WHOLE], yes)
    np.testing.assert_array_equal(open_mask(save_tiff(tmp_path / "m.tif", yes))[WHOLE], yes)


@pytest.mark.parametrize("tile", [False, True])
@pytest.mark.parametrize("quality", [80, 95])  # libvips halves the resolution of colours below 90
def test_colours_of_a_jpeg_tiff(tmp_path: Path, quality: int, *, tile: bool) -> None:
    halves = np.zeros((HEIGHT, WIDTH), np.uint8)
    halves[32:96, 32:96] = 2
    image = pyvips.Image.new_from_array(np.array([BUILTIN[0], BUILTIN[1], BUILTIN[2]], np.uint8)[halves])
    image.tiffsave(str(tmp_path / "m.tif"), compression="jpeg", Q=quality, tile=tile)
    mask = open_mask(tmp_path / "m.tif", palette=BUILTIN, palette_tolerance=255)
    assert isinstance(mask.plane, image_planes.TiffPlane)
    np.testing.assert_array_equal(mask[WHOLE], halves)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(mask))[30:70, 5:99], halves[30:70, 5:99])


def test_tiff_strips_too_large_for_us_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colormap = np.zeros((3, 256), np.uint16)
    plain = save_tiff(tmp_path / "m.tif", LABELS)
    white = save_tiff(tmp_path / "w.tif", LABELS, photometric="miniswhite")
    indexed = save_tiff(tmp_path / "i.tif", LABELS, photometric="palette", colormap=colormap)
    monkeypatch.setattr(image_planes, "MAX_SEGMENT", 1000)
    np.testing.assert_array_equal(open_mask(plain)[WHOLE], LABELS)
    for path in (white, indexed):
        with pytest.raises(BadInput, match=r"in a strip or tile of more than 64 MiB; save it in tiles"):
            open_mask(path)


def test_urls_open_by_fsspec() -> None:
    zarr.create_array("memory://safron-test/mask", data=LABELS, chunks=(64, 64), overwrite=True)
    mask = open_mask("memory://safron-test/mask")
    np.testing.assert_array_equal(mask[WHOLE], LABELS)
    before = mask.change_token()
    assert open_mask("memory://safron-test/mask").change_token() == before
    zarr.create_array("memory://safron-test/mask", data=LABELS, chunks=(64, 64), overwrite=True)
    assert mask.change_token() != before, "written again"


def test_missing_chunks_are_the_fill_value(tmp_path: Path) -> None:
    path = save_zarr(tmp_path / "m.zarr", np.full((100, 100), 2, np.uint8), fill_value=1)
    (path / "c" / "0" / "1").unlink()
    labels = open_mask(path)[0:100, 0:100]
    assert (labels[:64, 48:96] == 1).all()
    assert np.count_nonzero(labels == 1) == 64 * 48


# Pixel size


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("unit", "mpp"),
    [("micrometer", 0.5), ("centimeter", 5000), ("millimeter", 500), (None, None)],
)
def test_mpp_of_ome_zarr(tmp_path: Path, version: str, unit: str | None, mpp: float | None) -> None:
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "yx"]
    assert open_mask(save_ome(tmp_path / "m.zarr", LABELS, "yx", version, axes=axes)).mpp == mpp


def test_the_scale_of_the_whole_image_counts(tmp_path: Path) -> None:
    scale = [{"type": "scale", "scale": [3.0, 3.0]}]
    assert (
        open_mask(save_ome(tmp_path / "m", LABELS, "yx", "0.5", coordinateTransformations=scale)).mpp == 1.5
    )


def test_oblong_pixels_are_noted(tmp_path: Path) -> None:
    level = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.65]}]}]
    mask = open_mask(save_ome(tmp_path / "m.zarr", LABELS, "yx", "0.5", datasets=level))
    assert mask.mpp is None
    assert "0.5 um high and 0.65 um wide" in mask.notes[0]


def test_mpp_of_other_files(tmp_path: Path) -> None:
    assert open_mask(save_zarr(tmp_path / "m.zarr", attributes={"mpp": 0.25})).mpp == 0.25
    cm = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    assert open_mask(save_tiff(tmp_path / "cm.tif", LABELS, **cm)).mpp == 0.5
    dpi = {"resolution": (300, 300), "resolutionunit": "INCH"}
    assert open_mask(save_tiff(tmp_path / "dpi.tif", LABELS, **dpi)).mpp is None
    ome = {"axes": "YX", "PhysicalSizeY": 400, "PhysicalSizeYUnit": "nm"}
    assert open_mask(save_tiff(tmp_path / "m.ome.tif", LABELS, metadata=ome)).mpp == pytest.approx(0.4)
    assert open_mask(save_png(tmp_path / "m.png", LABELS)).mpp is None


# Colours


def test_colours_near_the_palette(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-6, 7, COLOURS.shape)
    path = save_png(tmp_path / "m.png", np.clip(COLOURS + noise, 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(open_mask(path, palette=BUILTIN, palette_tolerance=6)[WHOLE], LABELS)
    with pytest.raises(
        BadInput,
        match=r"not in the palette .* to safron-mask import --palette, or allow a larger palette tolerance than 0",
    ):
        open_mask(path, palette=BUILTIN)[WHOLE]


def test_the_nearest_colour_wins() -> None:
    rgb = np.array([[[10, 0, 0], [90, 0, 0], [51, 0, 0]]], np.uint8)
    assert Palette({7: (0, 0, 0), 8: (100, 0, 0)}, 255).labels(rgb, 0, 0).tolist() == [[7, 8, 8]]


def test_a_tolerance_that_reaches_two_labels_is_told(tmp_path: Path) -> None:
    palette, path = {7: (0, 0, 0), 8: (100, 0, 0), 9: (0, 250, 0)}, tmp_path / "m.png"
    save_png(path, np.zeros((9, 9, 3), np.uint8))
    assert open_mask(path, palette=palette, palette_tolerance=49).notes == ()
    for tolerance in (50, 250):
        (note,) = open_mask(path, palette=palette, palette_tolerance=tolerance).notes
        assert note.startswith(
            f"the colours of labels 7 and 8 differ by 100, and with a palette tolerance of {tolerance} a"
        )
        assert note.endswith("a tolerance below 50 parts them")


def test_an_unknown_colour_is_named_with_its_place(tmp_path: Path) -> None:
    colours = COLOURS.copy()
    colours[70, 33] = (1, 2, 3)
    mask = open_mask(save_png(tmp_path / "m.png", colours), palette=BUILTIN)
    np.testing.assert_array_equal(mask[0:70, 0:WIDTH], LABELS[:70])
    with pytest.raises(BadInput, match=r"colour \(1, 2, 3\) at row 70, column 33 is not in the palette"):
        mask[60:90, 20:60]


def test_palettes_from_json(tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    for text in ('{"1": [1, 2, 3]}', '{"1": "#010203"}', '{"labels": [{"value": 1, "color": [1, 2, 3]}]}'):
        file.write_text(text)
        assert read_palette(str(file)) == {1: (1, 2, 3)}
    for text in ("{", "[1]", '{"1": "red"}', '{"a": [1, 2, 3]}', "3"):
        file.write_text(text)
        with pytest.raises(BadInput, match=r"p\.json"):
            read_palette(str(file))
    with pytest.raises(BadInput, match="No such file"):
        read_palette(str(tmp_path / "none.json"))


@pytest.mark.parametrize(
    ("colours", "tolerance"),
    [({300: (0, 0, 0)}, 0), ({1: (0, 0, 256)}, 0), ({1: (0, 0, 0), 2: (0, 0, 0)}, 0), ({}, 256)],
)
def test_impossible_palettes(colours: dict[int, tuple[int, int, int]], tolerance: int) -> None:
    with pytest.raises(BadInput, match="palette"):
        Palette(colours, tolerance)


# What is no mask


def damage(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def without_metadata(folder: Path) -> Path:
    path = save_zarr(folder / "m.zarr")
    (path / "zarr.json").unlink()
    return path


def with_metadata(folder: Path, text: str) -> Path:
    path = save_zarr(folder / "m.zarr")
    (path / "zarr.json").write_text(text)
    return path


def with_arrays_inside(folder: Path) -> Path:
    group = zarr.open_group(str(folder / "g.zarr"), mode="w")
    group.create_array("masks/first", shape=(4, 4), dtype="u1")
    return folder / "g.zarr"


def image_with_labels(folder: Path) -> Path:
    path = save_ome(folder / "i.zarr", np.zeros((3, 20, 20), np.uint8), "cyx", "0.5")
    zarr.open_group(str(path)).create_group("labels").attrs["ome"] = {"labels": ["tissue"]}
    return path


def text_file(folder: Path) -> Path:
    (folder / "notes.txt").write_text("not a mask")
    return folder / "notes.txt"


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda d: d / "none.zarr", "no such file or folder"),
    "folder": (lambda d: d, "this folder is not a Zarr"),
    "text": (text_file, "cannot read it as an image .* a mask is a Zarr array"),
    "no zarr.json": (without_metadata, "no zarr.json, .zarray or .zgroup"),
    "broken zarr.json": (lambda d: with_metadata(d, '{"zarr_format"'), "Zarr metadata is wrong"),
    "poor zarr.json": (
        lambda d: with_metadata(d, '{"zarr_format": 3, "node_type": "array"}'),
        "Zarr metadata",
    ),
    "group": (with_arrays_inside, "not an OME-Zarr image; pass one of those inside: masks/first"),
    "several channels": (image_with_labels, "axis c has 3 planes.* inside: labels/tissue"),
    "level 0 gone": (
        lambda d: save_ome(d / "m", LABELS, "yx", "0.5", datasets=[{"path": "s0"}]),
        "level 0, array 's0', is missing",
    ),
    "no axis y": (lambda d: save_ome(d / "m", LABELS, "zx", "0.5"), "lack y and x"),
    "transposed": (lambda d: save_ome(d / "m", LABELS, "xy", "0.5"), "axis x comes before y"),
    "three axes": (lambda d: np.zeros((3, 5, 5), np.uint8), "its shape is 3 x 5 x 5; a mask has two axes"),
    "one axis": (lambda d: np.zeros(5, np.uint8), "its shape is 5"),
    "floats": (
        lambda d: save_zarr(d / "m.zarr", LABELS.astype(float)),
        "holds float64; labels are whole numbers",
    ),
    "float tiff": (lambda d: save_tiff(d / "m.tif", LABELS.astype(np.float32)), "holds float32"),
    "several planes": (
        lambda d: save_tiff(d / "m.tif", np.zeros((3, 9, 9), np.uint8), photometric="minisblack"),
        "3 planes",
    ),
    "16-bit colours": (lambda d: save_tiff(d / "m.tif", COLOURS.astype(np.uint16)), "8 bits a channel"),
    "a TIFF without an image": (lambda d: save_bytes(d / "m.tif", b"II*\0 hello"), "without an image"),
    "tiled planes apart": (
        lambda d: save_tiff(
            d / "m.tif",
            COLOURS.transpose(2, 0, 1).copy(),
            photometric="rgb",
            planarconfig="separate",
            tile=(64, 64),
        ),
        "channels lie apart",
    ),
    "a pipe": (lambda d: save_pipe(d / "m.png"), "m.png: is a pipe or a device; save its content as a file"),
    "inks": (
        lambda d: save_tiff(d / "m.tif", np.zeros((9, 9, 4), np.uint8), photometric="separated"),
        "inks",
    ),
    "no palette": (lambda d: save_png(d / "m.png", COLOURS), "a palette must say which colour"),
    "empty": (lambda d: np.zeros((0, 9), np.uint8), "it is empty"),
    "text array": (lambda d: np.array([["a"]]), "whole numbers"),
    "list": (lambda d: [[1, 2]], "no shape, dtype and slices"),
    "empty URL": (lambda d: "memory://safron-test/nothing", "no Zarr array or group is there"),
    "strange URL": (lambda d: "gopher://a/b", "gopher"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_is_no_mask_is_refused_in_one_line(
    tmp_path: Path, make: Callable[[Path], Any], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(tmp_path)
    with pytest.raises(BadInput, match=message) as caught:
        open_mask(source)
    assert "\n" not in str(caught.value)
    assert not caplog.records


@pytest.mark.parametrize(
    ("value", "dtype"), [(-1, np.int8), (-3, np.int64), (256, np.uint16), (70000, np.int32)]
)
def test_a_value_that_is_no_label_is_named_where_it_is_read(tmp_path: Path, value: int, dtype: Any) -> None:
    data = LABELS.astype(dtype)
    data[100, 44] = data[120, 9] = value
    mask = open_mask(save_zarr(tmp_path / "m.zarr", data))
    np.testing.assert_array_equal(mask[0:100, 0:WIDTH], LABELS[:100])
    with pytest.raises(BadInput, match=rf"value {value} at row 100, column 44; labels are whole numbers"):
        mask[90:130, 0:60]


@pytest.mark.parametrize(
    ("options", "chunk"),
    [({}, "c/1/2"), ({"zarr_format": 2}, "1.2"), ({"chunks": (32, 24), "shards": (64, 48)}, "c/1/2")],
)
def test_a_damaged_chunk_is_named(tmp_path: Path, options: dict[str, Any], chunk: str) -> None:
    path = save_zarr(tmp_path / "m.zarr", **options)
    damage(path / chunk, 20)
    mask = open_mask(path)
    np.testing.assert_array_equal(mask[0:64, 0:WIDTH], LABELS[:64])
    with pytest.raises(Failed, match=f"cannot read chunk {chunk}: ") as caught:
        mask[WHOLE]
    assert "\n" not in str(caught.value)


def test_damaged_images_fail_rather_than_give_glass(tmp_path: Path) -> None:
    png = save_png(tmp_path / "m.png", LABELS)
    damage(png, 2000)
    with pytest.raises(Failed, match=r"cannot read rows 0\.\.149"):
        open_mask(png)[WHOLE]
    tif = save_tiff(tmp_path / "m.tif", LABELS, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(tif) as file:
        offset = file.pages.first.dataoffsets[5]
    data = bytearray(tif.read_bytes())
    data[offset : offset + 50] = bytes(50)
    tif.write_bytes(data)
    with pytest.raises(Failed, match="cannot read rows"):
        open_mask(tif)[WHOLE]


def test_slices_outside_the_canvas_are_a_mistake_of_ours() -> None:
    for region in (np.s_[0:151, 0:5], np.s_[-5:5, 0:5], np.s_[0:10:2, 0:5]):
        with pytest.raises(IndexError):
            open_mask(LABELS)[region]


def test_fingerprints_follow_the_content_and_change_tokens_the_files(tmp_path: Path) -> None:
    path = save_zarr(tmp_path / "m.zarr")
    mask = open_mask(path)
    content, token = mask.fingerprint(), mask.change_token()
    copy = open_mask(shutil.copytree(path, tmp_path / "staged.zarr"))
    os.utime(tmp_path / "staged.zarr" / "c" / "0" / "0", (1, 1))
    assert copy.fingerprint() == content
    assert copy.change_token() != token
    zarr.open_array(str(path), mode="r+")[0, 0] = 9
    assert mask.fingerprint() != content
    assert mask.change_token() != token
    assert open_mask(path, palette=BUILTIN).fingerprint() != mask.fingerprint()


def test_a_store_that_does_not_list_says_so_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores have exceptions of their own, which callers do not know."""
    zarr.create_array("memory://safron-test/unlisted", data=LABELS, chunks=(64, 64), overwrite=True)
    mask = open_mask("memory://safron-test/unlisted")

    def find(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no listing here")

    monkeypatch.setattr(MemoryFileSystem, "find", find)
    for asked in (mask.fingerprint, mask.change_token):
        with pytest.raises(OSError, match=r"unlisted: its storage does not list files \(no listing here\)"):
            asked()


@pytest.mark.parametrize("name", [".DS_Store", "c/._0", "c/0/.nfs0000001", "Thumbs.db", "c/desktop.ini"])
def test_foreign_files_are_no_part_of_a_mask(tmp_path: Path, name: str) -> None:
    mask = open_mask(save_zarr(tmp_path / "m.zarr"))
    before = mask.fingerprint(), mask.change_token()
    (tmp_path / "m.zarr" / name).write_bytes(b"x")
    assert (mask.fingerprint(), mask.change_token()) == before
    (tmp_path / "m.zarr" / "c" / "9").write_bytes(b"x")
    assert mask.change_token() != before[1]


# Writing


def paint(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
    ys, xs = np.ogrid[rows, cols]
    return ((ys // 100 + xs // 70) % 3).astype(np.uint8)


def test_written_masks_are_read_back(tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    seen: list[int] = []
    write_labels(out, paint, height=1100, width=2500, mpp=0.5, workers=3, progress=seen.append)
    mask = open_mask(out)
    np.testing.assert_array_equal(mask[0:1100, 0:2500], paint(slice(0, 1100), slice(0, 2500)))
    assert (mask.mpp, mask.chunks, sum(seen)) == (0.5, (1024, 1024), 1100 * 2500)
    assert zarr.open_array(str(out), mode="r").attrs["labels"][2]["name"] == DEFAULT_LABELS[2].name
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_background_is_not_written(tmp_path: Path) -> None:
    out = tmp_path / "m.zarr"
    write_labels(
        out,
        lambda y, x: np.full((y.stop - y.start, x.stop - x.start), 4, np.uint8),
        height=3000,
        width=3000,
        fill=4,
    )
    assert [path.name for path in out.rglob("*") if path.is_file()] == ["zarr.json"]
    assert (open_mask(out)[2990:3000, 0:9] == 4).all()


def test_blocks_are_whole_chunks_and_tile_the_canvas() -> None:
    hits = np.zeros((3000, 5000), np.uint8)
    for rows, cols in blocks(3000, 5000, (1, 1500)):
        assert rows.start % 1024 == cols.start % 1024 == 0
        hits[rows, cols] += 1
    assert (hits == 1).all()


def test_what_stands_there_is_not_lost(tmp_path: Path) -> None:
    out = save_zarr(tmp_path / "m.zarr")
    with pytest.raises(BadInput, match="pass --overwrite"):
        write_labels(out, paint, height=9, width=9)

    def fail(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        raise BadInput("no paint")

    with pytest.raises(BadInput, match="no paint"):
        write_labels(out, fail, height=9, width=9, overwrite=True)
    np.testing.assert_array_equal(open_mask(out)[WHOLE], LABELS)
    write_labels(out, paint, height=9, width=9, overwrite=True)
    assert open_mask(out).shape == (9, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["m.zarr"]


def test_only_a_mask_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    save_ome(tmp_path / "image.zarr", LABELS, "yx", "0.5")
    save_zarr(tmp_path / "stack.zarr", np.zeros((3, 9, 9), np.uint8), chunks=(1, 9, 9))
    save_zarr(tmp_path / "floats.zarr", LABELS.astype(np.float32))
    (tmp_path / "link.zarr").symlink_to(save_zarr(tmp_path / "mask.zarr"))
    for out, message in (
        (tmp_path / "home", "is not a Zarr array of labels"),
        (tmp_path / "none" / "m.zarr", "does not exist; make it first"),
        (tmp_path / "image.zarr", "is not a Zarr array of labels"),
        (tmp_path / "stack.zarr", "is not a Zarr array of labels"),
        (tmp_path / "floats.zarr", "is not a Zarr array of labels"),
        (tmp_path / "link.zarr", "is not a Zarr array of labels"),
        (tmp_path / "m.tif", "end its name in .zarr"),
        (Path("s3://bucket/m.zarr"), "local folders"),
    ):
        with pytest.raises(BadInput, match=message):
            write_labels(out, paint, height=9, width=9, overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: slice, cols: slice) -> npt.NDArray[np.uint8]:
        raise OSError(28, "No space left on device")

    with pytest.raises(Failed, match="cannot write the mask: No space left"):
        write_labels(tmp_path / "m.zarr", full, height=9, width=9)
    assert list(tmp_path.iterdir()) == []


def test_the_mask_that_ships() -> None:
    path = Path(__file__).parent.parent / "examples" / "glands.zarr"
    mask = open_mask(path)
    assert min(mask.shape) >= 4096
    assert mask.mpp == 1.0
    share = np.bincount(mask[0 : mask.shape[0], 0 : mask.shape[1]].ravel()) / np.prod(mask.shape)
    assert len(share) == 3
    assert share.min() > 0.2
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 400_000


def test_an_array_that_calls_its_axes_otherwise_than_its_image_is_told(tmp_path: Path) -> None:
    for names, told in ((("y", "x"), 0), (("x", "y"), 1)):
        path = save_ome(tmp_path / "m.zarr", LABELS, "yx", "0.5")
        zarr.create_array(str(path / "0"), data=LABELS, dimension_names=names, overwrite=True)
        mask = open_mask(path)
        assert mask.shape == LABELS.shape
        found = [
            note for note in mask.notes if note.startswith("its axes are y, x, and its array calls them x, y")
        ]
        assert len(found) == told
