"""Every field of a generator's card has a rule, and a card that breaks one is refused by its name."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from onnx_models import CARD
from safron.engine.generator.card import Card, Label, parse_card
from safron.engine.generator.model import IdentityModel, load_model
from safron.engine.generator.shipped import MODELS
from safron.io.errors import BadInput

SOURCE = "models/tiny.onnx"


def parse(**changes: Any) -> Card:
    """The tiny card with some fields changed; None takes a field out."""
    fields = {name: value for name, value in (CARD | changes).items() if value is not None}
    return parse_card(json.dumps(fields), source=SOURCE)


def test_reads_every_field() -> None:
    card = parse(
        alignment=4,
        outside=2,
        noise_channels=2,
        noise_scales=[1, 32],
        mpp=0.5,
        trained_on="CRAG",
        norm="batch",
    )
    assert card == Card(
        name="tiny",
        tile=64,
        tile_multiple=16,
        context=4,
        alignment=4,
        labels=(
            Label(0, "background", (0, 0, 255), fill=(240, 241, 242)),
            Label(1, "stroma", (255, 0, 0)),
            Label(2, "gland", (0, 255, 0)),
        ),
        outside=2,
        noise_scales=(1, 32),
        mpp=0.5,
        version="3",
        licence="CC0",
        trained_on="CRAG",
    )
    assert card.extra == {"norm": "batch"}


def test_leaves_out_what_has_a_default() -> None:
    labels = [{"value": 5, "name": "tissue", "color": [1, 2, 3]}]
    card = parse_card(
        json.dumps({"name": "least", "tile": 256, "context": 0, "labels": labels}), source=SOURCE
    )
    assert (card.tile, card.tile_multiple, card.alignment, card.outside) == (256, None, 1, None)
    assert (card.noise_scales, card.mpp, card.licence) == ((), None, "unknown")


def test_what_hands_write_is_taken() -> None:
    """A number where text belongs, a pixel size in quotes."""
    card = parse(version=2, mpp="0.5", labels=label(name=7))
    assert (card.version, card.mpp, card.labels[0].name) == ("2", 0.5, "7")


def test_noise_channels_are_white_where_no_scale_is_given() -> None:
    assert parse(noise_channels=3).noise_scales == (1, 1, 1)


@dataclass(frozen=True)
class Broken:
    """Fields that break a rule, and what the message says of it."""

    fields: dict[str, Any]
    says: str


def label(**changes: Any) -> list[dict[str, Any]]:
    fields = {"value": 1, "name": "stroma", "color": [255, 0, 0]} | changes
    return [{name: value for name, value in fields.items() if value is not None}]


BROKEN = [
    Broken({"name": None}, "name is missing; it must be text"),
    Broken({"tile": None}, "tile is missing; it must be a whole number, at least 1"),
    Broken({"context": None}, "context is missing"),
    Broken({"labels": None}, "labels is missing; it must be a list of objects with value, name, color, fill"),
    Broken({"tile": 0}, "tile 0 must be a whole number, at least 1"),
    Broken({"tile": 256.5}, "tile 256.5 must be a whole number"),
    Broken({"tile": "256"}, "tile '256' must be a whole number"),
    Broken({"tile": {"default": 256}}, "tile.multiple_of is missing"),
    Broken({"tile": {"multiple_of": 0}}, "tile.multiple_of 0 must be a whole number, at least 1"),
    Broken({"tile": {"multiple_of": 16, "default": 100}}, "tile: default 100 must be a multiple of 16"),
    Broken({"context": -1}, "context -1 must be a whole number, at least 0"),
    Broken({"context": True}, "context True must be a whole number"),
    Broken({"alignment": 0}, "alignment 0 must be a whole number, at least 1"),
    Broken(
        {"labels": []},
        "labels must be one or more, of distinct values, not []",
    ),
    Broken({"labels": label() + label()}, "labels must be one or more, of distinct values, not [1, 1]"),
    Broken({"labels": [1, 2]}, "labels[0] 1 must be an object with value, name, color, fill"),
    Broken({"labels": 3}, "labels 3 must be a list of objects"),
    Broken({"name": "a\x1b[31m"}, "must be text of one line, without control characters"),
    Broken({"name": "a" * 201}, "must be text of one line, without control characters, of at most 200"),
    Broken({"licence": "a\x1b[31m"}, "must be text without control characters"),
    Broken({"trained_on": "a" * 10_001}, "must be text without control characters, of at most 10000"),
    Broken({"name": "a\n"}, "must be text of one line, without control characters"),
    Broken({"labels": label(name="a\x07")}, "must be text of one line, without control characters"),
    Broken({"labels": label(value=None)}, "labels[0].value is missing"),
    Broken({"labels": label(name=None)}, "labels[0].name is missing; it must be text"),
    Broken({"labels": label(color=None)}, "labels[0].color is missing; it must be 3 whole numbers, 0 to 255"),
    Broken({"labels": label(value=256)}, "labels[0].value 256 must be a whole number, 0 to 255"),
    Broken({"labels": label(value=-1)}, "labels[0].value -1 must be a whole number, 0 to 255"),
    Broken({"labels": label(color=[1, 2])}, "labels[0].color [1, 2] must be 3 whole numbers, 0 to 255"),
    Broken({"labels": label(color="#ff0000")}, "labels[0].color '#ff0000' must be 3 whole numbers, 0 to 255"),
    Broken({"labels": label(color=[0, 0, 256])}, "labels[0].color[2] 256 must be a whole number, 0 to 255"),
    Broken({"labels": label(fill=[0, 0, -1])}, "labels[0].fill[2] -1 must be a whole number, 0 to 255"),
    Broken({"outside": 9}, "outside 9 must be one of its labels or 'edge'"),
    Broken({"outside": "glass"}, "outside 'glass' must be one of its labels or 'edge'"),
    Broken({"noise_channels": -1}, "noise_channels -1 must be a whole number, 0 to 4096"),
    Broken({"noise_channels": 10**9}, "noise_channels 1000000000 must be a whole number, 0 to 4096"),
    Broken(
        {"noise_channels": 1, "noise_scales": [0]}, "noise_scales[0] 0 must be a whole number, at least 1"
    ),
    Broken(
        {"noise_channels": 2, "noise_scales": [1]}, "noise_scales [1] must be as many as noise_channels 2"
    ),
    Broken({"noise_scales": [1]}, "noise_scales [1] must be as many as noise_channels 0"),
    Broken({"mpp": 0}, "mpp 0 must be micrometres per pixel"),
    Broken({"mpp": -0.5}, "mpp -0.5 must be micrometres per pixel"),
    Broken({"mpp": float("nan")}, "mpp nan must be micrometres per pixel"),
    Broken({"mpp": 10**400}, "0000 must be micrometres per pixel, 0.001 to 10000"),
    Broken({"mpp": 1e300}, "mpp 1e+300 must be micrometres per pixel, 0.001 to 10000"),
    Broken({"mpp": 1e-300}, "mpp 1e-300 must be micrometres per pixel, 0.001 to 10000"),
    Broken({"mpp": "half"}, "mpp 'half' must be micrometres per pixel, 0.001 to 10000"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: json.dumps(case.fields))
def test_a_broken_field_is_named(case: Broken) -> None:
    with pytest.raises(BadInput) as error:
        parse(**case.fields)
    message = str(error.value)
    assert message.startswith(SOURCE)
    assert case.says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "text", ["", "{", "[1, 2]", "null", '"card"', "[" * 100_000, "1" * 5000], ids=lambda text: text[:9]
)
def test_what_is_no_card_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"models/tiny\.onnx: the generator card .* JSON"):
        parse_card(text, source=SOURCE)


@pytest.mark.parametrize(("multiple", "default"), [(16, 256), (48, 240), (256, 256), (512, 512)])
def test_the_default_tile_is_256_as_nearly_as_can_be(multiple: int, default: int) -> None:
    assert parse(tile={"multiple_of": multiple}).tile == default


@pytest.mark.parametrize("tile", [16, 64, 256])
def test_multiples_of_a_tile_are_taken(tile: int) -> None:
    parse().require_tile(tile)


@pytest.mark.parametrize("tile", [0, -16, 40, 65])
def test_other_tiles_are_refused_with_the_rule(tile: int) -> None:
    with pytest.raises(BadInput, match=rf"--tile {tile}: .*'tiny'.* multiples of 16; try --tile 64"):
        parse().require_tile(tile)


def test_a_fixed_tile_is_the_only_one() -> None:
    card = parse(tile=64)
    card.require_tile(64)
    with pytest.raises(BadInput, match="writes tiles of 64 only; try --tile 64"):
        card.require_tile(128)


def test_tables_by_label_value() -> None:
    card = parse()
    assert np.flatnonzero(card.known).tolist() == [0, 1, 2]
    assert np.flatnonzero(card.is_fill).tolist() == [0]
    assert card.fill_colors[:2].tolist() == [[240, 241, 242], [0, 0, 0]]
    assert card.background == (240, 241, 242)
    assert card.palette == {0: (0, 0, 255), 1: (255, 0, 0), 2: (0, 255, 0)}


def test_without_glass_the_background_is_white() -> None:
    card = parse(labels=label())
    assert not card.is_fill.any()
    assert card.background == (255, 255, 255)


def test_the_identity_card_knows_all_labels_by_different_colours() -> None:
    card = IdentityModel().card
    assert card.known.all()
    assert not card.is_fill.any()
    assert len(set(card.palette.values())) == 256


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_shipped_generators_have_whole_cards(path: Any) -> None:
    card = load_model(path.stem, device="cpu").card
    assert card.name == path.stem
    assert card.is_fill.any(), "glass is painted, not generated"
    assert card.mpp == (1.0 if path.stem.startswith("safron-") else 0.5)
    data = card.trained_on.partition(": ")[0]
    assert re.match(f"Weights derived from (the sample data of )?{data} ", card.licence), "of the same data"
    card.require_tile(256)
