"""Patches side by side in one call: the same slide, and only where each has the bits that it has alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import CARD, write_onnx
from plans import plan_for
from safron.engine import render
from safron.engine.execution.joined_patches import cut, join
from safron.engine.generator import same_bits, warm_up
from safron.engine.generator.model import GeneratorInfo
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.planes import Noise, patch_windows
from safron.engine.plan.planes import noise_spec
from safron.engine.plan.render_plan import make_grid
from safron.engine.plan.window import Window

NOISY = CARD | {"noise_channels": 2}
OPTIONS: dict[str, Any] = {"tile": 64, "overlap": 16, "block": 256, "tiff_tile": 128, "executor": "threads"}


class Counting(OnnxModel):
    """Keeps the shapes of its calls; with `odd`, wide windows give other pixels."""

    may_join, odd = True, False

    def __init__(self, path: Path) -> None:
        super().__init__(path, device="cpu", threads=2)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        if len(labels) == 1:
            self.shapes.append(labels.shape[1:])
        made = super().__call__(labels, noise, **planes)
        return made + 1 if self.odd and labels.shape[1] != labels.shape[2] else made


def mask_of(height: int, width: int) -> Any:
    return np.random.default_rng(3).integers(0, 3, (height, width), np.uint8).repeat(8, 0).repeat(8, 1)


def test_windows_hold_what_their_patches_read_and_give_them_back() -> None:
    noise = Noise(7, (1, 16))
    values = patch_windows(noise, Window(0, 0, 40, 40), 4, 24)
    wide = join({"noise": values, "style": np.ones((4, 5))}, slice(1, 3), 24)
    assert wide["noise"].shape == (1, 2, 40, 64)
    assert np.array_equal(wide["noise"][0], noise.read(Window(0, 24, 40, 64)))
    assert wide["style"].shape == (1, 5)
    image = np.random.default_rng(0).random((1, 40, 64, 3))
    patches = cut(image, 40, 24)
    assert patches.shape == (2, 40, 40, 3)
    assert np.array_equal(patches[1], image[0, :, 24:])


def test_a_slide_of_joined_patches_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same_bits, "FEW", 10)
    mask = mask_of(40, 60)
    mask[64:200, 100:300] = 0  # background in between
    model = Counting(write_onnx(tmp_path / "m.onnx", card=NOISY, noise=2))
    joined = render(mask, tmp_path / "a.tiff", model=model, workers=2, **OPTIONS)
    wide = sum(shape[1] > 72 for shape in model.shapes)
    assert wide > 10
    model.shapes.clear()
    alone = render(mask, tmp_path / "b.tiff", model=model, workers=2, patch_timeout=1000, **OPTIONS)
    assert max(model.shapes) == (72, 72)
    assert joined.digest == alone.digest
    assert joined.generated == alone.generated
    assert wide < joined.generated / 2


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"few": True}, False),
        ({"overlap": 15}, False),  # a stride of 49 is no multiple of 16
        ({"card": {"tile": 64}}, False),
        ({"odd": True}, False),
    ],
)
def test_the_warm_up_decides(
    tmp_path: Path, change: dict[str, Any], same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = NOISY | change.get("card", {})
    model = Counting(write_onnx(tmp_path / "m.onnx", card=card, noise=2))
    model.odd = change.get("odd", False)
    info = GeneratorInfo.of(model)
    side = 400 if change.get("few") else 800
    grid = make_grid(height=side, width=side, tile=64, overlap=change.get("overlap", 16), context=4)
    plan = replace(plan_for(side, side, batch=8, planes=noise_spec(info.card.noise_scales)), grid=grid)
    assert (warm_up.warm_up(model, info, plan, joining=True).info.joined == 2) is same
    assert warm_up.warm_up(model, info, plan).info.joined == 1
    monkeypatch.setattr(Counting, "may_join", OnnxModel.may_join)
    assert warm_up.warm_up(model, info, plan, joining=True).info.joined == 1, "not with ONNX Runtime"
