"""Generators in ONNX files: which are taken, which are refused and why, and what they return."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx_models import CARD, CONTEXT, TILE, write_onnx
from safron.engine.generator import devices
from safron.engine.generator.contract import check_output
from safron.engine.generator.devices import check_providers, choose_device, providers
from safron.engine.generator.model import IdentityModel, PatchModel, load_model
from safron.engine.generator.onnx_file import OnnxFile
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.shipped import model_names
from safron.io.errors import BadInput, Failed

pytest.importorskip("onnx")

SIDE = TILE + 2 * CONTEXT


def load(path: Path) -> OnnxModel:
    return OnnxModel(path, device="cpu", threads=1)


def some_labels(count: int = 2, side: int = SIDE, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 3, (count, side, side), np.uint8)


def grey(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    inner = labels[:, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT, None].astype(np.float32)
    return np.repeat(60 * inner, 3, axis=3)


def test_runs_a_batch(tmp_path: Path) -> None:
    model, labels = load(write_onnx(tmp_path / "m.onnx", card=CARD)), some_labels()
    assert isinstance(model, PatchModel)
    assert (model.card.name, model.device, model.returns_uint8) == ("tiny", "cpu", False)
    np.testing.assert_array_equal(model(labels, None), grey(labels))


@pytest.mark.parametrize(("count", "tile"), [(1, 64), (5, 64), (3, 128), (1, 16)])
def test_takes_any_batch_and_tile_where_the_file_leaves_them_open(
    tmp_path: Path, count: int, tile: int
) -> None:
    model = load(write_onnx(tmp_path / "m.onnx", card=CARD))
    labels = some_labels(count, tile + 2 * CONTEXT)
    np.testing.assert_array_equal(model(labels, None), grey(labels))


def test_a_model_of_one_size_takes_that_size(tmp_path: Path) -> None:
    model = load(write_onnx(tmp_path / "m.onnx", card=CARD | {"tile": TILE}, side=SIDE))
    np.testing.assert_array_equal(model(some_labels(), None), grey(some_labels()))
    with pytest.raises(Failed, match=r"'tiny' failed on \(1, 40, 40\): .*; see --batch, --device"):
        model(some_labels(1, 40), None)


@pytest.mark.parametrize("count", [1, 4])
def test_a_graph_of_one_batch_size_is_called_as_often_as_needed(tmp_path: Path, count: int) -> None:
    model = load(write_onnx(tmp_path / "m.onnx", card=CARD, count=count))
    for given in (1, 4, 6):
        np.testing.assert_array_equal(model(some_labels(given), None), grey(some_labels(given)))


def test_noise_is_handed_on(tmp_path: Path) -> None:
    card = CARD | {"noise_channels": 2}
    model, labels = load(write_onnx(tmp_path / "m.onnx", card=card, noise=2)), some_labels()
    noise = np.random.default_rng(0).standard_normal((2, 2, SIDE, SIDE)).astype(np.float32)
    inner = noise[:, 0, CONTEXT:-CONTEXT, CONTEXT:-CONTEXT, None]
    np.testing.assert_allclose(model(labels, noise), grey(labels) + inner, rtol=1e-6)


def test_half_precision_is_taken(tmp_path: Path) -> None:
    model = load(write_onnx(tmp_path / "m.onnx", card=CARD, image_type="FLOAT16"))
    image = model(some_labels(), None)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, grey(some_labels()))


@dataclass(frozen=True)
class Refused:
    """A file that breaks the contract, and what the message says of it."""

    says: str
    card: dict[str, Any] | None = field(default_factory=lambda: CARD)
    file: dict[str, Any] = field(default_factory=dict)


REFUSED = [
    Refused("no generator card in it; export it with safron-train, or put m.json beside it", card=None),
    Refused(
        "the generator card is wrong: context is missing",
        card={name: value for name, value in CARD.items() if name != "context"},
    ),
    Refused("input 'labels' must be tensor(uint8), found no such input", file={"label_name": "segmentation"}),
    Refused("input 'labels' must be tensor(uint8), found tensor(float)", file={"label_type": "FLOAT"}),
    Refused(
        "input 'noise' must be tensor(float), found no such input",
        card=CARD | {"noise_channels": 1},
    ),
    Refused("unknown inputs ['noise']", file={"noise": 1}),
    Refused("output 'image' is missing, found ['picture']", file={"image_name": "picture"}),
    Refused("output 'image' must be tensor(float) or tensor(float16)", file={"image_type": "DOUBLE"}),
    Refused(
        "input 'labels' is 296 px wide, its card says tile 64 + 2 x context 4",
        card=CARD | {"tile": 64},
        file={"side": 296},
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.says)
def test_a_file_without_the_contract_is_refused(tmp_path: Path, case: Refused) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=case.card, **case.file)
    with pytest.raises(BadInput) as error:
        load(path)
    assert case.says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x08\x09" * 500], ids=["empty", "text", "bytes"])
def test_what_is_not_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=r"m\.onnx: "):
        load(path)


def test_a_missing_file_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file; give an ONNX file or one of: identity, "):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(BadInput, match="a folder, not a file"):
        load_model(str(tmp_path))


def test_a_card_beside_the_file_wins(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=CARD)
    inside = load(path)
    (tmp_path / "m.json").write_text(json.dumps(CARD | {"name": "beside", "outside": 1}))
    beside = load(path)
    assert (beside.card.name, beside.card.outside) == ("beside", 1)
    assert beside.sha256 != inside.sha256, "a card decides pixels, too"
    (tmp_path / "m.json").write_text(json.dumps(CARD | {"name": "beside", "outside": 2}))
    assert load(path).sha256 != beside.sha256


def test_a_card_beside_the_file_makes_a_foreign_one_work(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "foreign.onnx", crop=0)
    (tmp_path / "foreign.json").write_text(json.dumps(CARD | {"context": 0}))
    labels = some_labels(1, 32)
    np.testing.assert_array_equal(load(path)(labels, None)[..., 0], 60.0 * labels)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"{}", b"not JSON"])
def test_a_broken_card_beside_the_file_is_named(tmp_path: Path, data: bytes) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=CARD)
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(BadInput, match=r"m\.json: .*card"):
        load(path)


def test_travels_without_its_session(tmp_path: Path) -> None:
    model = load(write_onnx(tmp_path / "m.onnx", card=CARD))
    expected = model(some_labels(), None)
    packed = pickle.dumps(model)
    assert len(packed) < 4000
    copy = pickle.loads(packed)
    assert "_session" not in vars(copy)
    assert (copy.card, copy.sha256, copy.device) == (model.card, model.sha256, model.device)
    np.testing.assert_array_equal(copy(some_labels(), None), expected)


def save_apart(path: Path, location: str | None) -> Path:
    """Write a generator with its weights in a file of this name, or for None in a file for each tensor."""
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load(str(write_onnx(path, card=CARD)))
    for tensor in model.graph.initializer:
        if tensor.name in {"scale", "odd"}:
            set_external_data(tensor, location or tensor.name)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("location", ["m.onnx.data", "w.bin", "deep/e.onnx_data", None])
def test_weights_in_other_files_count(tmp_path: Path, location: str | None) -> None:
    (tmp_path / "deep").mkdir()
    path = save_apart(tmp_path / "m.onnx", location)
    before = load(path)
    np.testing.assert_array_equal(before(some_labels(), None), grey(some_labels()))
    weights = tmp_path / (location or "scale")
    weights.write_bytes(weights.read_bytes().replace(np.float32(60).tobytes(), np.float32(61).tobytes()))
    assert load(path).sha256 != before.sha256
    weights.unlink()
    with pytest.raises(
        BadInput, match=rf"m\.onnx: cannot read '{location or 'scale'}'.*; put the file beside it"
    ):
        load(path)


def name_another_folder(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"weights1", b"../w.bin"))
    (path.parent / "weights1").rename(path.parent.parent / "w.bin")


def link_to_another_folder(path: Path) -> None:
    weights = path.parent / "weights1"
    weights.rename(path.parent.parent / "w.bin")
    weights.symlink_to("../w.bin")


def pipe(path: Path) -> None:
    (path.parent / "weights1").unlink()
    os.mkfifo(path.parent / "weights1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (name_another_folder, "'../w.bin', .*lies outside the generator's folder"),
        (link_to_another_folder, "'weights1', .*lies outside the generator's folder"),
        (pipe, "'weights1', .*is a pipe or a device"),
    ],
)
def test_weights_are_read_from_files_of_the_generators_folder_alone(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    (tmp_path / "here").mkdir()
    path = save_apart(tmp_path / "here" / "m.onnx", "weights1")
    change(path)
    with pytest.raises(BadInput, match=f"cannot read {message}.*; put the file beside it"):
        load(path)


def test_a_generator_and_its_weights_may_both_be_links(tmp_path: Path) -> None:
    """As in caches of models, where files are stored under their hashes."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    plain = load(save_apart(tmp_path / "m.onnx", "w.bin"))
    for name in ("m.onnx", "w.bin"):
        (tmp_path / name).rename(tmp_path / "blobs" / name)
        (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{name}")
    assert load(tmp_path / "snapshot" / "m.onnx").sha256 == plain.sha256


def test_a_file_that_no_weights_are_in_does_not_count(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=CARD)
    before = load(path).sha256
    (tmp_path / "m.onnx.data").write_bytes(b"of another generator")
    assert load(path).sha256 == before


def test_every_place_of_weights_is_found() -> None:
    """In branches, functions, lists and sparse tensors; and other words called location are no place."""
    import onnx
    from onnx import helper

    def apart(name: str) -> onnx.TensorProto:
        tensor = onnx.TensorProto(name="t", data_type=1, dims=[1], data_location=1)
        for key, value in (("offset", "0"), ("location", name), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    sparse = onnx.SparseTensorProto(values=apart("values"), indices=apart("indices"), dims=[1])
    branch = helper.make_graph([helper.make_node("Constant", [], ["b"], value=apart("branch"))], "b", [], [])
    function = helper.make_function(
        "own", "F", [], ["f"], [helper.make_node("Constant", [], ["f"], value=apart("function"))], []
    )
    nodes = [
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch),
        helper.make_node("Own", [], ["o"], tensors=[apart("list"), apart("Lücke")], graphs=[branch]),
        helper.make_node("Constant", [], ["s"], sparse_value=sparse),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [apart("first"), apart("first"), apart("second")])
    model = helper.make_model(graph, functions=[function])
    helper.set_model_props(model, {"location": "nowhere"})
    expected = ["Lücke", "branch", "first", "function", "indices", "list", "second", "values"]
    assert OnnxFile.parse(model.SerializeToString()).locations == tuple(sorted(expected))


@pytest.mark.parametrize("data", [b"\x08", b"\x3a\x05ab", b"\x3b\x01", b"\xff" * 20, b"\x3a\x02\x2a\x09"])
def test_what_is_no_message_has_no_places(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"end|fields of a graph"):
        OnnxFile.parse(data)
    path = tmp_path / "m.onnx"
    path.write_bytes(data + b"location")
    with pytest.raises(BadInput, match=r"m\.onnx: not an ONNX file"):
        load(path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    one = load(write_onnx(tmp_path / "one.onnx", card=CARD))
    same = load(write_onnx(tmp_path / "same.onnx", card=CARD))
    other = load(write_onnx(tmp_path / "other.onnx", card=CARD | {"licence": "MIT"}))
    assert one.sha256 == same.sha256 != other.sha256


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9, -300.0])
def test_wild_values_are_refused(value: float) -> None:
    card = IdentityModel(context=CONTEXT, tile=TILE).card
    image = np.full((1, TILE, TILE, 3), 100, np.float32)
    image[0, 5, 6, 1] = value
    with pytest.raises(Failed, match=r"returned values .*the contract wants RGB in 0\.\.255"):
        check_output(image, some_labels(1), card)


