"""Guides tell a generator how deep a pixel lies in its region, the same in every window."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blobs
from models import RampModel
from onnx_models import CARD
from plans import expected as whole_render
from safron.engine import render
from safron.engine.generator.card import parse_card
from safron.engine.generator.guides import read_guides
from safron.engine.generator.planes import LabelGuides
from safron.engine.plan.window import Window
from safron.io.errors import BadInput
from safron.io.measures.guides import DEEPEST, LATTICE, SMOOTHING, Guides

SMALL = Guides((2,), 8)
FAR = 48


def squares(member: Any, radius: int) -> Any:
    """Squared distance of each member to the nearest pixel that is none, every pair looked at: int [h, w]."""
    found = np.where(member, radius * radius, 0)
    height, width = member.shape
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            rows, columns = slice(max(0, y), height + min(0, y)), slice(max(0, x), width + min(0, x))
            theirs = member[max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)]
            part = found[rows, columns]
            part[~theirs] = np.minimum(part[~theirs], y * y + x * x)
    return found


def guides_of(mask: Any, guides: Guides, outside: int | None) -> Any:
    """Guides of one class over the canvas and `FAR` pixels around it, of which the outer `reach` are wrong."""
    beyond: dict[str, Any] = {"mode": "edge"} if outside is None else {"constant_values": outside}
    member = np.pad(mask, FAR, **beyond) == guides.classes[0]
    assert FAR % LATTICE == 0
    inside, radius = squares(member, guides.radius), guides.radius
    points = inside[::LATTICE, ::LATTICE]
    places = np.stack(np.indices(points.shape), axis=-1) * LATTICE
    width = np.zeros(points.shape, int)
    for size in guides.radii:
        centres = places[points >= size * size].reshape(-1, 2)
        apart = ((places[:, :, None] - centres) ** 2).sum(axis=-1)
        width[(apart < size * size).any(axis=-1)] = size
    mean = np.zeros(points.shape)
    for v, u in np.ndindex(points.shape):
        around = np.s_[max(0, v - SMOOTHING) : v + SMOOTHING + 1, max(0, u - SMOOTHING) : u + SMOOTHING + 1]
        near = points[around] > 0
        share = Fraction(int(width[around][near].sum()), max(1, int(near.sum())))
        mean[v, u] = round(64 * share) / 64
    y, x = (np.arange(length - LATTICE) for length in member.shape)
    (v, t), (u, s) = np.divmod(y, LATTICE), np.divmod(x, LATTICE)
    t, s = t[:, None] / LATTICE, s / LATTICE
    a, b = (
        mean[v][:, u] * (1 - t) + mean[v + 1][:, u] * t,
        mean[v][:, u + 1] * (1 - t) + mean[v + 1][:, u + 1] * t,
    )
    wide = np.where(member[: len(y), : len(x)], a * (1 - s) + b * s, 0)
    inner = np.sqrt(inside[: len(y), : len(x)])
    outer = np.sqrt(squares(~member, radius)[: len(y), : len(x)])
    depth = np.where(member[: len(y), : len(x)], np.minimum(inner / np.maximum(wide, 1), DEEPEST), 0)
    return np.stack([(inner - outer) / radius, depth, wide / radius])


MASK = blobs(33, 37, cell=13)


@cache
def expected(outside: int | None) -> Any:
    """Guides of `MASK` where this label lies around it."""
    return guides_of(MASK, SMALL, outside)


@settings(deadline=None, max_examples=40)
@given(
    y=st.integers(-8, 30),
    x=st.integers(-8, 34),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    outside=st.sampled_from([None, 0, 2]),
)
def test_guides_of_any_window_are_the_oracle_s(
    y: int, x: int, height: int, width: int, outside: int | None
) -> None:
    window = Window(y, x, height, width)
    found = LabelGuides(MASK, outside, SMALL).read(window)
    assert found.dtype == np.float32
    assert found.shape == (3, height, width)
    wanted = expected(outside)[:, *window.shift(FAR, FAR).slices()]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6)


@settings(deadline=None, max_examples=20)
@given(y=st.integers(0, 200), x=st.integers(0, 200), radius=st.sampled_from([16, 64]))
def test_windows_agree_bit_for_bit(y: int, x: int, radius: int) -> None:
    mask, guides = blobs(260, 270, cell=60), Guides((2, 1), radius)
    whole = WHOLE.setdefault(radius, read_guides(mask, Window(0, 0, 260, 270), guides, outside=None))
    part = read_guides(mask, Window(y, x, 60, 70), guides, outside=None)
    assert whole.shape == (6, 260, 270)
    assert np.array_equal(part, whole[:, y : y + 60, x : x + 70])


WHOLE: dict[int, Any] = {}


def test_the_middle_of_a_gland_is_known_however_wide_it_is() -> None:
    y, x = np.indices((200, 300))
    mask = np.ones((200, 300), np.uint8)
    for centre, radius in (((100, 90), 60), ((100, 220), 30), ((170, 280), 12)):
        mask[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2] = 2
    distance, depth, width = read_guides(mask, Window(0, 0, 200, 300), Guides((2,)), outside=None)
    for centre, radius in (((100, 90), 60), ((100, 220), 30), ((170, 280), 12)):
        assert distance[centre] * 64 == pytest.approx(radius, abs=1)
        assert width[centre] * 64 == pytest.approx(radius, rel=0.2)
        assert 0.95 <= depth[centre] <= 1.25
        assert 0 < depth[centre[0], centre[1] + radius - 2] < 0.3
    assert distance[0, 0] < 0
    assert depth[mask == 1].max() == width[mask == 1].max() == 0


class GuidedModel(RampModel):
    """The ramp, with depth in green."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.card = replace(self.card, guides=SMALL)

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        image = super().__call__(labels, noise)
        c = self.card.context
        image[..., 1] += 40 * planes["guides"][:, 1, c:-c, c:-c]
        return image


def test_a_render_equals_the_oracle_however_it_is_cut(tmp_path: Path) -> None:
    mask, model, tile, overlap = blobs(150, 170, cell=17), GuidedModel(), 64, 20
    expected = whole_render(
        mask,
        model,
        tile=tile,
        overlap=overlap,
        planes=lambda read: {"guides": read_guides(mask, read, SMALL, outside=None)},
    )
    for block, workers in ((None, 1), (128, 3)):
        out = tmp_path / f"{block}.tiff"
        options: dict[str, Any] = {"overlap": overlap, "compression": "none", "tiff_tile": 64}
        render(mask, out, model=model, block=block, workers=workers, **options)
        assert np.array_equal(np.asarray(tifffile.imread(out, level=0)), expected)


@pytest.mark.parametrize(
    ("guides", "says"),
    [
        ({"classes": []}, "classes must be one or more, all different"),
        ({"classes": [2, 2]}, "classes must be one or more, all different"),
        ({"classes": [2], "radius": 66}, "guides.radius 66"),
        ({"classes": [2], "radius": 4}, "guides.radius 4"),
        ({"classes": [2], "turns": 1}, "turns"),
    ],
)
def test_a_card_says_what_is_wrong_with_its_guides(guides: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_card(json.dumps(CARD | {"guides": guides}), source="g.onnx")
