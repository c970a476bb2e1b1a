"""A generator refines a picture: it reads RGB as it reads labels, window by window."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import pyvips
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from masks import blobs
from models import RampModel
from onnx_models import CARD
from plans import expected as whole_render
from safron.engine import render
from safron.engine.evaluation.overlap_mismatch import measure_mismatch
from safron.engine.generator.card import InitialImage
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.pictures import InitialPicture, Picture, open_picture
from safron.engine.plan.window import Window
from safron.engine.virtual.slide import VirtualSlide
from safron.io.errors import BadInput, Failed
from safron.io.masks.open import open_mask
from safron.io.masks.write_nuclei import multiscale

UInt8 = npt.NDArray[np.uint8]


class Refiner(RampModel):
    """The ramp, faintly, upon the mean of a picture's pixel and two at the context's distance."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.card = replace(self.card, initial=InitialImage())
        self.windows = 0

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        picture, c = planes["initial"], self.card.context
        assert picture.shape == (len(labels), 3, *labels.shape[1:])
        assert picture.dtype == np.uint8
        self.windows += len(labels)
        far = picture[:, :, : -2 * c, : -2 * c].astype(np.float32) + picture[:, :, 2 * c :, 2 * c :]
        mean = (picture[:, :, c:-c, c:-c] + far) / np.float32(3)
        return np.float32(0.9) * mean.transpose(0, 2, 3, 1) + np.float32(0.1) * super().__call__(
            labels, noise
        )


def colours(height: int, width: int) -> UInt8:
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_zarr(path: Path, rgb: UInt8, chunk: int = 50) -> Path:
    zarr.create_array(str(path), shape=rgb.shape, chunks=(chunk, chunk + 7, 3), dtype="uint8")[:] = rgb
    return path


def around(rgb: UInt8, read: Window, far: int) -> UInt8:
    """A window of the canvas that goes on with its nearest pixels: [3, h, w]."""
    padded = np.pad(rgb, ((far, far), (far, far), (0, 0)), mode="edge")
    return padded[read.shift(far, far).slices()].transpose(2, 0, 1)


@given(y=st.integers(-19, 58), x=st.integers(-19, 68), height=st.integers(20, 50), width=st.integers(20, 50))
def test_a_window_of_a_picture_goes_on_with_its_nearest_pixels(
    y: int, x: int, height: int, width: int
) -> None:
    rgb = colours(59, 69)
    picture = Picture((59, 69), lambda window: rgb[window.slices()])
    window = Window(y, x, height, width)
    assert np.array_equal(picture.around(window), around(rgb, window, 80))


def test_every_kind_of_file_gives_the_same_pixels(tmp_path: Path) -> None:
    rgb = colours(130, 171)
    save_zarr(tmp_path / "a.zarr", rgb)
    planes = zarr.create_array(
        str(tmp_path / "b.zarr"), shape=(1, 3, 1, 130, 171), chunks=(1, 1, 1, 64, 64), dtype="uint8"
    )
    planes[:] = rgb.transpose(2, 0, 1)[None, :, None]
    group = zarr.create_group(str(tmp_path / "c.zarr"))
    scale = {"path": "full", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
    axes = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}, {"name": "c", "type": "channel"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [scale]}]}
    group.create_array("full", shape=rgb.shape, chunks=(40, 171, 1), dtype="uint8")[:] = rgb
    tifffile.imwrite(tmp_path / "d.tiff", rgb, tile=(64, 64), photometric="rgb")
    cv2.imwrite(str(tmp_path / "e.png"), rgb[..., ::-1])
    window = Window(-7, 100, 120, 90)
    for name in ("a.zarr", "b.zarr", "c.zarr", "d.tiff", "e.png"):
        picture = open_picture(str(tmp_path / name))
        assert picture.shape == (130, 171), name
        assert np.array_equal(picture.around(window), around(rgb, window, 80)), name


def test_a_render_equals_the_oracle_however_it_is_cut(tmp_path: Path) -> None:
    mask, rgb, model, tile, overlap = blobs(230, 270, cell=17), colours(230, 270), Refiner(), 64, 20
    far = 80
    expected = whole_render(
        mask, model, tile=tile, overlap=overlap, planes=lambda read: {"initial": around(rgb, read, far)}
    )
    image, digests = save_zarr(tmp_path / "initial.zarr", rgb), set()
    for block, workers, batch in ((None, 1, 1), (128, 3, 4)):
        out = tmp_path / f"{block}.tiff"
        report = render(
            mask, out, model=model, image=image, overlap=overlap, compression="none", block=block, workers=workers,
            batch=batch, tiff_tile=64, mpp=1.0,
        )  # fmt: skip
        assert np.array_equal(np.asarray(tifffile.imread(out, level=0)), expected)
        assert "initial" in report.stages
        assert report.options["image"] == str(image)
        digests.add(report.digest)
    assert len(digests) == 1
    with tifffile.TiffFile(out) as tif:
        assert "Initial image = initial.zarr " in tif.pages[0].description