@pytest.mark.parametrize("shape", [(1, 3, TILE, TILE), (1, SIDE, SIDE, 3), (2, TILE, TILE, 3), (1, TILE)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    card = IdentityModel(context=CONTEXT, tile=TILE).card
    with pytest.raises(Failed, match=r"the contract wants \(1, 64, 64, 3\)"):
        check_output(np.zeros(shape, np.float32), some_labels(1), card)


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_cuda_may_start", lambda: True)
    names = ["auto", "cpu", "cuda", "cuda:0", "cuda:3"]
    assert [choose_device(name) for name in names] == ["cuda:0", "cpu", "cuda:0", "cuda:0", "cuda:3"]
    monkeypatch.setattr(devices, "_cuda_may_start", lambda: False)
    assert (choose_device("auto"), choose_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(BadInput, match="--device cuda:1: no CUDA device or driver found; use --device cpu"):
        choose_device("cuda:1")


@pytest.mark.parametrize("device", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1", "CPU", "auto:1"])
@pytest.mark.parametrize("model", ["identity", "safron-seamless"])
def test_other_devices_are_refused(device: str, model: str) -> None:
    with pytest.raises(BadInput, match=rf"--device {device}: must be auto, cpu, cuda or cuda:N"):
        load_model(model, device=device)


def test_models_by_name() -> None:
    assert model_names()[0] == "identity"
    assert isinstance(load_model("identity"), IdentityModel)
    given = IdentityModel(tile=32)
    assert load_model(given) is given


def test_identity_paints_labels_inside_the_context() -> None:
    palette = {0: (1, 2, 3), 7: (4, 5, 6)}
    model = IdentityModel(palette, tile=8, context=2)
    labels = np.zeros((2, 12, 12), np.uint8)
    labels[1, 2, 9] = 7
    image = model(labels)
    assert (image.shape, image.dtype) == ((2, 8, 8, 3), np.uint8)
    assert (image[1, 0, 7] == (4, 5, 6)).all()
    image[1, 0, 7] = (1, 2, 3)
    assert (image == (1, 2, 3)).all()


@pytest.mark.parametrize("noise", [0, 2])
def test_patches_on_a_cpu_do_not_depend_on_batch_or_threads(tmp_path: Path, noise: int) -> None:
    """Nor on who else calls at the same time."""
    scales = {"noise_channels": noise, "noise_scales": [1] * noise}
    path = write_onnx(tmp_path / "m.onnx", card=CARD | scales, noise=noise)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (9, SIDE, SIDE)).astype(np.uint8)
    fields = rng.standard_normal((9, noise, SIDE, SIDE), np.float32) if noise else None
    one, four = (OnnxModel(path, device="cpu", threads=threads) for threads in (1, 4))
    whole = one(labels, fields)
    for start in range(9):
        part = slice(start, start + 1)
        assert np.array_equal(four(labels[part], None if fields is None else fields[part])[0], whole[start])
    with ThreadPoolExecutor(3) as pool:
        assert all(np.array_equal(image, whole) for image in pool.map(four, [labels] * 6, [fields] * 6))


@pytest.mark.parametrize("crop", [CONTEXT - 1, CONTEXT + 1])
def test_patches_of_another_size_than_the_card_says_are_refused(tmp_path: Path, crop: int) -> None:
    """ONNX Runtime writes them where the engine wants them, and must not write beyond."""
    path, side = write_onnx(tmp_path / "m.onnx", card=CARD, crop=crop), SIDE - 2 * crop
    with pytest.raises(Failed, match=rf"returned \(1, {side}, {side}, 3\) for .* the contract wants"):
        load(path)(some_labels())


@pytest.mark.parametrize(
    ("precision", "device", "message"),
    [
        ("half", "cpu", "--precision half: must be one of float32, bfloat16, auto, tf32, float16"),
        ("tf32", "cpu", "--precision tf32: only CUDA computes in it; leave it out, or --device cuda"),
        ("float16", "cpu", "--precision float16: only CUDA computes in it"),
    ],
)
def test_precision_refused(tmp_path: Path, precision: str, device: str, message: str) -> None:
    path = write_onnx(tmp_path / "m.onnx", card=CARD)
    with pytest.raises(BadInput, match=f"^{message}"):
        OnnxModel(path, device=device, precision=precision)


def test_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert providers("cpu", "float32", "f" * 64) == ["CPUExecutionProvider"]
    assert providers("cuda:1", "float32", "f" * 64)[0] == (
        "CUDAExecutionProvider",
        {"device_id": 1, "use_tf32": 0},
    )
    assert providers("cuda:0", "tf32", "f" * 64)[0][1]["use_tf32"] == 1
    name, settings = providers("cuda:2", "float16", "f" * 64)[0]
    assert (name, settings["device_id"]) == ("TensorrtExecutionProvider", 2)
    assert Path(settings["trt_engine_cache_path"]) == tmp_path / "safron" / "tensorrt" / ("f" * 16)
    assert Path(settings["trt_engine_cache_path"]).is_dir()


@pytest.mark.parametrize(
    ("loaded", "precision", "message"),
    [
        (["CPUExecutionProvider"], "float32", "could not start CUDA"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "float16", "could not start TensorRT"),
    ],
)
def test_a_silent_fallback_is_refused(loaded: list[str], precision: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_providers(loaded, "cuda:0", precision)


@pytest.mark.parametrize("name", model_names())
def test_every_shipped_generator_loads(name: str) -> None:
    """Also with the oldest ONNX Runtime that setup.cfg allows: `make test-lowest` runs this file."""
    assert load_model(name, device="cpu").card.name
