"""Masks that other programs wrote: what would be wrong without a word is read right, refused, or told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import cv2
import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import pyvips
import tifffile
import zarr
from cases import run_program
from fsspec.implementations.memory import MemoryFileSystem
from safron.io.errors import BadInput, Failed
from safron.io.masks.census import count_labels
from safron.io.masks.cli import main as mask_main
from safron.io.masks.open import open_mask
from safron.io.masks.palette import read_png_colours

HEIGHT, WIDTH = 90, 130
LABELS = np.random.default_rng(0).integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)
WHOLE = np.s_[0:HEIGHT, 0:WIDTH]


# Axes


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y"),
        ("X", "Y"),
        ("column", "row"),
        ("width", "height"),
        ("lon", "lat"),
        ("z", "x"),
        ("c", "y", "x"),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_axes_are_taken_by_their_names(tmp_path: Path, names: tuple[str, ...], version: Any) -> None:
    data = LABELS if len(names) == 2 else np.stack([LABELS] * 2)
    path = tmp_path / "m.zarr"
    if version == 3:
        zarr.create_array(path, data=data, dimension_names=names)
    else:
        zarr.create_array(path, data=data, zarr_format=2, attributes={"_ARRAY_DIMENSIONS": list(names)})
    with pytest.raises(BadInput, match=r"transpose it|lack y and x|axis c has 2 planes"):
        open_mask(path)


@pytest.mark.parametrize("names", [("y", "x"), ("rows", "columns"), ("dim_0", "dim_1"), (None, None)])
def test_axes_in_order_or_without_meaning_are_read(tmp_path: Path, names: Any) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=LABELS, dimension_names=names)
    np.testing.assert_array_equal(open_mask(tmp_path / "m.zarr")[WHOLE], LABELS)


def test_named_axes_of_length_one_may_stand_anywhere(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=LABELS[:, None, :1], dimension_names=("y", "z", "x"))
    np.testing.assert_array_equal(open_mask(tmp_path / "m.zarr")[0:HEIGHT, 0:1], LABELS[:, :1])


# TIFF


def absent_tiles(path: Path, absent: list[int], nodata: str | None, dtype: Any = np.uint8) -> Path:
    """Write a TIFF as GDAL does with SPARSE_OK: some tiles have no place in the file."""
    tags = [] if nodata is None else [(42113, "s", 0, nodata, True)]
    tifffile.imwrite(path, LABELS.astype(dtype), tile=(32, 64), extratags=tags)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for code in (324, 325):
            tag = tif.pages.first.tags[code]
            tag.overwrite([0 if index in absent else value for index, value in enumerate(tag.value)])
    return path


@pytest.mark.parametrize(
    ("nodata", "dtype", "fill"),
    [(None, np.uint8, 0), ("2", np.uint8, 2), ("255.0", np.uint8, 255), ("nan", np.uint8, 0), ("-1", np.uint8, 0),
     ("7", np.int16, 7)],
)  # fmt: skip
def test_absent_tiles_hold_gdals_nodata_value(
    tmp_path: Path, nodata: str | None, dtype: Any, fill: int
) -> None:
    mask = open_mask(absent_tiles(tmp_path / "m.tif", [1, 4], nodata, dtype))
    expected = LABELS.copy()
    expected[:32, 64:128] = expected[32:64, 64:128] = fill
    np.testing.assert_array_equal(mask[WHOLE], expected)
    assert f"2 of its 9 tiles or strips are absent; they are read as {fill}" in mask.notes[0]
    assert ("nodata value" in mask.notes[0]) == (nodata is not None)


def test_a_nodata_value_that_is_no_label_is_named(tmp_path: Path) -> None:
    mask = open_mask(absent_tiles(tmp_path / "m.tif", [1], "-9999", np.int16))
    with pytest.raises(BadInput, match="value -9999 at row 0, column 64"):
        mask[WHOLE]


def test_an_orientation_is_told_and_not_applied(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    orientation = Image.Exif()
    orientation[274] = 6
    tifffile.imwrite(tmp_path / "a.tif", LABELS, extratags=[(274, 3, 1, 3, True)])
    Image.fromarray(LABELS).save(tmp_path / "a.png", exif=orientation)
    for name, number in (("a.tif", 3), ("a.png", 6)):
        mask = open_mask(tmp_path / name)
        np.testing.assert_array_equal(mask[WHOLE], LABELS)
        (note,) = mask.notes
        assert f"its orientation is {number}, which is not applied" in note


def test_a_larger_image_behind_the_first_is_told(tmp_path: Path) -> None:
    for name, images in (("small", (LABELS[::2, ::2], LABELS)), ("pyramid", (LABELS, LABELS[::2, ::2]))):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as file:
            for image in images:
                file.write(image, tile=(16, 16), metadata=None)
    (note,) = open_mask(tmp_path / "small.tif").notes
    assert "its first image is read, and a later one is larger (130 x 90)" in note
    assert open_mask(tmp_path / "pyramid.tif").notes == ()


def test_where_0_is_white_it_is_told_and_numbers_are_labels(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", LABELS, photometric="miniswhite")
    mask = open_mask(tmp_path / "a.tif")
    np.testing.assert_array_equal(mask[WHOLE], LABELS)
    assert mask.notes == ("0 is white in it; labels are the numbers as they are stored",)


def test_two_channels_of_which_none_is_alpha_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.dstack([LABELS, LABELS]), photometric="minisblack", planarconfig="contig"
    )
    with pytest.raises(BadInput, match="it has 2 channels; a mask has one channel of labels, or colours"):
        open_mask(tmp_path / "a.tif")


def test_a_tiff_without_any_tile_is_told(tmp_path: Path) -> None:
    mask = open_mask(absent_tiles(tmp_path / "m.tif", list(range(9)), None))
    assert "9 of its 9 tiles" in mask.notes[0]


def test_a_tiff_without_places_of_tiles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.tif"
    tifffile.imwrite(path, LABELS, tile=(32, 64))
    with tifffile.TiffFile(path) as tif:
        entry = tif.pages.first.tags[324].offset
    data = bytearray(path.read_bytes())
    data[entry : entry + 2] = (65000).to_bytes(2, "little")  # a tag that no reader knows
    path.write_bytes(data)
    with pytest.raises(BadInput, match="it lists 0 of its 9 tiles or strips"):
        open_mask(path)


@pytest.mark.parametrize("kind", ["jpg", "tif", "webp"])
def test_lossy_images_are_told(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"m.{kind}"
    image = pyvips.Image.new_from_array(np.repeat(LABELS[:, :, None] * 100, 3, axis=2))
    options = {"tif": {"compression": "jpeg", "tile": True}}.get(kind, {})
    image.write_to_file(str(path), **options)
    mask = open_mask(
        path, palette={0: (0, 0, 0), 1: (100, 100, 100), 2: (200, 200, 200)}, palette_tolerance=255
    )
    told, lossy = mask.notes
    assert told.startswith("the colours of labels 0 and 1 differ by 100")
    assert "lossy, so that labels may be wrong" in lossy


def test_a_grey_jpeg_is_told_and_a_png_is_not(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "m.jpg"), LABELS)
    cv2.imwrite(str(tmp_path / "m.png"), LABELS)
    assert "stored as JPEG, which is lossy" in open_mask(tmp_path / "m.jpg").notes[0]
    assert open_mask(tmp_path / "m.png").notes == ()


# Palettes and transparency

BLACK_WHITE = {0: (0, 0, 0), 1: (255, 255, 255)}


def save(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    order = [2, 1, 0, 3][: pixels.shape[2]] if pixels.ndim == 3 else None
    cv2.imwrite(str(path), pixels if order is None else pixels[:, :, order])
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_a_palette_that_is_asked_for_is_used_for_grey(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"m.{ending}"
    grey = (LABELS > 0).astype(np.uint8) * 255
    tifffile.imwrite(path, grey) if ending == "tif" else save(path, grey)
    np.testing.assert_array_equal(open_mask(path, palette=BLACK_WHITE, use_palette=True)[WHOLE], LABELS > 0)
    np.testing.assert_array_equal(open_mask(path, palette=BLACK_WHITE)[WHOLE], grey)
    with pytest.raises(BadInput, match="no colour of the palette is a grey"):
        open_mask(path, palette={1: (255, 0, 0)}, use_palette=True)
    missing = open_mask(path, palette={0: (0, 0, 0)}, use_palette=True)
    with pytest.raises(BadInput, match=r"colour \(255, 255, 255\) .* is not in the palette"):
        missing[WHOLE]


@pytest.mark.parametrize("one_bit", ["png", "tif"])
def test_one_bit_is_black_and_white(tmp_path: Path, one_bit: str) -> None:
    """The TIFF has white as 0, which tifffile writes for booleans; a palette is about colours, so its ones are black."""
    path = tmp_path / f"m.{one_bit}"
    if one_bit == "png":
        cv2.imwrite(str(path), (LABELS > 0).astype(np.uint8) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    else:
        tifffile.imwrite(path, LABELS == 0)
    mask = open_mask(path, palette={5: (0, 0, 0), 6: (255, 255, 255)}, use_palette=True)
    np.testing.assert_array_equal(mask[WHOLE], 5 + (LABELS > 0))


def test_a_palette_that_cannot_apply_is_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=LABELS)
    np.save(tmp_path / "m.npy", LABELS)
    for name in ("m.zarr", "m.npy"):
        with pytest.raises(BadInput, match=r"it holds labels, not colours .*; leave the palette out"):
            open_mask(tmp_path / name, palette=BLACK_WHITE, use_palette=True)
    colormap = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "w.tif", LABELS, photometric="palette", colormap=colormap)
    with pytest.raises(BadInput, match="its indices are not grey levels; leave the palette out"):
        open_mask(tmp_path / "w.tif", palette=BLACK_WHITE, use_palette=True)


def test_indexed_pngs_say_how_to_take_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    colours = np.array([[255, 255, 255], [200, 0, 0], [150, 200, 150]], np.uint8)
    image = pyvips.Image.new_from_array(colours[LABELS])
    image.pngsave(str(path), palette=True)
    table = read_png_colours(path)
    held = ", ".join(f"{number} = {color}" for number, color in table.items())
    advice = "safron-mask import m.png mask.zarr --palette indices"
    with pytest.raises(
        BadInput, match=re.escape(f"numbers of 3 colours in a table ({held}); ") + f".*{advice}"
    ):
        open_mask(path)
    mask = open_mask(path, palette=table, use_palette=True)
    rgb = np.array([table[value] for value in sorted(table)], np.uint8)
    np.testing.assert_array_equal(rgb[mask[WHOLE]], colours[LABELS])
    with pytest.raises(BadInput, match="is not an indexed PNG"):
        read_png_colours(save(tmp_path / "rgb.png", colours[LABELS]))


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_transparent_pixels_are_white(tmp_path: Path, ending: str) -> None:
    rgb = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 0]], np.uint8)[LABELS]
    pixels = np.dstack([rgb, np.where(LABELS == 2, 0, 255).astype(np.uint8)])
    path = tmp_path / f"m.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
    else:
        save(path, pixels)
    palette = {0: (0, 0, 0), 1: (255, 0, 0)}
    mask = open_mask(path, palette=palette)
    assert mask.notes == ("its transparent pixels, if any, are read as white",)
    with pytest.raises(BadInput, match=r"colour \(255, 255, 255\)"):
        mask[WHOLE]
    np.testing.assert_array_equal(open_mask(path, palette=palette | {2: (255, 255, 255)})[WHOLE], LABELS)


def test_labels_under_transparency_are_refused(tmp_path: Path) -> None:
    alpha = np.full_like(LABELS, 255)
    image = pyvips.Image.new_from_array(np.dstack([LABELS, alpha])).copy(interpretation="b-w")
    image.pngsave(str(tmp_path / "m.png"))
    np.testing.assert_array_equal(open_mask(tmp_path / "m.png")[WHOLE], LABELS)
    alpha[40, 50] = 0
    pyvips.Image.new_from_array(np.dstack([LABELS, alpha])).copy(interpretation="b-w").pngsave(
        str(tmp_path / "t.png")
    )
    with pytest.raises(BadInput, match="the pixel at row 40, column 50 is transparent"):
        open_mask(tmp_path / "t.png")[WHOLE]


# Other files


@pytest.mark.parametrize(
    "name", ["m.geojson", "m.geojson.gz", "M.GeoJSON", "export.json", "m.geojsonl", "m.ndjson.gz"]
)
def test_annotations_are_sent_to_the_command_that_draws_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(BadInput, match=f"safron-mask from-geojson {name} mask.zarr --like SLIDE"):
        open_mask(tmp_path / name)


@pytest.mark.parametrize("name", ["m.nrrd", "m.nii.gz", "m.mha", "m.docx"])
def test_other_formats_are_told_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"NRRD0004\n" + bytes(100))
    with pytest.raises(BadInput, match=r"a mask is a Zarr array .*\.npy.*PNG, TIFF, BMP"):
        open_mask(tmp_path / name)


@pytest.mark.parametrize("names", ["renamed", "lost"])
def test_an_array_of_which_no_chunk_is_there_is_told(tmp_path: Path, names: str) -> None:
    """The chunks of a v2 array whose metadata do not say that they lie in folders."""
    zarr.create_array(
        tmp_path / "m.zarr", data=LABELS, chunks=(32, 32), zarr_format=2, fill_value=1,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )  # fmt: skip
    assert open_mask(tmp_path / "m.zarr").notes == ()
    about = tmp_path / "m.zarr" / ".zarray"
    if names == "renamed":
        about.write_text(
            about.read_text().replace('"dimension_separator": "/"', '"dimension_separator": "."')
        )
    else:
        for row in range(3):
            shutil.rmtree(tmp_path / "m.zarr" / str(row))
    mask = open_mask(tmp_path / "m.zarr")
    example = {"renamed": "0.0", "lost": "0/0"}[names]
    assert mask.notes == (
        f"none of its chunks is stored (such as {example}), so that every pixel is its fill value, 1",
    )
    assert count_labels(mask) == {1: HEIGHT * WIDTH}


def test_chunks_without_a_pixel_are_refused(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=LABELS)
    about = tmp_path / "m.zarr" / "zarr.json"
    changed = json.loads(about.read_text())
    changed["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0]
    about.write_text(json.dumps(changed))
    with pytest.raises(BadInput, match="it declares chunks without a pixel; correct its metadata"):
        open_mask(tmp_path / "m.zarr")


def test_archives_without_a_zarr_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "folder" / "b.txt").write_text("b")
    shutil.make_archive(str(tmp_path / "m"), "zip", tmp_path / "folder")
    with pytest.raises(BadInput, match=r"m\.zip: this archive holds no Zarr, neither at its root"):
        open_mask(tmp_path / "m.zip")


def test_a_pipe_for_a_chunk_is_a_damaged_chunk(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "m.zarr", data=LABELS, chunks=(64, 64))
    (tmp_path / "m.zarr/c/0/1").unlink()
    os.mkfifo(tmp_path / "m.zarr/c/0/1")
    with pytest.raises(Failed, match=r"cannot read chunk c/0/1: .* is a pipe or a device"):
        open_mask(tmp_path / "m.zarr")[WHOLE]


# Stores


class Forbidding(MemoryFileSystem):
    """A store that answers 403 for a key that does not exist, as S3 does where listing is not allowed."""

    protocol = "forbidding"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("forbidding://")))

    def cat_file(self, path: str, *args: Any, **options: Any) -> Any:
        try:
            return super().cat_file(path, *args, **options)
        except FileNotFoundError:
            raise PermissionError(403, "Forbidden", path) from None

    def info(self, path: str, **options: Any) -> Any:
        try:
            return super().info(path, **options)
        except FileNotFoundError:
            raise PermissionError(403, "Forbidden", path) from None


@pytest.fixture
def _forbidding() -> None:
    fsspec.register_implementation("forbidding", Forbidding, clobber=True)
    Forbidding.store.clear()


def upload(folder: Path, url: str) -> None:
    store = fsspec.filesystem("forbidding")
    for file in folder.rglob("*"):
        if file.is_file():
            store.pipe_file(f"{url.partition('://')[2]}/{file.relative_to(folder)}", file.read_bytes())


@pytest.mark.usefixtures("_forbidding")
@pytest.mark.filterwarnings("ignore::UserWarning")  # the store is not asynchronous
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["array", "image"])
def test_stores_that_forbid_absent_keys(tmp_path: Path, kind: str, version: Any) -> None:
    if kind == "array":
        zarr.create_array(tmp_path / "m", data=LABELS, zarr_format=version)
    else:
        group = zarr.open_group(tmp_path / "m", mode="w", zarr_format=version)
        group.create_array("0", data=LABELS)
        axes = [{"name": name, "type": "space"} for name in "yx"]
        image = {"axes": axes, "datasets": [{"path": "0"}]}
        group.attrs.update(
            {"multiscales": [image]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [image]}}
        )
    upload(tmp_path / "m", "forbidding://bucket/m")
    if (kind, version) == ("image", 2):  # to Zarr, an absent .zarray is then a store that may not be read
        with pytest.raises(BadInput, match="Forbidden"):
            open_mask("forbidding://bucket/m")
    else:
        np.testing.assert_array_equal(open_mask("forbidding://bucket/m")[WHOLE], LABELS)


def test_metadata_that_were_consolidated_too_early_hide_nothing(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "m.zarr", mode="w")
    group.create_array("first", data=LABELS)
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(group.store)
    zarr.open_group(tmp_path / "m.zarr", mode="r+", use_consolidated=False).create_array("later", data=LABELS)
    with pytest.raises(BadInput, match="pass one of those inside: first, later"):
        open_mask(tmp_path / "m.zarr")


# Sizes that a file declares


def declare(
    path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], fill: int = 0, dtype: str = "uint8"
) -> Path:
    """Write the metadata of a Zarr array, and no chunk."""
    path.mkdir()
    metadata = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": [{"name": "bytes"}],
        "attributes": {},
    }
    (path / "zarr.json").write_text(json.dumps(metadata))
    return path


SIDE = (1 << 32) - 1
HUGE = {
    "one row": ((1, 1 << 31), (1, 64)),
    "one column": ((1 << 31, 1), (1, 1)),
    "a square": ((1 << 31, 1 << 31), (512, 512)),
    "the largest": ((SIDE, SIDE), (1, 1)),
    "one chunk": ((SIDE, SIDE), (SIDE, SIDE)),
}
INFO = """
import sys
from safron.io.masks.cli import main
try:
    main(["info", sys.argv[1]])
