"""What the exported graph holds, in both precisions and for both networks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("scipy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from safron.engine.generator.onnx_model import OnnxModel  # noqa: E402
from safron.io.errors import BadInput, Failed  # noqa: E402
from safron.training import export, train  # noqa: E402
from safron.training.cli import main  # noqa: E402
from safron.training.config.settings import PRESETS, TrainConfig, preset  # noqa: E402
from safron.training.graphs import open_graph  # noqa: E402
from safron.training.half_precision import beyond_float16  # noqa: E402
from safron.training.networks import PaperGenerator, make_generator, pixel_norm  # noqa: E402
from torch import nn  # noqa: E402

SEAMLESS = replace(
    PRESETS["safron-seamless"],
    model=replace(PRESETS["safron-seamless"].model, widths=(8, 8, 16, 8, 8), tile=64),
)
FORBIDDEN = {"BatchNormalization", "InstanceNormalization", "Dropout", "RandomNormal", "RandomNormalLike"}


def settled(network: nn.Module) -> nn.Module:
    """Give frozen norms statistics that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.05, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.normal_(module.weight, 1, 0.2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
    return network


def write(config: TrainConfig, out: Path, **options: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    network = settled(make_generator(config.model))
    if config.model.network == "paper":
        with torch.no_grad():  # the paper's first weights paint grey, on which no difference would show
            for module in network.modules():
                if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                    module.weight *= 64 / config.model.base / 4
    return export.export(network, config, out, steps=0, trained_on="nothing", **options)


def walk(path: Path) -> list[Any]:
    nodes = list(onnx.load(path).graph.node)
    for node in nodes:
        assert node.op_type not in FORBIDDEN, node.name
        assert not any(item.name == "training_mode" for item in node.attribute), node.name
        assert node.domain == "", node.name
    return nodes


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
def test_the_seamless_graph(tmp_path: Path, float16: bool) -> None:
    out = tmp_path / "m.onnx"
    card = write(SEAMLESS, out, float16=float16)
    nodes = walk(out)
    assert card["precision"] == ("float16" if float16 else "float32")
    assert card["parity_max_abs"] < 255 * (1e-2 if float16 else 1e-3)
    assert card["overlap_mismatch"] < 1e-6
    weights = {item.name: item.data_type for item in onnx.load(out).graph.initializer}
    # The exporter stores equal arrays once, as the biases of a fresh network are.
    shared = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Identity"}
    names = [name for node in nodes if node.op_type == "Conv" for name in node.input[1:]]
    convs = [weights[shared.get(name, name)] for name in names]
    assert set(convs) == {TensorProto.FLOAT16 if float16 else TensorProto.FLOAT}
    model = OnnxModel(out, device="cpu", threads=1)  # the engine's own check of the contract
    labels = np.random.default_rng(0).integers(0, 3, (2, 104, 104), np.uint8)
    noise = np.random.default_rng(1).standard_normal((2, 5, 104, 104)).astype(np.float32)
    image = model(labels, noise)
    assert (image.dtype, image.shape) == (np.float32, (2, 64, 64, 3))
    assert json.loads(json.dumps(model.card.extra))["precision"] == card["precision"]


def test_half_the_file_and_nearly_the_picture(tmp_path: Path) -> None:
    write(SEAMLESS, tmp_path / "whole.onnx")
    card = write(SEAMLESS, tmp_path / "half.onnx", float16=True)
    assert 0 < card["parity_max_abs"] < 2.55
    whole, half = ((tmp_path / name).stat().st_size for name in ("whole.onnx", "half.onnx"))
    assert half < 0.75 * whole  # of this small network; names and card weigh as much as half its weights


def test_a_float16_file_that_is_too_far_off_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FLOAT16_LIMIT", 1e-7)
    with pytest.raises(Failed, match="nothing was written; export in float32"):
        write(SEAMLESS, tmp_path / "m.onnx", float16=True)
    assert list(tmp_path.iterdir()) == []


def test_the_papers_graph_has_its_norms_folded(tmp_path: Path) -> None:
    """At full depth: PyTorch's exporter folds the norms behind convolutions, not those behind transposed ones."""
    out = tmp_path / "paper.onnx"
    config = PRESETS["safron"]
    card = write(replace(config, model=replace(config.model, base=8)), out)
    nodes = walk(out)
    assert sum(node.op_type == "ConvTranspose" for node in nodes) == 8
    assert card["parity_max_abs"] < 0.255


@pytest.mark.parametrize("float16", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("skips", [True, False], ids=["skips", "no skips"])
def test_the_papers_graph_in_small(tmp_path: Path, skips: bool, float16: bool) -> None:
    config = preset("safron", "tiny")
    config = replace(config, model=replace(config.model, skips=skips))
    out = tmp_path / "paper.onnx"
    card = write(config, out, float16=float16)
    walk(out)
    assert card["parity_max_abs"] < 255 * (1e-2 if float16 else 1e-3)
    labels = np.random.default_rng(0).integers(0, 3, (3, 24, 24), np.uint8)
    image = OnnxModel(out, device="cpu", threads=1)(labels)
    assert (image.dtype, image.shape) == (np.float32, (3, 16, 16, 3))
    assert image.std() > 1


@pytest.mark.parametrize(
    ("name", "context"),
    [("safron-seamless", 20), ("safron", 20), ("safron", 4), ("safron", 1), ("safron", 0)],
)
def test_background_fades_into_its_fill(tmp_path: Path, name: str, context: int) -> None:
    """A patch that is all background is filled without a call: no straight line may show where it meets another."""
    config = preset(name, "tiny")
    if name == "safron":
        config = replace(
            config, model=replace(config.model, context=context, tile=64, levels=6, alignment=64)
        )
    tile = 64
    write(config, tmp_path / "m.onnx")
    model = OnnxModel(tmp_path / "m.onnx", device="cpu", threads=1)
    labels = np.full((1, tile + 2 * context, tile + 2 * context), 2, np.uint8)
    labels[:, :, : 32 + context] = 0  # of the patch's columns 0 to 31
    noise = np.random.default_rng(0).standard_normal((1, 5, *labels.shape[1:])).astype(np.float32)
    image = (model(labels, noise) if config.model.noise_scales else model(labels))[0]
    fill = np.array(config.model.labels[0].fill)
    reach = min(4, context)  # of the window in which background is measured
    assert np.abs(image[:, : 32 - reach] - fill).max() < 1e-3
    assert np.abs(image[:, 32:] - fill).max() > 10
    if reach == 4:  # a share of 0.8 of nine columns is reached between the second and the third
        steps = np.abs(np.diff(image.mean(axis=(0, 2))))[26:31]
        assert steps.max() < np.abs(image[:, 31].mean(axis=0) - fill).mean()


@pytest.mark.parametrize("skips", [True, False], ids=["skips", "no skips"])
def test_folding_keeps_the_function(skips: bool) -> None:
    config = replace(preset("safron", "tiny").model, skips=skips)
    torch.manual_seed(0)
    network = settled(make_generator(config)).eval()
    assert isinstance(network, PaperGenerator)
    folded = network.folded()
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    one_hot = torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        made, expected = folded(one_hot), network(one_hot)
    assert expected.std() > 1e-4
    np.testing.assert_allclose(made, expected, atol=1e-6, rtol=1e-4)


def test_a_graph_that_keeps_a_norm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaperGenerator, "folded", lambda self: self)
    with pytest.raises(Failed, match=r"which belongs in training; nothing was written"):
        write(preset("safron", "tiny"), tmp_path / "m.onnx")


def test_squares_stay_in_float32(tmp_path: Path) -> None:
    """A value of 1000 squares to infinity in float16; its mean square must not."""
    x = torch.tensor([1000.0, -2000, 3000, 1]).view(1, 4, 1, 1)
    half = pixel_norm(x.half())
    assert half.dtype == torch.float16
    np.testing.assert_allclose(half.float(), pixel_norm(x), rtol=2e-3, atol=1e-3)
    # In the file, too: nothing that is squared or averaged is a half.
    write(SEAMLESS, tmp_path / "half.onnx", float16=True)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "half.onnx")).graph
    kinds = {item.name: item.type.tensor_type.elem_type for item in graph.value_info}
    squares = [
        node
        for node in graph.node
        if node.op_type in ("ReduceMean", "Pow") or len({*node.input}) == 1 < len(node.input)
    ]
    assert len(squares) >= 4
    assert {kinds[name] for node in squares for name in node.output} == {TensorProto.FLOAT}


