"""Which settings are refused before anything is trained, and in which words?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from safron.io.errors import BadInput
from safron.training.config.settings import PRESETS, SIZES, TrainConfig, config_from_json, override, preset
from training_cases import one_line

SEAMLESS = preset("safron-seamless", "tiny")
PAPER = preset("safron", "tiny")
NAN = math.nan


def labels(**changes: Any) -> dict[str, Any]:
    """Three labels, the second changed."""
    plain: list[dict[str, Any]] = [
        {"value": value, "name": f"l{value}", "color": [value, 0, 255]} for value in range(3)
    ]
    plain[1] |= changes
    return {"model": {"labels": plain}}


ANY = (
    # What is no setting, or of another kind.
    ({"stpes": 3}, "unknown name 'stpes'; did you mean 'steps'"),
    ({"model": {"width": 3}}, r"unknown name 'model\.width'; did you mean 'model\.widths'"),
    ({"model": 3}, "model 3 must be an object with name, network"),
    ({"batch": "two"}, "batch 'two' must be a whole number, at least 1"),
    ({"batch": True}, "batch True must be a whole number"),
    ({"betas": [0.5]}, r"betas \[0\.5\] must be 2 numbers"),
    ({"bfloat16": "no"}, "bfloat16 'no' must be True or False"),
    # Numbers.
    ({"batch": 0}, "batch 0 must be a whole number, at least 1"),
    ({"steps": 0}, "steps 0 must be .* at least 1"),
    ({"grid": 0}, "grid 0 must be .* at least 1"),
    ({"patch": -4}, "patch -4 must be .* at least 1"),
    ({"epochs": -1}, "epochs -1 must be .* at least 0"),
    ({"epoch_stride": 0}, "epoch_stride 0 must be .* at least 1"),
    ({"seed": -1}, "seed -1 must be a whole number, 0 to 9223372036854775807"),
    ({"seed": 2**63}, "seed 9223372036854775808 must be"),
    ({"betas": [1.0, 0.5]}, r"betas\[0\] 1.0 must be a number, at least 0.* and less than 1"),
    ({"betas": [0.5, -0.1]}, r"betas\[1\] -0.1 must be"),
    ({"generator_rate": -1}, "generator_rate -1 must be a finite number, 0 or more"),
    ({"generator_rate": NAN}, "generator_rate nan must be a finite number, 0 or more"),
    ({"discriminator_rate": math.inf}, "discriminator_rate inf must be a finite number"),
    ({"discriminator_rate": 10**400}, "discriminator_rate 10{70,} must be a finite number"),
    ({"feature_weight": [NAN, 1]}, r"feature_weight\[0\] nan must be a finite number, 0"),
    ({"anchor_weight": [1, -1]}, r"anchor_weight\[1\] -1 must be"),
    ({"pixel_weight": [1, math.inf]}, r"pixel_weight\[1\] inf must be"),
    ({"cooldown": -1}, "cooldown -1 must be a share of the run, 0 to 1"),
    ({"freeze_norms": 2}, "freeze_norms 2 must be a share of the run"),
    ({"settle": 0}, "settle 0 must be a share of the run, above 0"),
    ({"settle": -1}, "settle -1 must be"),
    ({"ema": 1}, "ema 1 must be a number, at least 0.* and less than 1"),
    ({"ema": -1}, "ema -1 must be"),
    ({"held_out": 1}, "held_out 1 must be a number, at least 0.* and less than 1"),
    ({"held_out": -1}, "held_out -1 must be"),
    ({"discriminator_widths": [0, 4]}, r"discriminator_widths\[0\] 0 must be .* at least 1"),
    ({"discriminator_base": 0}, "discriminator_base 0 must be .* at least 1"),
    ({"discriminator_levels": 0}, "discriminator_levels 0 must be a whole number, 1 to 12"),
    ({"discriminator_levels": 10**9}, "discriminator_levels 1000000000 must be .* 1 to 12"),
    ({"image_mpp": NAN}, "image_mpp nan must be micrometres per pixel, 0.001 to 10000"),
    ({"image_mpp": 0}, "image_mpp 0 must be micrometres"),
    ({"model": {"mpp": math.inf}}, r"model\.mpp inf must be micrometres"),
    ({"model": {"widths": [0, 4, 4, 4, 4]}}, r"model\.widths\[0\] 0 must be .* at least 1"),
    ({"model": {"base": 0}}, r"model\.base 0 must be .* at least 1"),
    ({"model": {"levels": 0}}, r"model\.levels 0 must be .* 1 to 12"),
    ({"model": {"dropout": 1}}, r"model\.dropout 1 must be"),
    ({"model": {"alignment": 0}}, r"model\.alignment 0 must be .* at least 1"),
    ({"model": {"tile": 0}}, r"model\.tile 0 must be a whole number, 1 to 4096"),
    ({"model": {"overlap": -4}}, r"model\.overlap -4 must be .* at least 0"),
    ({"model": {"overlap": 300}}, r"model\.overlap is 300; give less than the tile, \d+ px"),
    # Choices.
    (
        {"discriminator_network": "me"},
        "discriminator_network 'me' must be 'scales', 'pix2pix' or 'projected'",
    ),
    ({"discriminator_input": "all"}, "discriminator_input 'all' must be 'tile' or 'patch'"),
    ({"adversarial": "x"}, "adversarial 'x' must be 'hinge' or 'log'"),
    ({"model": {"network": "x"}}, r"model\.network 'x' must be 'seamless' or 'paper'"),
    # What version 0.1 had.
    ({"diffaugment": ["color"]}, r"diffaugment is \['color'\]; that was removed in 0\.2: leave it out"),
    ({"diffaugment": "color"}, "diffaugment is 'color'; that was removed"),
    ({"grid_phase": True}, r"grid_phase is True; that was removed in 0\.2"),
    ({"judge": "classes"}, r"discriminator_network is 'classes'; that was removed in 0\.2"),
    # Labels.
    (
        {"model": {"labels": "x"}},
        r"model\.labels 'x' must be a list of objects with value, name, color, fill",
    ),
    ({"model": {"labels": [1, 2]}}, r"model\.labels\[0\] 1 must be an object with value, name"),
    ({"model": {"labels": []}}, "label values must be 0, 1, 2"),
    ({"model": {"labels": [{"value": 0, "name": "a"}]}}, r"model\.labels\[0\]\.color is missing"),
    (labels(value=2), "0, 1, 2, ... in order"),
    (labels(value=True), r"model\.labels\[1\]\.value True must be a whole number"),
    (labels(name=5), r"model\.labels\[1\]\.name 5 must be text"),
    (labels(color=[0, 0, 256]), r"model\.labels\[1\]\.color\[2\] 256 must be a whole number, 0 to 255"),
    (labels(color=[0, 0, 0.5]), r"model\.labels\[1\]\.color\[2\] 0\.5 must be"),
    (labels(color=[0, 0]), r"model\.labels\[1\]\.color \[0, 0\] must be 3 whole numbers, 0 to 255"),
    (labels(color="red"), r"model\.labels\[1\]\.color 'red' must be 3 whole numbers"),
    (labels(fill=[300, 0, 0]), r"model\.labels\[1\]\.fill\[0\] 300 must be a whole number, 0 to 255"),
    (labels(fill=[]), r"model\.labels\[1\]\.fill \[\] must be 3 whole numbers"),
    (
        labels(fil=[3, 0, 0]),
        r"unknown name 'model\.labels\[1\]\.fil'; did you mean 'model\.labels\[1\]\.fill'",
    ),
)
OF_ONE_NETWORK = (
    (SEAMLESS, {"discriminator_input": "patch"}, "no patches in training"),
    (SEAMLESS, {"patch": 34}, "patch is 34; give a multiple of 4"),
    (
        SEAMLESS,
        {"patch": 12},
        "discriminator_network is 'scales'; its layers halve its input of 12 px to nothing",
    ),
    (
        SEAMLESS,
        {"discriminator_network": "pix2pix", "discriminator_levels": 4},
        "its input of 32 px to nothing",
    ),
    (SEAMLESS, {"anchor_cell": 0}, "anchor_cell is 0; give 1 to 32, the side of a training tile"),
    (SEAMLESS, {"anchor_cell": 33}, "anchor_cell is 33; give 1 to 32"),
    (SEAMLESS, {"model": {"context": 24}}, r"model\.context is 24; .* give 20"),
    (SEAMLESS, {"model": {"alignment": 2}}, "agree at multiples of 4 px"),
    (SEAMLESS, {"model": {"tile": 250}}, r"model\.tile is 250; give a multiple of 4"),
    (SEAMLESS, {"model": {"noise_scales": []}}, "takes noise: give one scale or more"),
    (
        SEAMLESS,
        {"model": {"noise_scales": [1, 0]}},
        r"noise_scales\[1\] 0 must be a whole number, 1 to 65536",
    ),
    (PAPER, {"discriminator_input": "patch", "discriminator_levels": 3}, "its input of 16 px to nothing"),
    (PAPER, {"model": {"overlap": 16}}, r"model\.overlap is 16; give less than the tile, 16 px"),
    (PAPER, {"model": {"context": -1}}, r"model\.context -1 must be .* at least 0"),
    (PAPER, {"model": {"levels": 5}}, r"model\.tile is 16; .* give 2\^levels; model.levels is 5"),
    (PAPER, {"model": {"noise_scales": [1, 1]}}, "takes no noise: give an empty list"),
    (PAPER, {"model": {"dynamic_tile": True, "alignment": 3}}, r"model\.dynamic_tile is True; .* give false"),
)


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [*((config, *case) for case in ANY for config in (SEAMLESS, PAPER)), *OF_ONE_NETWORK],
)
def test_settings_that_cannot_be_trained_or_exported_are_refused(
    config: TrainConfig, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words) as problem:
        override(config, changes, "test")
    one_line(problem)


def test_what_is_unusual_but_works_is_let_through() -> None:
    for config, changes in (
        (SEAMLESS, {"model": {"noise_scales": [1]}}),
        (SEAMLESS, {"patch": 56, "anchor_cell": 16}),
        (SEAMLESS, {"ema": 0, "cooldown": 0, "held_out": 0, "settle": 1}),
        (SEAMLESS, labels(fill=[9, 9, 9])),
        (SEAMLESS, labels(fill=None)),
        (PAPER, {"model": {"context": 0, "overlap": 0}}),
        (PAPER, {"model": {"dynamic_tile": True}}),
        (PAPER, {"anchor_cell": 64}),  # its weight is 0
    ):
        changed = override(config, changes, "test").to_json()
        for name, value in changes.items():
            if not isinstance(value, dict):
                assert changed[name] == value
                continue
            for field, wanted in value.items():
                found = changed["model"][field]
                if field == "labels":
                    found = [
                        {key: one[key] for key in asked} for one, asked in zip(found, wanted, strict=True)
                    ]
                assert found == wanted
        untouched = {*changed} - {*changes}
        assert {name: changed[name] for name in untouched} == {
            name: config.to_json()[name] for name in untouched
        }


def test_old_names_are_read_and_told_of_once(capfd: pytest.CaptureFixture[str]) -> None:
    old = {
        "judge": "pix2pix",
        "judged": "patch",
        "judge_base": 8,
        "judge_levels": 1,
        "grid_phase": False,
        "diffaugment": [],
    }
    config = override(PAPER, old, "old.json")
    found = (config.discriminator_network, config.discriminator_input, config.discriminator_base)
    assert (*found, config.discriminator_levels) == ("pix2pix", "patch", 8, 1)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("safron-train: warning: old.json: old names")
    assert "judged is now discriminator_input" in line
    # Nobody can change the names in a checkpoint.
    plain = {name: value for name, value in config.to_json().items() if not name.startswith("discriminator_")}
    assert config_from_json(plain | old).discriminator_levels == 1
    assert not capfd.readouterr().err


def test_every_size_of_every_preset_is_let_through() -> None:
    hashes = {(name, size): preset(name, size).sha256() for name, sizes in SIZES.items() for size in sizes}
    assert len({*hashes.values()}) == len(hashes), "no two are the same settings"
    assert {name for name, _ in hashes} == {*PRESETS}