finally:
    # Not getrusage: its figure begins with that of the process that started this one.
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(("shape", "chunks"), HUGE.values(), ids=HUGE)
def test_huge_masks_are_counted_by_arithmetic(
    tmp_path: Path, shape: tuple[int, int], chunks: tuple[int, int]
) -> None:
    path = declare(tmp_path / "m.zarr", shape, chunks, fill=3)
    mask = open_mask(path)
    assert mask.shape == shape
    begun = time.process_time()
    assert count_labels(mask) == {3: shape[0] * shape[1]}
    assert time.process_time() - begun < 1
    corner = np.s_[shape[0] - 1 : shape[0], shape[1] - 1 : shape[1]]
    if shape == chunks:  # more than memory can address
        with pytest.raises(Failed, match="cannot read chunk c/0/0"):
            mask[corner]
    else:
        assert mask[corner] == 3


def test_info_of_a_huge_mask_stays_small(tmp_path: Path) -> None:
    path = declare(tmp_path / "m.zarr", (SIDE, SIDE), (1, 1))
    done = subprocess.run(
        [sys.executable, "-c", INFO, str(path)], check=True, capture_output=True, text=True, timeout=60
    )
    assert f"size    {SIDE} x {SIDE} pixels" in done.stdout
    assert "label   0   100.000 %" in done.stdout
    assert int(done.stdout.splitlines()[-1]) < 200 << 10
    assert "hold 1 x 1 pixels each, which makes reading slow; copy it with safron-mask import" in done.stderr


