"""Networks made elsewhere: a card beside the file is enough to render with them."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from onnx_models import ADAPTED, TILE, write_foreign
from oracle import render_whole
from safron.engine import render
from safron.engine.generator.adapter import encode_labels
from safron.engine.generator.card import Card, parse_card
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.plan.grid import PatchGrid
from safron.engine.plan.render_plan import choose_bits
from safron.engine.plan.taper import Taper
from safron.io.errors import BadInput, Failed

pytest.importorskip("onnx")

COLORS = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.float32)


def card_with(**changes: Any) -> dict[str, Any]:
    """`ADAPTED` with fields of its adapter changed: input_kind="labels"; None takes one out."""
    card = copy.deepcopy(ADAPTED)
    for place, value in changes.items():
        part, _, name = place.partition("_")
        holder = card["adapter"][part] if part in ("input", "output") and name else card
        if part == "adapter":
            holder = card["adapter"]
        name = name if part in ("input", "output", "adapter") and name else place
        if value is None:
            holder.pop(name, None)
        else:
            holder[name] = value
    return card


def load(path: Path) -> OnnxModel:
    return OnnxModel(path, device="cpu", threads=1)


def some_labels(count: int = 2, side: int = TILE, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, (count, side, side), np.uint8)


class ByHand:
    """The same network called as its makers would: RGB in -1..1 in, an image in -1..1 out, one at a time."""

    device = "cpu"
    returns_uint8 = False

    def __init__(self, path: Path, card: Card, crop: int = 0) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.card, self.crop = card, crop

    def __call__(self, labels: Any, noise: Any = None) -> Any:
        images = []
        for window in labels:
            colors = COLORS[window] / 127.5 - 1
            (image,) = self.session.run(["B"], {"A": colors.transpose(2, 0, 1)[None]})
            far = image.shape[2] - self.crop
            images.append(image[0, :, self.crop : far, self.crop : far].transpose(1, 2, 0))
        return (np.stack(images) + 1) * np.float32(127.5)


@pytest.mark.parametrize(("context", "crop"), [(0, 0), (8, 8)], ids=["no context", "context cut off"])
def test_pix2pix_renders_with_a_card_beside_it(tmp_path: Path, context: int, crop: int) -> None:
    """Fixed batch of one, NCHW, RGB in -1..1: pixel-equal to the oracle around a call by hand."""
    tile = TILE - 2 * crop
    path = write_foreign(
        tmp_path / "pix2pix.onnx", card=card_with(tile=tile, context=context, output_crop=crop)
    )
    mask = np.zeros((150, 210), np.uint8)
    mask[20:130, 10:200] = 1
    mask[50:90, 60:140] = 2
    render(
        mask, tmp_path / "s.tiff", model=path, overlap=12, taper="linear", compression="deflate", device="cpu"
    )
    by_hand = ByHand(path, load(path).card, crop)
    grid, taper = PatchGrid(*mask.shape, tile, 12, context), Taper("linear")
    expected = render_whole(
        mask,
        by_hand,
        tile=tile,
        overlap=12,
        weights=taper.weights(tile=tile, overlap=12),
        bits=choose_bits(grid, taper, returns_uint8=False),
    )
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "s.tiff", level=0), expected)
    assert expected.std() > 10


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    one = load(write_foreign(tmp_path / "one.onnx", card=ADAPTED, count=1))
    four = load(write_foreign(tmp_path / "four.onnx", card=ADAPTED, count=4))
    any_ = load(write_foreign(tmp_path / "any.onnx", card=ADAPTED, count="n"))
    labels = some_labels(6)
    expected = any_(labels)
    assert expected.shape == (6, TILE, TILE, 3)
    for model in (one, four):
        np.testing.assert_allclose(model(labels), expected, atol=1e-3)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("kind", ["one_hot", "rgb"])
def test_layouts_and_kinds_mean_the_same(tmp_path: Path, kind: str, layout: str) -> None:
    """One-hot 0..1 is the palette in 0..255 with its channels in another order: blue, red, green."""
    path = write_foreign(tmp_path / "m.onnx", layout=layout, count="n")
    card = card_with(input_kind=kind, input_range=[0, 1], input_layout=layout, output_layout=layout)
    if kind == "one_hot":
        card["labels"] = [card["labels"][k] for k in (1, 2, 0)]
    path.with_suffix(".json").write_text(json.dumps(card))
    labels = some_labels()
    reference = write_foreign(tmp_path / "r.onnx", card=card_with(input_range=[0, 1]), count="n")
    np.testing.assert_allclose(load(path)(labels), load(reference)(labels), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "flat"), [("INT64", True), ("UINT8", False), ("INT32", True), ("FLOAT", False)]
)
def test_plain_labels_go_in_as_they_are(tmp_path: Path, kind: str, flat: bool) -> None:
    card = card_with(input_kind="labels", input_range=None)
    path = write_foreign(tmp_path / "m.onnx", card=card, channels=1, kind=kind, flat=flat, count="n")
    reference = write_foreign(tmp_path / "r.onnx", card=card, channels=1, kind="FLOAT", count="n")
    labels = some_labels()
    image = load(path)(labels)
    np.testing.assert_array_equal(image, load(reference)(labels))
    assert len(np.unique(image)) > 100


def test_whole_number_colours_are_exact(tmp_path: Path) -> None:
    """A range of 0..255 in uint8: no colour may be cut down to the number below."""
    card = card_with(input_range=[0, 255])
    card["labels"][1]["color"] = [219, 87, 151]
    model = load(write_foreign(tmp_path / "m.onnx", card=card, kind="UINT8", count="n"))
    sent = encode_labels(np.ones((1, 2, 2), np.uint8), model.card, np.uint8, 4)
    assert sent[0, :, 0, 0].tolist() == [219, 87, 151]


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("UINT8", 255, 0), ("INT32", -1, 1), ("INT64", -(2**40), 2**40)]
)
def test_whole_numbers_are_sent_whole(tmp_path: Path, kind: str, low: int, high: int) -> None:
    card = card_with(input_range=[low, high])
    model = load(write_foreign(tmp_path / "m.onnx", card=card, kind=kind, count="n"))
    dtype = {"UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64}[kind]
    sent = encode_labels(np.full((1, 2, 2), 2, np.uint8), model.card, dtype, 4)
    assert sent[0, :, 0, 0].tolist() == [low, high, low]


def test_noise_of_whole_numbers_is_refused(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    card = card_with(adapter_noise="z", noise_channels=1)
    path = write_foreign(tmp_path / "m.onnx", card=card, noise=1)
    model = onnx.load(str(path))
    (given,) = [entry for entry in model.graph.input if entry.name == "z"]
    given.type.tensor_type.elem_type = TensorProto.INT32
    (concat,) = [node for node in model.graph.node if node.op_type == "Concat"]
    concat.input[1] = "real"
    model.graph.node.insert(0, helper.make_node("Cast", ["z"], ["real"], to=TensorProto.FLOAT))
    onnx.save(model, str(path))
    with pytest.raises(BadInput, match=r"noise 'z' is tensor\(int32\), and noise is not a whole number"):
        load(path)


def test_noise_goes_in_under_its_name(tmp_path: Path) -> None:
    card = card_with(adapter_noise="z", noise_channels=2)
    model = load(write_foreign(tmp_path / "m.onnx", card=card, noise=2, count=1))
    labels, rng = some_labels(), np.random.default_rng(0)
    noise = rng.standard_normal((2, 2, TILE, TILE)).astype(np.float32)
    first, second = model(labels, noise), model(labels, noise[::-1])
    assert np.abs(first - second).max() > 1
    np.testing.assert_array_equal(first[0], model(labels[:1], noise[:1])[0])


def test_the_adapter_is_part_of_the_generators_hash(tmp_path: Path) -> None:
    one = load(write_foreign(tmp_path / "m.onnx", card=ADAPTED)).sha256
    assert load(write_foreign(tmp_path / "m.onnx", card=card_with(output_range=[0, 1]))).sha256 != one


@dataclass(frozen=True)
class Wrong:
    """A card that does not fit, and what the message says."""

    says: str
    card: dict[str, Any]
    file: dict[str, Any] | None = None


WRONG = [
    Wrong("adapter [] must be an object with input, output, noise", card_with() | {"adapter": []}),
    Wrong("unknown name 'adapter.scale'; known are input, output, noise", card_with(adapter_scale=1)),
    Wrong("adapter.input 'A' must be an object with name, kind, layout, range", card_with(adapter_input="A")),
    Wrong("unknown name 'adapter.input.shape'; known are name", card_with(input_shape=[1])),
    Wrong("adapter.input.name is missing; it must be a name in the graph", card_with(input_name=None)),
    Wrong("adapter.input.kind 'onehot' must be 'labels', 'one_hot' or 'rgb'", card_with(input_kind="onehot")),
    Wrong("adapter.input.kind is missing; it must be 'labels'", card_with(input_kind=None)),
    Wrong("adapter.input.layout 'chw' must be 'nchw' or 'nhwc'", card_with(input_layout="chw")),
    Wrong("adapter.input: range None must be two different numbers", card_with(input_range=None)),
    Wrong("adapter.input: range [1, 1] must be two different numbers", card_with(input_range=[1, 1])),
    Wrong("adapter.input.range '-1..1' must be two different numbers", card_with(input_range="-1..1")),
    Wrong("adapter.input: range is for kinds one_hot and rgb", card_with(input_kind="labels")),
    Wrong("adapter.output.name 3 must be a name in the graph", card_with(output_name=3)),
    Wrong("adapter.output.layout 'NCHW' must be 'nchw'", card_with(output_layout="NCHW")),
    Wrong("adapter.output.range is missing; it must be two different numbers", card_with(output_range=None)),
    Wrong("adapter.output.range[1] nan must be a finite number", card_with(output_range=[0, float("nan")])),
    Wrong("adapter.output.crop -1 must be a whole number, at least 0", card_with(output_crop=-1)),
    Wrong("adapter.output.crop True must be a whole number", card_with(output_crop=True)),
    Wrong("adapter.noise '' must be a name in the graph", card_with(adapter_noise="")),
]
UNFIT = [
    Wrong("adapter input is 'mask', the graph has ['A']", card_with(input_name="mask")),
    Wrong("adapter output is 'image', the graph has ['B']", card_with(output_name="image")),
    Wrong("adapter noise is 'z', the graph has ['A']", card_with(adapter_noise="z", noise_channels=1)),
    Wrong("inputs ['z'] are not in its card's adapter", card_with(), {"noise": 1}),
    Wrong("give both or neither", card_with(adapter_noise="z"), {"noise": 1}),
    Wrong("give both or neither", card_with(noise_channels=1)),
    Wrong("'A' has shape [1, 5, 64, 64], its card", card_with(input_kind="one_hot"), {"channels": 5}),
    Wrong("wants ['n', 3, 64, 64]", card_with(), {"channels": 5}),
    Wrong("wants ['n', 64, 64, 3]", card_with(input_layout="nhwc")),
    Wrong("'B' has shape [1, 3, 64, 64]", card_with(output_layout="nhwc")),
    Wrong("'A' has shape [1, 3, 256, 256]", card_with(), {"side": 256}),
    Wrong("(tile 64, context 4, 3 labels, crop 0) wants", card_with(context=4)),
    Wrong("'z' has shape [1, 3, 64, 64]", card_with(adapter_noise="z", noise_channels=2), {"noise": 3}),
    Wrong(
        "'A' takes uint8 and its card's adapter input range [-1, 1] gives -1", card_with(), {"kind": "UINT8"}
    ),
    Wrong(
        "'A' takes int64 and its card's adapter input range [0, 1] gives 0.2",
        card_with(input_range=[0, 1]) | {"labels": [{"value": 0, "name": "grey", "color": [51, 0, 255]}]},
        {"kind": "INT64"},
    ),
    Wrong("[0, 256] gives 256", card_with(input_range=[0, 256]), {"kind": "UINT8"}),
    Wrong("[0, 0.5] gives 0.5", card_with(input_kind="one_hot", input_range=[0, 0.5]), {"kind": "INT32"}),
    Wrong("'A' is tensor(bool), which no adapter takes", card_with(), {"kind": "BOOL"}),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.says)
def test_a_wrong_field_is_named(case: Wrong) -> None:
    with pytest.raises(BadInput) as error:
        parse_card(json.dumps(case.card), source="m.json")
    message = str(error.value)
    assert message.startswith("m.json: the generator card is wrong: ")
    assert case.says in message
    assert "\n" not in message


@pytest.mark.parametrize("case", UNFIT, ids=lambda case: case.says)
def test_a_card_that_does_not_fit_its_graph_is_refused(tmp_path: Path, case: Wrong) -> None:
    path = write_foreign(tmp_path / "m.onnx", card=case.card, **(case.file or {}))
    with pytest.raises(BadInput) as error:
        load(path)
    message = str(error.value)
    assert case.says in message
    assert message.startswith(f"--model {path}: ")
    assert "\n" not in message


def test_what_a_dynamic_graph_hides_shows_at_the_first_call(tmp_path: Path) -> None:
    card = card_with(context=4)
    model = load(write_foreign(tmp_path / "m.onnx", card=card, side="side", count="n"))
    with pytest.raises(Failed, match=r"returned \(1, 72, 72, 3\) .* the contract wants \(1, 64, 64, 3\)"):
        model(some_labels(1, TILE + 8))


def test_a_wrong_output_range_shows_at_the_first_call(tmp_path: Path) -> None:
    model = load(write_foreign(tmp_path / "m.onnx", card=card_with(output_range=[-0.1, 0.1])))
    with pytest.raises(Failed, match=r"returned values .*wants RGB in 0\.\.255"):
        model(some_labels(1))