def test_values_beyond_float16_are_found_although_the_picture_is_right() -> None:
    """One node multiplies by 1e4 and the next by 1e-4: ONNX Runtime keeps float32 between them on a CPU."""
    half = TensorProto.FLOAT16
    nodes = [
        helper.make_node("Mul", ["x", "up"], ["much"], "up"),
        helper.make_node("Mul", ["much", "down"], ["y"]),
    ]
    factors = [
        numpy_helper.from_array(np.float16(value), name) for name, value in (("up", 1e4), ("down", 1e-4))
    ]
    ends = (helper.make_tensor_value_info(name, half, [3]) for name in ("x", "y"))
    graph = helper.make_graph(nodes, "g", *([end] for end in ends), factors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    window = {"x": np.array([1, 6, 100], np.float16)}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, window)[0], window["x"], rtol=1e-2)
    assert beyond_float16(model, [{"x": np.ones(3, np.float16)}, window]) == "Mul up"
    assert beyond_float16(model, [{"x": np.ones(3, np.float16)}]) is None


def test_a_float16_file_with_such_values_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "beyond_float16", lambda graph, windows: f"Conv of {len(list(windows))}")
    with pytest.raises(Failed, match=r"Conv of 2 gives values beyond 65504, .*; export in float32"):
        write(SEAMLESS, tmp_path / "m.onnx", float16=True)
    assert list(tmp_path.iterdir()) == []


