"""A card that says that tiles of several sizes will do is held to it, and so is a graph that takes any number of patches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx_models import CARD, CONTEXT, TILE
from safron.engine.generator_cli import commands
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.prepare import prepare
from safron.io.errors import BadInput

SIDE = TILE + 2 * CONTEXT
Nodes = Sequence[tuple[str, Sequence[str], dict[str, Any]]]


def write_pooling(path: Path, nodes: Nodes, *, count: int | str = "n", **card: Any) -> Path:
    """Write a generator of 60 times the label, plus 60 times what `nodes` make of the labels.

    Parameters
    ----------
    nodes : operator, inputs and attributes, one after the other; "last" is what the one before makes.
    count : of patches.
    card : fields that differ.
    """
    fixed = {
        "starts": np.array([CONTEXT, CONTEXT], np.int64),
        "ends": np.array([-CONTEXT, -CONTEXT], np.int64),
        "axes": np.array([2, 3], np.int64),
        "one": np.array([1], np.int64),
        "sixty": np.array([60, 60, 60], np.float32).reshape(3, 1, 1),
        "patch": np.array([1, 1, SIDE, SIDE], np.int64),
        "sides": np.array([2, 3], np.int64),
        "batch": np.array([0], np.int64),
        "scale": np.array([1], np.float32),
        "places": np.arange(SIDE) // 8 * 8,
    }
    made = [
        helper.make_node("Cast", ["labels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float", "one"], ["plane"]),
        helper.make_node("Shape", ["plane"], ["size"]),
    ]
    last = "plane"
    for index, (kind, inputs, attributes) in enumerate(nodes):
        made.append(
            helper.make_node(
                kind, [last if one == "last" else one for one in inputs], [f"made{index}"], **attributes
            )
        )
        last = f"made{index}"
    made += [
        helper.make_node("Add", ["plane", last], ["both"]),
        helper.make_node("Slice", ["both", "starts", "ends", "axes"], ["inner"]),
        helper.make_node("Mul", ["inner", "sixty"], ["first"]),
        helper.make_node("Transpose", ["first"], ["image"], perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        made,
        "pooling",
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [count, "h", "w"])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [count, "r", "c", 3])],
        [numpy_helper.from_array(value, name) for name, value in fixed.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"safron": json.dumps(CARD | {"mpp": 1.0} | card)})
    onnx.save(model, str(path))
    return path


def cells(side: int, mode: str = "linear") -> Nodes:
    """Means of squares, enlarged to the size of the labels again."""
    square = {"kernel_shape": [side, side], "strides": [side, side]}
    return [("AveragePool", ["last"], square), ("Resize", ["last", "", "", "size"], {"mode": mode})]


FIRST: Nodes = [("Gather", ["last", "places"], {"axis": 2})]
NEAR = ("AveragePool", ["last"], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]})
SAME_PLACE = (
    r"draws the same place up to \d+(\.\d+)? grey levels otherwise in tiles of 32 than in tiles of 64"
)


def dry_run(model: Path, **options: Any) -> Any:
    mask = np.ones((100, 100), np.uint8)
    return prepare(
        mask,
        model.with_suffix(".tiff"),
        RenderOptions(model=model, device="cpu", mpp=1.0, **options),
        dry_run=True,
    )


@pytest.mark.parametrize(
    "nodes",
    [cells(SIDE // 4), cells(SIDE // 6), cells(SIDE // 2), cells(SIDE // 4, "nearest")],
    ids=["4", "6", "2", "4 nearest"],
)
def test_pools_of_the_size_that_was_traced_are_refused(tmp_path: Path, nodes: Nodes) -> None:
    model = write_pooling(tmp_path / "baked.onnx", nodes)
    with pytest.raises(BadInput, match=SAME_PLACE) as error:
        dry_run(model)
    assert "any multiple of 16 will do; export it again" in str(error.value)
    assert '"tile": 64 into its card' in str(error.value)


@pytest.mark.parametrize("nodes", [[("Reshape", ["last", "patch"], {})], FIRST], ids=["shape", "index"])
def test_a_graph_that_fails_at_another_size_is_refused(tmp_path: Path, nodes: Nodes) -> None:
    with pytest.raises(
        BadInput, match=r"fails in tiles of 32 \(.*\), though its card says that any multiple of 16"
    ):
        dry_run(write_pooling(tmp_path / "baked.onnx", nodes))


@pytest.mark.parametrize("nodes", [cells(SIDE // 4), cells(SIDE)])
def test_one_size_may_be_traced_where_the_card_says_so(tmp_path: Path, nodes: Nodes) -> None:
    dry_run(write_pooling(tmp_path / "baked.onnx", nodes, tile=TILE))


@pytest.mark.parametrize(
    "nodes",
    [
        [NEAR],
        cells(8),
        [NEAR] * 30,  # sees 30 pixels far, beyond its context, and zeros beyond the window
        [("ReduceMean", ["last", "sides"], {})],
        [("GlobalAveragePool", ["last"], {})],
        [("InstanceNormalization", ["last", "scale", "scale"], {})],
    ],
    ids=["near", "small cells", "far", "mean", "global pool", "norm"],
)
@pytest.mark.parametrize("count", ["n", 1, 2])
def test_what_follows_the_size_is_taken(tmp_path: Path, nodes: Nodes, count: int | str) -> None:
    dry_run(write_pooling(tmp_path / "honest.onnx", nodes, count=count))


def test_a_tile_with_no_smaller_multiple_is_tried_twice_as_large(tmp_path: Path) -> None:
    only = {"multiple_of": TILE, "default": TILE}
    dry_run(write_pooling(tmp_path / "honest.onnx", [NEAR], tile=only))
    with pytest.raises(BadInput, match="in tiles of 64 than in tiles of 128"):
        dry_run(write_pooling(tmp_path / "baked.onnx", cells(SIDE // 2), tile=only))


@pytest.mark.parametrize("tile", [CARD["tile"], TILE])
def test_a_patch_that_depends_on_others_of_its_call_is_refused(tmp_path: Path, tile: Any) -> None:
    model = write_pooling(tmp_path / "batch.onnx", [("ReduceMean", ["last", "batch"], {})], tile=tile)
    with pytest.raises(
        BadInput, match=r"up to \d+ grey levels otherwise beside another in one call than alone"
    ):
        dry_run(model)


def test_a_call_of_two_patches_must_not_fail(tmp_path: Path) -> None:
    model = write_pooling(tmp_path / "batch.onnx", [("Reshape", ["last", "patch"], {})], tile=TILE)
    with pytest.raises(
        BadInput, match="fails for two patches in a call, though its graph leaves their number free"
    ):
        dry_run(model)
    dry_run(write_pooling(tmp_path / "one.onnx", [("Reshape", ["last", "patch"], {})], tile=TILE, count=1))


def test_check_says_so_in_a_line(tmp_path: Path) -> None:
    bad = write_pooling(tmp_path / "baked.onnx", cells(SIDE // 4))
    outcome = CliRunner().invoke(commands, ["check", str(bad)])
    assert isinstance(outcome.exception, BadInput)
    assert "grey levels otherwise in tiles of 32" in str(outcome.exception)
    good = write_pooling(tmp_path / "honest.onnx", [NEAR])
    assert "can be used" in CliRunner().invoke(commands, ["check", str(good)]).output
