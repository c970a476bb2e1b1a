"""A graph gets a card that works, and a wrong card is told all its faults at once."""

from __future__ import annotations

import gzip
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import exit_code
from onnx_models import ADAPTED, CARD, write_foreign, write_onnx
from safron.engine import render
from safron.engine.generator.card import parse_card
from safron.engine.generator.draft import card_faults, draft_card
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator_cli import main
from safron.io.errors import BadInput

pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("here")


run = partial(exit_code, main)


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 3}, {"channels": 3, "layout": "nhwc"}, {"channels": 5}, {"channels": 1}, {"channels": 3, "noise": 2},
        {"channels": 3, "side": "s"}, {"channels": 1, "flat": True},
    ],
    ids=str,
)  # fmt: skip
def test_a_foreign_graph_gets_a_card_that_works(
    options: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_foreign(Path("m.onnx"), **options)
    Path("m.json").unlink(missing_ok=True)
    assert run("draft", "m.onnx") == 0
    said = capsys.readouterr().out
    assert "fill in   licence" in said
    assert "range [-1, 1]" in said
    card = OnnxModel(path, device="cpu", threads=1).card
    assert card.context == 0
    assert card.adapter is not None
    expected = {1: "labels", 3: "rgb", 5: "one_hot"}[options["channels"]]
    assert card.adapter.input.kind == expected
    assert len(card.noise_scales) == options.get("noise", 0)
    assert run("check", "m.onnx") == 0
    said = capsys.readouterr().out
    assert "m.onnx: can be used" in said
    assert "licence is not on the card" in said
    render(np.ones((70, 90), np.uint8), "s.tiff", model="m.onnx", mpp=1.0, workers=1, overlap=4, scale="1")


@pytest.mark.parametrize("kind", ["FLOAT", "UINT8"])
def test_a_graph_of_colours_is_called_with_colours(kind: str) -> None:
    """Where the values of the picture reach with the input that the card says."""
    import onnx
    from onnx import TensorProto, helper

    shape, whole = [1, 3, 64, 64], getattr(TensorProto, kind)
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", whole, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, "colours.onnx")
    adapter = draft_card(Path("colours.onnx")).card["adapter"]
    values = [-1, 1] if kind == "FLOAT" else [0, 255]
    assert (adapter["input"]["range"], adapter["output"]["range"]) == (values, values)


def test_a_graph_of_the_contract_needs_no_adapter() -> None:
    path = write_onnx(Path("m.onnx"), card=None, noise=2)
    card = draft_card(path).card
    assert "adapter" not in card
    Path("m.json").write_text(json.dumps(card))
    model = OnnxModel(path, device="cpu", threads=1)
    assert (model.card.context, len(model.card.noise_scales)) == (CARD["context"], 2)


def test_all_faults_of_a_card_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_foreign(Path("m.onnx"))
    wrong = {**ADAPTED, "mpp": -1, "outside": 99, "noise_channels": 2, "noise_scales": [1], "licence": ["x"]}
    del wrong["context"]
    Path("m.json").write_text(json.dumps(wrong))
    assert run("check", path) == 2
    said = capsys.readouterr()
    for part in ("context is missing", "mpp -1", "outside 99", "noise_scales [1]", "licence"):
        assert part in said.out, part
    assert "5 fields are wrong" in said.err
    assert card_faults(json.dumps(ADAPTED), "x") == []
    assert len(card_faults("{", "x")) == 1


GOOD = json.dumps(ADAPTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            GOOD.encode("utf-16"),
            "cannot be read as a generator card (it is not UTF-8, but UTF-16 or no text)",
        ),
        (GOOD.replace("somebody", "j\u00e9r\u00f4me").encode("latin-1"), "cannot be read as"),
        (gzip.compress(GOOD.encode())[:-9], "cannot be read as a generator card"),
        (b"[" * 100_000 + b"]" * 100_000, "cannot be read as JSON"),
        (b" " * (1 << 21), "is larger than 1 MiB"),
        (json.dumps(ADAPTED | {"tile": 2**70}).encode(), "must be 1 to 32768 pixels|wants"),
    ],
    ids=["utf-16", "latin-1", "cut", "deep", "large", "tile"],
)
def test_a_card_beside_that_is_no_text_is_one_line(
    content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_foreign(Path("m.onnx"), side="s")
    Path("m.json").write_bytes(content)
    assert run("check", "m.onnx") == 2
    said = capsys.readouterr()
    assert re.search("|".join(map(re.escape, message.split("|"))), said.err + said.out)
    assert len(said.err.splitlines()) == 1


def test_a_card_may_begin_with_a_byte_order_mark(capsys: pytest.CaptureFixture[str]) -> None:
    write_foreign(Path("m.onnx"))
    said = []
    for coding in ("utf-8", "utf-8-sig"):
        Path("m.json").write_bytes(GOOD.encode(coding))
        assert run("check", "m.onnx") == 0
        said.append(capsys.readouterr())
    assert "m.onnx: can be used" in said[0].out
    assert said[1] == said[0]
    Path("m.json").write_text(f"x{GOOD}")
    assert run("check", "m.onnx") == 2


def test_the_shipped_generator_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "safron-seamless") == 0
    said = capsys.readouterr().out
    assert "0 background, 1 stroma, 2 gland" in said
    assert "note" not in said


def test_a_card_is_printed_with_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(Path("m.onnx"), card=CARD)
    assert run("card", "m.onnx") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["reach"], shown["licence"], shown["guides"], shown["alignment"]) == (4, "CC0", None, 1)
    wide = CARD | {"guides": {"classes": [2]}, "edges": {"of": "labels"}}
    assert parse_card(json.dumps(wide), source="x").reach == 4 + 2 * 64 + 16 + 1
    assert run("card", "none.onnx") == 2


def test_what_is_no_generator_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.onnx").write_bytes(b"no graph")
    for name, message in (("x.onnx", "ONNX Runtime cannot load it"), ("none.onnx", "no such file")):
        assert run("draft", name) == 2
        assert message in capsys.readouterr().err
        assert not Path(name).with_suffix(".json").exists()
    write_foreign(Path("m.onnx"))
    Path("m.json").write_text("mine")
    assert run("draft", "m.onnx") == 2
    with pytest.raises(BadInput):
        draft_card(Path())
    assert Path("m.json").read_text() == "mine"


def test_a_graph_with_a_card_gets_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(Path("m.onnx"), card=CARD)
    assert run("draft", "m.onnx") == 2
    assert "has a card in its metadata already" in capsys.readouterr().err
    assert not Path("m.json").exists()