def test_a_picture_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    mask, rgb = blobs(60, 70, cell=17), colours(60, 70)
    image = save_zarr(tmp_path / "a.zarr", rgb)
    options: dict[str, Any] = {"image": image, "compression": "none", "tiff_tile": 64, "mpp": 1.0}
    first = render(mask, tmp_path / "1.tiff", model=Refiner(), **options)
    zarr.open_array(str(image))[:] = 255 - rgb
    second = render(mask, tmp_path / "2.tiff", model=Refiner(), **options)
    assert first.digest != second.digest
    before, after = (np.asarray(tifffile.imread(tmp_path / f"{n}.tiff", level=0), float) for n in (1, 2))
    assert np.abs(before - after).mean() > 10


class Tired(Refiner):
    """Ends after some patches."""

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        if self.windows > 30:
            raise Failed("tired")
        return super().__call__(labels, noise, **planes)


def test_a_render_goes_on_with_the_same_picture_only(tmp_path: Path) -> None:
    mask, rgb = blobs(230, 270, cell=17), colours(230, 270)
    image, other = save_zarr(tmp_path / "a.zarr", rgb), save_zarr(tmp_path / "b.zarr", 255 - rgb)
    options: dict[str, Any] = {"block": 128, "compression": "none", "tiff_tile": 64, "workers": 1, "mpp": 1.0}
    whole = render(mask, tmp_path / "whole.tiff", model=Refiner(), image=image, **options)
    out = tmp_path / "s.tiff"
    with pytest.raises(Failed):
        render(mask, out, model=Tired(), image=image, **options)
    with pytest.raises(BadInput, match="image"):
        render(mask, out, model=Refiner(), image=other, **options)
    made = render(mask, out, model=Refiner(), image=image, **options)
    assert made.resumed > 0
    assert made.digest == whole.digest