@pytest.mark.parametrize("side", [1 << 32, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 80])
def test_sides_that_no_slide_can_have_are_refused(tmp_path: Path, side: int) -> None:
    path = declare(tmp_path / "m.zarr", (side, 1), (1, 1))
    with pytest.raises(
        BadInput, match=f"declares 1 x {side} pixels .*, and a slide has at most 4294967295 a side"
    ):
        open_mask(path)


def test_what_is_stored_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.zarr"
    array = zarr.create_array(path, shape=(1 << 20, 1 << 20), chunks=(64, 64), dtype="uint8", fill_value=9)
    array[64:128, 640:704] = 1
    array[(1 << 20) - 64 :, (1 << 20) - 64 :] = 2
    (path / "c" / "._0").write_bytes(b"x")
    (path / "c" / "notes.txt").write_bytes(b"x")
    assert count_labels(open_mask(path)) == {1: 4096, 2: 4096, 9: (1 << 40) - 8192}


@pytest.mark.parametrize(
    "options",
    [{}, {"zarr_format": 2}, {"chunks": (16, 16), "shards": (32, 64)}, {"chunk_key_encoding": {"name": "v2", "separator": "."}}],
    ids=["v3", "v2", "shards", "dots"],
)  # fmt: skip
def test_counts_are_those_of_all_pixels(tmp_path: Path, options: dict[str, Any]) -> None:
    array = zarr.create_array(
        tmp_path / "m.zarr",
        shape=LABELS.shape,
        dtype="uint8",
        fill_value=5,
        **({"chunks": (32, 48)} | options),
    )
    array[:64] = LABELS[:64]
    whole = open_mask(tmp_path / "m.zarr")[WHOLE]
    counts = {value: int(count) for value, count in enumerate(np.bincount(whole.ravel())) if count}
    assert count_labels(open_mask(tmp_path / "m.zarr")) == counts
    assert count_labels(open_mask(whole)) == counts


