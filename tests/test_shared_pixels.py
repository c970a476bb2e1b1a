"""A patch takes what it shares with patches before it: the same slide for less work, and only where the bits are the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import CARD, write_onnx
from plans import plan_for
from safron.engine import render
from safron.engine.execution.batching import Strip
from safron.engine.execution.joined_patches import cut, join
from safron.engine.execution.shared_pixels import SharedPixels
from safron.engine.generator import same_bits
from safron.engine.generator.model import GeneratorInfo
from safron.engine.generator.onnx_model import OnnxModel
from safron.engine.generator.warm_up import warm_up
from safron.engine.plan.planes import noise_spec
from safron.engine.plan.render_plan import make_grid
from safron.engine.plan.window import Window

NOISY = CARD | {"noise_channels": 2}
EDGES = {"of": "labels"}
OPTIONS: dict[str, Any] = {"tile": 64, "overlap": 16, "block": 256, "tiff_tile": 128}
SIDE, SMALL = 72, 56  # windows of whole patches, and of those without their overlap


class Counting(OnnxModel):
    """Keeps the shapes of its calls; with `odd`, windows of this height or width give other pixels."""

    odd: tuple[int, int] | None = None

    def __init__(self, path: Path, *, join: bool = False) -> None:
        super().__init__(path, device="cpu", threads=2)
        self.join, self.shapes = join, list[tuple[int, ...]]()

    @property
    def may_join(self) -> bool:
        return self.join

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        if len(labels) == 1:
            self.shapes.append(labels.shape[1:])
        made = super().__call__(labels, noise, **planes)
        return made + 1 if labels.shape[1:] == self.odd else made


def mask_with_holes(rng: np.random.Generator) -> Any:
    """Labels 1 and 2, in which rectangles are background."""
    mask = rng.integers(1, 3, (62, 75), np.uint8).repeat(8, 0).repeat(8, 1)
    for _ in range(12):
        y, x = rng.integers(0, 480), rng.integers(0, 590)
        mask[y : y + rng.integers(20, 160), x : x + rng.integers(20, 160)] = 0
    return mask


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize(
    ("overlap", "more"),
    [(16, {"executor": "serial"}), (16, {"workers": 3, "taper": "cosine"}), (48, {"workers": 2}), (32, {})],
)
def test_a_slide_is_the_same_for_less_work(
    tmp_path: Path, overlap: int, more: dict[str, Any], join: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = mask_with_holes(np.random.default_rng(overlap))
    model = Counting(
        write_onnx(tmp_path / "m.onnx", card=NOISY | {"edges": EDGES}, noise=2, edges=True), join=join
    )
    options = OPTIONS | {"overlap": overlap} | more
    if options.pop("executor", None) == "serial":
        options["workers"] = 1
    monkeypatch.setattr(same_bits, "FEW", 10**6)
    whole = render(mask, tmp_path / "a.tiff", model=model, **options)
    before, shapes = pixels(model.shapes), {*model.shapes}
    model.shapes.clear()
    monkeypatch.setattr(same_bits, "FEW", 10)
    shared = render(mask, tmp_path / "b.tiff", model=model, **options)
    assert max(shapes) == (SIDE, SIDE)
    assert (SIDE - overlap, SIDE - overlap) in model.shapes
    assert shared.digest == whole.digest
    assert (shared.generated, shared.painted) == (whole.generated, whole.painted)
    assert pixels(model.shapes) < 0.8 * before


def pixels(shapes: list[tuple[int, ...]]) -> int:
    return sum(height * width for height, width in shapes)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_patches_are_put_together_again(size: int) -> None:
    """Each gets its own pixels, with parts missing above and on the left, and rows that begin elsewhere."""
    canvas = np.random.default_rng(size).random((200, 300, 3), np.float32)
    known, found = SharedPixels(10), 0
    for y, first, count in ((0, 0, 5), (30, 30, 2), (30, 150, 3), (60, 0, 6), (120, 0, 3), (150, 0, 3)):
        windows = np.stack([canvas[y : y + 40, x : x + 40, 0] for x in range(first, first + 30 * count, 30)])
        strip = Strip({"labels": windows}, Window(y, first, 40, 40), 30, lambda values, at: None)
        for part in known.parts(strip, size):
            at = strip.window(part.patches.start)
            width = 40 + 30 * (len(part) - 1)
            made = canvas[None, at.y + part.top : at.y + 40, at.x + part.left : at.x + width]
            values = known.complete(strip, part, made)
            assert np.array_equal(values[0], canvas[at.y : at.y + 40, at.x : at.x + width])
            found += (part.top > 0) + (part.left > 0)
    assert found > 10 // size


def test_without_an_overlap_nothing_is_kept() -> None:
    strip = Strip({"labels": np.zeros((3, 40, 40))}, Window(0, 0, 40, 40), 40, lambda values, at: None)
    known = SharedPixels(0)
    assert [(part.top, part.left, len(part)) for part in known.parts(strip, 2)] == [(0, 0, 2), (0, 0, 1)]


def test_inputs_lose_their_first_rows_and_columns() -> None:
    values = np.arange(2 * 3 * 40 * 40, dtype=np.float32).reshape(2, 3, 40, 40)
    inputs = join({"noise": values, "style": np.ones((2, 5))}, slice(1, 2), 24, top=10, left=4)
    assert np.array_equal(inputs["noise"], values[1:, :, 10:, 4:])
    assert inputs["style"].shape == (1, 5)
    assert cut(np.zeros((1, 40, 64, 3)), 40, 24).shape == (2, 40, 40, 3)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"few": True}, False),
        ({"overlap": 0}, False),
        ({"overlap": 15}, False),  # a stride of 49 is no multiple of 16
        ({"card": {"tile": 64}}, False),
        ({"card": {"alignment": 32}}, False),
        ({"odd": (SMALL, SMALL)}, False),
        ({"odd": (SMALL, SIDE)}, False),
        ({"odd": (SIDE, SMALL)}, False),
    ],
)
def test_the_warm_up_decides(tmp_path: Path, change: dict[str, Any], same: bool) -> None:
    model = Counting(write_onnx(tmp_path / "m.onnx", card=NOISY | change.get("card", {}), noise=2))
    model.odd = change.get("odd")
    info, side = GeneratorInfo.of(model), 400 if change.get("few") else 800
    grid = make_grid(height=side, width=side, tile=64, overlap=change.get("overlap", 16), context=4)
    plan = replace(plan_for(side, side, batch=8, planes=noise_spec(info.card.noise_scales)), grid=grid)
    assert warm_up(model, info, plan).info.shared is same
