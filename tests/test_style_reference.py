"""A generator draws in the style of a reference, or in one that varies over the slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from masks import blobs
from models import RampModel
from plans import expected as whole_render
from safron.engine import render
from safron.engine.generator.card import Style, StyleEncoder
from safron.engine.generator.style_field import StyleField
from safron.engine.plan.window import Window
from safron.engine.preparation.style_reference import reference_style
from safron.engine.preparation.styles import choose_style
from safron.io.errors import BadInput

ONE = Style(("red", "green", "blue"), (10.0, 20.0, 30.0))
FIELD = msgspec.structs.replace(ONE, field=True)


class Styled(RampModel):
    """The ramp, a little, upon the style."""

    def __init__(self, style: Style, path: Path | None = None) -> None:
        super().__init__()
        self.card = replace(self.card, style=style)
        if path is not None:
            self.path = path

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        style, c = planes["style"], self.card.context
        assert style.dtype == np.float32
        assert self.card.style is not None
        if self.card.style.field:
            assert style.shape == (len(labels), 3, *labels.shape[1:])
            colour = style[:, :, c:-c, c:-c].transpose(0, 2, 3, 1)
        else:
            assert style.shape == (len(labels), 3)
            colour = style[:, None, None]
        return colour + np.float32(0.2) * super().__call__(labels, noise)


def field_of(
    values: npt.NDArray[np.float32], shape: tuple[int, int], y: int, x: int
) -> npt.NDArray[np.float64]:
    """The style of one pixel, by the words of `style_field`."""
    place = []
    for at, pixels, points in ((y, shape[0], values.shape[1]), (x, shape[1], values.shape[2])):
        position = min(max((at + 0.5) / pixels * points - 0.5, 0), points - 1)
        low = min(int(position), max(0, points - 2))
        place.append((low, min(low + 1, points - 1), position - low))
    (up, down, dy), (left, right, dx) = place
    wide = values.astype(np.float64)
    return np.asarray(
        (1 - dy) * ((1 - dx) * wide[:, up, left] + dx * wide[:, up, right])
        + dy * ((1 - dx) * wide[:, down, left] + dx * wide[:, down, right])
    )


def save_field(path: Path, *, channels: int = 3, shape: tuple[int, int] = (3, 4)) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(2).uniform(0, 200, (channels, *shape)).astype(np.float32)
    zarr.create_array(str(path), shape=values.shape, dtype="float32")[:] = values
    return values


@pytest.mark.parametrize("shape", [(3, 4), (1, 5), (1, 1)])
def test_a_field_is_interpolated_between_its_points(tmp_path: Path, shape: tuple[int, int]) -> None:
    values = save_field(tmp_path / "f.zarr", shape=shape)
    canvas = (61, 83)
    source = StyleField(str(tmp_path / "f.zarr"), (0.0,) * 3, canvas, "")
    whole = source.read(Window(-6, -6, 73, 95))
    for y, x in ((-6, -6), (0, 0), (9, 10), (10, 11), (30, 40), (60, 82), (66, 88), (31, 3)):
        assert np.allclose(whole[:, y + 6, x + 6], field_of(values, canvas, y, x), atol=1e-3)
    assert np.array_equal(source.read(Window(20, -3, 9, 30)), whole[:, 26:35, 3:33])


def rendered(tmp_path: Path, model: Any, style: Any, planes: Any) -> None:
    """Compare renders, however they are cut, with the oracle."""
    mask, tile, overlap = blobs(150, 190, cell=17), 64, 20
    expected = whole_render(mask, model, tile=tile, overlap=overlap, planes=planes)
    digests = set()
    for block, workers in ((None, 1), (128, 3)):
        out = tmp_path / f"{block}.tiff"
        report = render(
            mask,
            out,
            model=model,
            style=style,
            compression="none",
            block=block,
            workers=workers,
            tiff_tile=64,
            mpp=1.0,
        )
        assert np.array_equal(np.asarray(tifffile.imread(out, level=0)), expected)
        digests.add(report.digest)
    assert len(digests) == 1
    with tifffile.TiffFile(out) as tif:
        assert ("Style = " in tif.pages[0].description) == (style is not None)


def test_a_render_in_a_field_equals_the_oracle(tmp_path: Path) -> None:
    save_field(tmp_path / "f.zarr")
    source = StyleField(str(tmp_path / "f.zarr"), (0.0,) * 3, (150, 190), "")
    rendered(tmp_path, Styled(FIELD), str(tmp_path / "f.zarr"), lambda read: {"style": source.read(read)})


@pytest.mark.parametrize("style", [ONE, FIELD])
def test_a_render_in_one_style_equals_the_oracle(tmp_path: Path, style: Style) -> None:
    vector = np.array(ONE.default, np.float32)

    def planes(read: Window) -> dict[str, Any]:
        if not style.field:
            return {"style": vector}
        return {"style": np.broadcast_to(vector[:, None, None], (3, read.height, read.width))}

    rendered(tmp_path, Styled(style), None, planes)


def write_encoder(path: Path) -> None:
    """Write an encoder whose style is the mean colour."""
    import onnx
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["image"], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["colours"], ["style"], axes=[2, 3], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 3, "h", "w"])]
    outputs = [helper.make_tensor_value_info("style", TensorProto.FLOAT, ["n", 3])]
    graph = helper.make_graph(nodes, "encoder", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))


def slide(path: Path, *, height: int = 300, width: int = 500) -> npt.NDArray[np.uint8]:
    """Glass with tissue of one colour in a corner."""
    rgb = np.full((height, width, 3), 245, np.uint8)
    rgb[20:200, 260:480] = (200, 110, 170)
    cv2.imwrite(str(path), rgb[..., ::-1])
    return rgb


def test_the_style_of_a_reference_is_that_of_its_tissue(tmp_path: Path) -> None:
    write_encoder(tmp_path / "g-style.onnx")
    slide(tmp_path / "ref.png")
    vector = reference_style(StyleEncoder("g-style.onnx", 50), tmp_path, str(tmp_path / "ref.png"))
    assert np.allclose(vector, (200, 110, 170), atol=15)
    model = Styled(
        msgspec.structs.replace(ONE, encoder=StyleEncoder("g-style.onnx", 50)), tmp_path / "g.onnx"
    )
    assert choose_style(model.card, str(tmp_path / "ref.png"), tmp_path).style.default == vector  # type: ignore[union-attr]
    rendered(tmp_path, model, str(tmp_path / "ref.png"), lambda read: {"style": np.array(vector, np.float32)})


@pytest.mark.parametrize(
    ("style", "path", "says"),
    [
        (
            ONE,
            "glass.png",
            "no square of 50 px with 50 % tissue was found; give a reference with more tissue",
        ),
        (ONE, "ink.png", "no square of 50 px with 50 % tissue"),
        (ONE, "tiny.png", "no square of 50 px"),
        (ONE, "text.png", "cannot read it as a slide or image"),
        (ONE, "ref.png", "g-style.onnx: the generator's style encoder is missing"),
        (FIELD, "wide.zarr", "its vectors have 4 numbers, those of generator 'ramp' 3"),
        (FIELD, "nan.zarr", "has values that are not finite"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, style: Style, path: str, says: str) -> None:
    cv2.imwrite(str(tmp_path / "glass.png"), np.full((200, 200, 3), 244, np.uint8))
    cv2.imwrite(str(tmp_path / "ink.png"), np.full((200, 200, 3), (45, 38, 42), np.uint8))
    cv2.imwrite(str(tmp_path / "tiny.png"), np.full((20, 20, 3), 99, np.uint8))
    (tmp_path / "text.png").write_text("no picture")
    slide(tmp_path / "ref.png")
    save_field(tmp_path / "wide.zarr", channels=4)
    save_field(tmp_path / "nan.zarr")
    zarr.open_array(str(tmp_path / "nan.zarr"))[0, 0, 0] = np.nan
    if path != "ref.png":
        write_encoder(tmp_path / "g-style.onnx")
    model = Styled(
        msgspec.structs.replace(style, encoder=StyleEncoder("g-style.onnx", 50)), tmp_path / "g.onnx"
    )
    with pytest.raises(BadInput, match=says) as caught:
        render(blobs(100, 100, cell=9), tmp_path / "s.tiff", model=model, style=str(tmp_path / path))
    assert "\n" not in str(caught.value)


def test_an_encoder_lies_beside_its_generator() -> None:
    with pytest.raises(ValueError, match="must be a name without folders"):
        StyleEncoder("../style.onnx", 50)