def test_a_fill_value_that_is_no_label_is_named(tmp_path: Path) -> None:
    path = declare(tmp_path / "m.zarr", (1 << 20, 1 << 20), (512, 512), fill=300, dtype="uint16")
    with pytest.raises(BadInput, match="value 300 in all chunks that are not stored"):
        count_labels(open_mask(path))


def test_a_storage_that_is_not_listed_is_not_read_for_ever() -> None:
    array = zarr.create_array({}, shape=(1 << 30, 1 << 30), chunks=(64, 64), dtype="uint8")
    with pytest.raises(BadInput, match=r"in 281474976710656 chunks, more than can be read"):
        count_labels(open_mask(array))


@pytest.mark.parametrize(
    ("shape", "chunks", "told"),
    [((4096, 4096), (1, 1), True), ((4096, 4096), (16, 16), False), ((4096, 40960), (16, 16), True), ((100, 100), (1, 1), False)],
)  # fmt: skip
def test_many_small_chunks_are_told(
    tmp_path: Path, shape: tuple[int, int], chunks: tuple[int, int], told: bool
) -> None:
    notes = open_mask(declare(tmp_path / "m.zarr", shape, chunks)).notes
    assert any("makes reading slow" in note for note in notes) == told


def test_a_mask_of_thousands_of_axes_is_told_in_a_line_that_can_be_read(tmp_path: Path, capfd: Any) -> None:
    declare(tmp_path / "m.zarr", (2,) * 30_000, (1,) * 30_000)
    done = run_program(capfd, mask_main, "info", tmp_path / "m.zarr")
    assert done.code == 2
    assert len(done.error) < 2100
    assert done.error.startswith(f"safron-mask: error: mask {tmp_path}/m.zarr: ")
    assert " ... " in done.error