EXPORTS = [
    ["export", "checkpoint.pt"],
    ["export-random"],
    ["export-diffusion", "checkpoint.pt"],
    ["export-mask-model", "checkpoint.pt"],
    ["export-refiner", "refiner.pt", "tiles"],
]


@pytest.mark.parametrize("command", EXPORTS, ids=lambda command: command[0])
def test_no_export_replaces_what_exists(
    command: list[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before the checkpoint is read, which is none here."""
    (here / "mine.onnx").write_text("mine")
    (here / "checkpoint.pt").write_text("mine too")
    (here / "link.onnx").symlink_to("nowhere")
    for name, messages in (
        ("mine.onnx", ("mine.onnx: exists already; pass --overwrite",)),
        ("link.onnx", ("link.onnx: exists already; pass --overwrite",)),
        ("checkpoint.pt", ("checkpoint.pt: is CHECKPOINT itself", "checkpoint.pt: must end in .onnx")),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*command, name])
        said = capsys.readouterr().err
        assert ended.value.code == 2
        assert any(message in said for message in messages)
    assert (here / "mine.onnx").read_text() == "mine"
    assert (here / "checkpoint.pt").read_text() == "mine too"
    assert (here / "link.onnx").is_symlink()


def test_threads_do_not_spin_while_they_wait(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(export, "open_graph", lambda graph: opened.append(open_graph(graph)) or opened[-1])
    export.export_fresh(preset("safron-seamless", "tiny"), here / "g.onnx")
    (session,) = opened
    assert session.get_session_options().get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_an_export_may_be_replaced(here: Path) -> None:
    (here / "g.onnx").write_text("mine")
    config = preset("safron-seamless", "tiny")
    with pytest.raises(BadInput, match="exists already"):
        export.export_fresh(config, here / "g.onnx")
    export.export_fresh(config, here / "g.onnx", overwrite=True)
    name = OnnxModel(here / "g.onnx", device="cpu").card.name
    assert name == "random-safron-seamless", "not that of the one that ships"


@pytest.mark.parametrize("kind", ["file", "link"])
@pytest.mark.parametrize("command", [["fit", "data"], ["diffusion", "data"]], ids=lambda command: command[0])
def test_a_training_needs_a_folder(
    command: list[str], kind: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "data").mkdir()
    (here / "run").write_text("mine") if kind == "file" else (here / "run").symlink_to("nowhere")
    with pytest.raises(SystemExit) as ended:
        main([*command, "run", "--steps", "1"])
    assert ended.value.code == 2
    assert "give the name of a folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes with names")
def test_weights_to_start_with_are_looked_at_before_the_data(here: Path) -> None:
    os.mkfifo("pipe.onnx")
    config = preset("safron-seamless", "tiny")
    for name, message in (("pipe.onnx", "is a pipe or a device"), ("none.onnx", "No such file")):
        with pytest.raises(BadInput, match=message):
            train.fit(here / "no data", here / "run", config, train.Schedule(1), start=Path(name))