def write_refiner(path: Path, *, initial: bool = True) -> Path:
    """Write a generator that halves a picture's values, or says so and takes none."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    fixed = {
        "starts": np.array([4, 4], np.int64),
        "ends": np.array([-4, -4], np.int64),
        "axes": np.array([2, 3], np.int64),
        "half": np.array(0.5, np.float32),
        "zero": np.array(0, np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["labels"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["values", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "one"], ["flat"]),
        helper.make_node("Cast", ["initial"], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["colours", "flat"], ["both"]),
        helper.make_node("Mul", ["both", "half"], ["halved"]),
        helper.make_node("Slice", ["halved", "starts", "ends", "axes"], ["inner"]),
        helper.make_node("Transpose", ["inner"], ["image"], perm=[0, 2, 3, 1]),
    ]
    inputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "h", "w"]),
        helper.make_tensor_value_info("initial", TensorProto.UINT8, ["n", 3, "h", "w"]),
    ]
    output = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "y", "x", 3])
    tensors = [numpy_helper.from_array(value, name) for name, value in fixed.items()]
    graph = helper.make_graph(nodes, "refiner", inputs, [output], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    labels = [label | {"fill": None} for label in CARD["labels"]]
    labels = [{name: value for name, value in label.items() if value is not None} for label in labels]
    card = CARD | {"labels": labels, "mpp": 0.5} | ({"initial": {}} if initial else {})
    helper.set_model_props(model, {"safron": json.dumps(card)})
    onnx.save(model, str(path))
    return path


@pytest.mark.usefixtures("forked")
def test_an_onnx_file_refines(tmp_path: Path) -> None:
    model = write_refiner(tmp_path / "r.onnx")
    mask, rgb = blobs(150, 130, cell=9), colours(150, 130)
    image = save_zarr(tmp_path / "i.zarr", rgb)
    options: dict[str, Any] = {
        "model": model,
        "image": image,
        "compression": "none",
        "tiff_tile": 64,
        "mpp": 0.5,
    }
    made = render(mask, tmp_path / "s.tiff", **options)
    slide = np.asarray(tifffile.imread(tmp_path / "s.tiff", level=0))
    assert np.array_equal(slide, np.rint(rgb * 0.5).astype(np.uint8))
    measured = measure_mismatch(OnnxModel(model), open_mask(mask), tile=64, overlap=20)
    assert measured is not None
    assert measured.largest == 0
    saved = zarr.create_array(str(tmp_path / "m.zarr"), shape=mask.shape, chunks=(64, 64), dtype="uint8")
    saved[:] = mask
    apart = render(str(tmp_path / "m.zarr"), tmp_path / "p.tiff", executor="processes", workers=1, **options)
    assert apart.digest == made.digest


def test_a_picture_made_up_from_the_position() -> None:
    source = InitialPicture("", "")
    whole, part = source.read(Window(-5, -5, 60, 60)), source.read(Window(10, 20, 30, 20))
    assert np.array_equal(whole[:, 15:45, 25:45], part)
    assert part.dtype == np.uint8
    assert part.std() > 5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": None}, "generator 'tiny' refines an image; give one of the mask's size with image"),
        ({"image": "gone.zarr"}, "image .*gone.zarr: there is no such file or folder"),
        ({"image": "small.zarr"}, "has 120 x 100 px, the mask 130 x 150; both must be of one size"),
        ({"image": "grey.zarr"}, "holds 150 x 130 of uint8; a picture has three channels of 8 bits"),
        ({"image": "grey.png"}, "grey.png: has one channel; a picture has three channels of 8 bits"),
        ({"image": "seen-through.png"}, "seen-through.png: has one channel; a picture has three channels"),
        ({"image": "deep.png"}, "deep.png: has one channel of ushort; colours of 8 bits are needed"),
        ({"image": "nuclei.zarr"}, "a picture has three channels .*; there is .*nuclei.zarr/image"),
        ({"image": "group.zarr"}, "this Zarr group is not an OME-Zarr image"),
        ({"image": "text.png"}, "cannot read it as a slide or image"),
        ({"image": "folder"}, "image .*folder: this folder is not a Zarr; give a Zarr, a slide or an image"),
        ({"image": "turned.zarr"}, "axis x comes before y; a picture's rows come first"),
        ({"image": "s3://bucket/image"}, "is read from this machine only"),
        ({"mpp": 1.0}, "have different pixel sizes, and an image is not resampled"),
        ({"model": "identity"}, "generator 'identity' takes no image; leave it out, or choose a refiner"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    save_zarr(tmp_path / "good.zarr", colours(150, 130))
    save_zarr(tmp_path / "small.zarr", colours(100, 120))
    zarr.create_array(str(tmp_path / "grey.zarr"), shape=(150, 130), dtype="uint8")
    nuclei = zarr.create_group(str(tmp_path / "nuclei.zarr"), attributes={"ome": multiscale("class", None)})
    for name, channels in (("class", ()), ("image", (3,))):
        nuclei.create_array(name, shape=(150, 130, *channels), dtype="uint8")
    grey = np.full((150, 130), 200, np.uint8)
    pyvips.Image.new_from_array(grey).pngsave(str(tmp_path / "grey.png"))
    both = pyvips.Image.new_from_array(np.stack([grey, grey], axis=-1), interpretation="b-w")
    both.pngsave(str(tmp_path / "seen-through.png"))
    cv2.imwrite(str(tmp_path / "deep.png"), grey.astype(np.uint16) * 257)
    zarr.create_group(str(tmp_path / "group.zarr"))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "folder").mkdir()
    names = ("x", "y", "c")
    zarr.create_array(
        str(tmp_path / "turned.zarr"), shape=(150, 130, 3), dtype="uint8", dimension_names=names
    )
    options = {
        "model": write_refiner(tmp_path / "r.onnx"),
        "image": tmp_path / "good.zarr",
        "mpp": 0.5,
    } | change
    if isinstance(options["image"], str) and "://" not in options["image"]:
        options["image"] = tmp_path / options["image"]
    with pytest.raises(BadInput, match=says) as caught:
        render(blobs(150, 130, cell=9), tmp_path / "s.tiff", **options)
    assert "\n" not in str(caught.value)


def test_a_slide_does_not_replace_the_picture_that_it_is_made_from(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tiff", colours(60, 70), photometric="rgb")
    image = save_zarr(tmp_path / "a.zarr", colours(60, 70))
    with pytest.raises(BadInput, match=r"a.tiff: is the image itself; give another name"):
        render(
            blobs(60, 70, cell=9),
            tmp_path / "a.tiff",
            model=Refiner(),
            image=tmp_path / "a.tiff",
            overwrite=True,
        )
    with pytest.raises(BadInput, match=r"s.tiff: lies in the image .*a.zarr; choose another folder"):
        render(blobs(60, 70, cell=9), image / "s.tiff", model=Refiner(), image=image)


def test_card_and_graph_must_agree(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown inputs \\['initial'\\]"):
        OnnxModel(write_refiner(tmp_path / "r.onnx", initial=False))


def test_a_virtual_slide_refines(tmp_path: Path) -> None:
    mask, rgb = blobs(100, 120, cell=9), colours(100, 120)
    options: dict[str, Any] = {"model": write_refiner(tmp_path / "r.onnx"), "mpp": 0.5}
    with VirtualSlide(mask, image=save_zarr(tmp_path / "i.zarr", rgb), **options) as slide:
        shown = np.asarray(slide.read_region((30, 20), 0, (50, 40)))[..., :3]
    assert np.array_equal(shown, np.rint(rgb[20:60, 30:80] * 0.5).astype(np.uint8))
    with pytest.raises(BadInput, match="refines an image; give one of the mask's size with image"):
        VirtualSlide(mask, **options)
