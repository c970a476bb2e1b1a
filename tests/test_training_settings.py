"""Which settings are refused before anything is trained, and in which words?"""

from __future__ import annotations

import math
from typing import Any

import pytest
from safron.io.errors import BadInput
from safron.training.config import SIZES, TrainConfig, override, preset
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
    ({"stpes": 3}, "no setting stpes"),
    ({"model": {"width": 3}}, r"no setting model\.width"),
    ({"model": 3}, "model is 3; it is a table"),
    ({"batch": "two"}, "batch is 'two'"),
    ({"batch": True}, "batch is True"),
    ({"betas": [0.5]}, "betas has 1 values; it needs 2"),
    # Numbers.
    ({"batch": 0}, "batch is 0; give 1 or more"),
    ({"steps": 0}, "steps is 0; give 1"),
    ({"grid": 0}, "grid is 0; give 1"),
    ({"patch": -4}, "patch is -4; give 1"),
    ({"epochs": -1}, "epochs is -1; give 0 or more"),
    ({"seed": -1}, "seed is -1; give a whole number from 0"),
    ({"seed": 2**63}, "seed is 9223372036854775808; give"),
    ({"betas": [1.0, 0.5]}, r"betas is \[1.0, 0.5\]; give 0 or more, and less than 1"),
    ({"betas": [0.5, -0.1]}, r"betas is \[0.5, -0.1\]"),
    ({"generator_rate": -1}, "generator_rate is -1.0; give 0"),
    ({"generator_rate": NAN}, "generator_rate is NaN; give 0"),
    ({"discriminator_rate": math.inf}, "discriminator_rate is Infinity; give 0"),
    ({"discriminator_rate": 10**400}, "discriminator_rate is Infinity; give 0"),
    ({"feature_weight": [NAN, 1]}, r"feature_weight is \[NaN, 1.0\]; give 0"),
    ({"anchor_weight": [1, -1]}, "anchor_weight is"),
    ({"pixel_weight": [1, math.inf]}, "pixel_weight is"),
    ({"cooldown": -1}, "cooldown is -1.0; give a share of the run"),
    ({"freeze_norms": 2}, "freeze_norms is 2.0; give a share"),
    ({"settle": 0}, "settle is 0.0; give a share of the run, above 0"),
    ({"settle": -1}, "settle is -1.0"),
    ({"ema": 1}, "ema is 1.0; give 0 or more, and less than 1"),
    ({"ema": -1}, "ema is -1.0"),
    ({"held_out": 1}, "held_out is 1.0; give 0 or more, and less than 1"),
    ({"held_out": -1}, "held_out is -1.0"),
    ({"discriminator_widths": [0, 4]}, r"discriminator_widths is \[0, 4\]; give 1"),
    ({"judge_base": 0}, "judge_base is 0; give 1"),
    ({"judge_levels": 0}, "judge_levels is 0; give 1 to 12"),
    ({"judge_levels": 10**9}, "judge_levels is 1000000000; give 1 to 12"),
    ({"image_mpp": NAN}, "image_mpp is NaN; give micrometres, above 0"),
    ({"image_mpp": 0}, "image_mpp is 0.0; give"),
    ({"model": {"mpp": math.inf}}, r"model\.mpp is Infinity; give"),
    ({"model": {"widths": [0, 4, 4, 4, 4]}}, r"model\.widths is \[0, 4, 4, 4, 4\]; give 1"),
    ({"model": {"base": 0}}, r"model\.base is 0; give 1"),
    ({"model": {"levels": 0}}, r"model\.levels is 0; give 1 to 12"),
    ({"model": {"dropout": 1}}, r"model\.dropout is 1.0; give"),
    ({"model": {"alignment": 0}}, r"model\.alignment is 0; give 1"),
    ({"model": {"tile": 0}}, r"model\.tile is 0; give 1"),
    ({"model": {"overlap": -4}}, r"model\.overlap is -4; give 0"),
    ({"model": {"overlap": 300}}, r"model\.overlap is 300; give less than the tile, \d+ px"),
    # Choices.
    ({"judge": "me"}, 'judge is "me"; choose one of scales'),
    ({"judged": "all"}, "choose one of tile, patch"),
    ({"adversarial": "x"}, "choose one of hinge"),
    ({"model": {"network": "x"}}, r"model\.network is \"x\"; choose one of seamless"),
    ({"diffaugment": ["blur"]}, "choose from color, translation, cutout"),
    ({"diffaugment": [["color"]]}, "choose from color"),
    ({"diffaugment": ["color", 5]}, "choose from color"),
    ({"judged": "patch", "grid_phase": True}, "sees no seam"),
    # Labels.
    ({"model": {"labels": "x"}}, "labels must look like"),
    ({"model": {"labels": [1, 2]}}, "labels must look like"),
    ({"model": {"labels": []}}, "label values must be 0, 1, 2"),
    (labels(value=2), "0, 1, 2, ... in order"),
    (labels(value=True), "value of label 1 is True; give a whole number"),
    (labels(name=5), "name of label 1 is 5; give a text"),
    (labels(color=[0, 0, 256]), r"color of label 1 is \[0, 0, 256\]; give red, green and blue as whole"),
    (labels(color=[0, 0, 0.5]), r"color of label 1 is \[0, 0, 0.5\]"),
    (labels(color=[0, 0]), "color of label 1"),
    (labels(color="red"), "color of label 1 is 'red'"),
    (labels(fill=[300, 0, 0]), r"fill of label 1 is \[300, 0, 0\]; give .* or leave it out"),
    (labels(fill=[]), "fill of label 1"),
    (labels(fil=[3, 0, 0]), "label 1 has 'fil', which says nothing; known are value, name, color, fill"),
)
OF_ONE_NETWORK = (
    (SEAMLESS, {"judged": "patch"}, "no patches to judge"),
    (SEAMLESS, {"grid_phase": True}, "no patches to judge or shift"),
    (SEAMLESS, {"patch": 34}, "patch is 34; give a multiple of 4"),
    (SEAMLESS, {"patch": 12}, 'judge is "scales"; it sees 12 px, which its layers halve to nothing'),
    (SEAMLESS, {"judge": "classes", "judge_levels": 6}, "it sees 32 px, which"),
    (SEAMLESS, {"judge": "pix2pix", "judge_levels": 4}, "it sees 32 px, which"),
    (SEAMLESS, {"anchor_cell": 0}, "anchor_cell is 0; give 1 to 32, the side of a training tile"),
    (SEAMLESS, {"anchor_cell": 33}, "anchor_cell is 33; give 1 to 32"),
    (SEAMLESS, {"model": {"context": 24}}, r"model\.context is 24; .* give 20"),
    (SEAMLESS, {"model": {"alignment": 2}}, "agree at multiples of 4 px"),
    (SEAMLESS, {"model": {"tile": 250}}, r"model\.tile is 250; give a multiple of 4"),
    (SEAMLESS, {"model": {"noise_scales": []}}, "takes noise: give one scale or more"),
    (SEAMLESS, {"model": {"noise_scales": [1, 0]}}, r"noise_scales is \[1, 0\]; give scales of 1"),
    (PAPER, {"judged": "patch", "judge_levels": 3}, "it sees 16 px, which"),
    (PAPER, {"model": {"overlap": 16}}, r"model\.overlap is 16; give less than the tile, 16 px"),
    (PAPER, {"model": {"context": -1}}, r"model\.context is -1; give 0"),
    (PAPER, {"model": {"levels": 5}}, r"model\.tile is 16; .* give 2\^levels; model.levels is 5"),
    (PAPER, {"model": {"noise_scales": [1, 1]}}, "takes no noise: give an empty list"),
    (
        PAPER,
        {"model": {"dynamic_tile": True, "alignment": 3}},
        r"model\.dynamic_tile is true; .* give false",
    ),
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
        override(config, changes, "test")


def test_every_size_of_every_preset_is_let_through() -> None:
    for name, sizes in SIZES.items():
        for size in sizes:
            assert preset(name, size).sha256()
