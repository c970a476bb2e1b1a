"""Stains change finished pixels by their value and place alone, and are found again in pictures that have them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blobs
from onnx_models import CARD, write_onnx
from safron.engine import render
from safron.engine.generator.model import load_model
from safron.engine.preparation.options import RenderOptions
from safron.engine.preparation.styles import choose_stain
from safron.engine.stains.estimate import estimate
from safron.engine.stains.looks import LOOKS, mixed, random_stain, stain_change
from safron.engine.stains.stain import DRAWN, REFERENCE, Stain, StainChange, field_of
from safron.io.errors import BadInput
from safron.io.measures.two_stains import STRENGTH_OF_MEAN

MASK = blobs(600, 700)
COLOURS = np.stack(np.meshgrid(*[np.arange(0, 256, 15, np.uint8)] * 3), axis=-1).reshape(-1, 18, 3)


def change(name: str = "pink", **options: Any) -> StainChange:
    found = stain_change(name, seed=3, **options)
    assert found is not None
    return found


def by_definition(rgb: npt.NDArray[np.uint8], to: StainChange, factors: Any = 1.0) -> npt.NDArray[np.float64]:
    """The formula of the module, in floating point."""
    source, target = to.source, to.target
    amounts = -np.log(np.maximum(rgb, 1.0) / source.white) @ np.linalg.inv(source.matrix)
    scale = [b / a for a, b in zip(source.strength, target.strength, strict=True)] + [1.0]
    changed: npt.NDArray[np.float64] = np.exp(-(amounts * scale * factors) @ target.matrix) * target.white
    return np.clip(changed, 0, 255)


def picture(stain: Stain, *, glass: float = 0.5, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Pixels of known stains, of their strengths on the mean; some of them of one stain alone."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.3, 2.2, (40_000, 2))
    amounts[:8000, 0], amounts[8000:16000, 1] = 0, 0
    amounts *= np.array(stain.strength) / amounts.mean(axis=0) / STRENGTH_OF_MEAN
    rgb = np.exp(-amounts @ stain.matrix[:2]) * stain.white
    empty = np.repeat([stain.white], int(len(rgb) * glass), axis=0)
    return np.rint(np.concatenate([rgb, empty])).astype(np.uint8).reshape(-1, 100, 3)


@pytest.mark.parametrize("name", [*LOOKS, "random:1", "random:2"])
def test_it_is_beer_and_lambert(name: str) -> None:
    image = COLOURS.copy()
    change(name).apply(image, 0, 0)
    assert np.abs(image - by_definition(COLOURS, change(name))).max() < 2.5


def test_the_reference_is_every_pixel_as_it_was() -> None:
    assert stain_change("reference", seed=1) is None
    image = COLOURS.copy()
    image[image == 0] = 1
    expected = image.copy()
    StainChange("same", REFERENCE).apply(image, 5, 5)
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_the_empty_slide_takes_the_empty_slides_colour() -> None:
    for name in LOOKS:
        white = tuple(round(value) for value in REFERENCE.white)
        assert np.abs(np.array(change(name).color(white)) - LOOKS[name].white).max() <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from([0.0, 0.2]))
def test_any_cut_gives_the_same_pixels(y: int, x: int, variation: float) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)
    parts = whole.copy()
    to = change(variation=variation)
    to.apply(whole, 4090, 8170)
    for top, bottom in ((0, y), (y, 60)):
        for left, right in ((0, x), (x, 50)):
            to.apply(parts[top:bottom, left:right], 4090 + top, 8170 + left)
    np.testing.assert_array_equal(whole, parts)


def test_the_field_is_slow_and_within_its_share() -> None:
    factors = field_of(0.2, 7, 0, 0, 0, (9000, 40)) / 4096
    assert (np.abs(factors - 1) <= 0.2 + 1e-3).all()
    assert np.abs(np.diff(factors, axis=0)).max() < 0.001
    assert np.ptp(factors) > 0.05
    far = field_of(0.2, 7, 0, 8990, 30, (10, 10)) / 4096
    np.testing.assert_array_equal(far, factors[8990:, 30:])


def test_the_field_changes_amounts() -> None:
    to = change("reference", variation=0.3)
    image = np.full((3, 3, 3), 120, np.uint8)
    expected = image.copy()
    to.apply(image, 3000, 2000)
    factors = [field_of(0.3, 3, kind, 3000, 2000, (3, 3))[0, 0] / 4096 for kind in (0, 1)]
    assert np.abs(image[0, 0] - by_definition(expected, to, [*factors, 1.0])[0, 0]).max() < 2


@pytest.mark.parametrize("glass", [0.0, 0.5, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_known_stains_are_found(glass: float, seed: int) -> None:
    """Also where most of the picture is empty, which must not count as weak stain."""
    rng = np.random.default_rng(seed)
    known = Stain(
        (0.65 + rng.uniform(-0.05, 0.05), 0.70, 0.29), (0.07, 0.99 + rng.uniform(-0.05, 0.05), 0.11),
        (1.9, 0.9), (240.0, 240.0, 240.0),
    )  # fmt: skip
    found = estimate(picture(known, glass=glass, seed=seed))
    for one, other in zip(found.matrix[:2], known.matrix[:2], strict=True):
        assert math.degrees(math.acos(min(1, one @ other))) < 3
    assert found.strength == pytest.approx(known.strength, rel=0.08)
    if glass:
        assert found.white == pytest.approx(known.white, abs=2)


def test_dark_spots_ink_and_unscanned_parts_do_not_count() -> None:
    """A tenth of folded tissue, a twentieth of green ink, and as much wholly white as there is slide."""
    known = Stain((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (1.9, 0.9), (241.0, 237.0, 240.0))
    plain = picture(known)
    dark = np.exp(-np.array([3.0, 1.5]) @ known.matrix[:2]) * known.white
    folds = np.full((40, 100, 3), dark.round(), np.uint8)
    ink, white = np.full((20, 100, 3), (30, 150, 140), np.uint8), np.full_like(plain, 255)
    clean, found = estimate(plain), estimate(np.concatenate([plain, folds, ink, white]))
    for one, other in zip(found.matrix[:2], clean.matrix[:2], strict=True):
        assert math.degrees(math.acos(min(1, one @ other))) < 4
    assert found.strength == pytest.approx(clean.strength, rel=0.4)
    assert found.white == pytest.approx(known.white, abs=2)


def test_pictures_without_two_stains_are_refused() -> None:
    with pytest.raises(BadInput, match="has 0 pixels of stained tissue"):
        estimate(np.full((50, 50, 3), 240, np.uint8))
    grey = np.repeat(np.random.default_rng(0).integers(30, 150, (60, 60, 1), dtype=np.uint8), 3, axis=2)
    with pytest.raises(BadInput, match="one stain alone"):
        estimate(grey)


def test_random_stains_are_drawn_from_their_seed() -> None:
    stains = [random_stain(seed) for seed in range(50)]
    assert len({*stains}) == 50
    np.random.seed(1)  # noqa: NPY002 # whatever else draws numbers, and in whatever order seeds are asked for
    assert [random_stain(seed) for seed in reversed(range(50))] == stains[::-1]
    assert change("random").facts == change("random:3").facts
    for stain in stains:
        assert min(*stain.haematoxylin, *stain.eosin, *stain.strength) > 0
        assert 200 < min(stain.white) <= max(stain.white) <= 252


def rendered(out: str, **options: Any) -> Any:
    return render(MASK, out, model="identity", mpp=1.0, compression="deflate", **{"workers": 1} | options)


def test_a_render_is_the_reference_with_changed_pixels(here: Path) -> None:
    plain = rendered("a.tiff", block=512)
    told = rendered("a2.tiff", block=512, stain="reference")
    assert told.digest == plain.digest
    stained = rendered("b.tiff", block=512, stain="violet", stain_field=0.2)
    expected = tifffile.imread("a.tiff")
    change("violet", variation=0.2)
    StainChange("violet", LOOKS["violet"], variation=0.2, seed=0).apply(expected, 0, 0)
    np.testing.assert_array_equal(tifffile.imread("b.tiff"), expected)
    other = rendered("c.tiff", block=1024, workers=2, stain="violet", stain_field=0.2)
    assert other.digest == stained.digest != plain.digest
    part = rendered("d.tiff", region=(100, 50, 300, 200), stain="violet", stain_field=0.2)
    assert (part.width, part.options["stain"]) == (300, "violet")
    np.testing.assert_array_equal(tifffile.imread("d.tiff"), expected[50:250, 100:400])
    with tifffile.TiffFile("b.tiff") as tif:
        assert "Stain = violet" in tif.pages.first.description.replace("aperio.", "")


def test_the_stain_of_a_picture_is_taken_over(here: Path) -> None:
    wanted = mixed(haematoxylin=1.5, eosin=0.6, gains=(1.2, 0.9, 1.1))
    cv2.imwrite("r.png", picture(wanted)[..., ::-1])
    assert stain_change("r.png", seed=0).target.strength == pytest.approx(wanted.strength, rel=0.15)  # type: ignore[union-attr]
    rendered("s.tiff", stain="r.png")
    with tifffile.TiffFile("s.tiff") as tif:
        assert "Stain = of r.png" in tif.pages.first.description


def test_a_stain_upon_a_style_is_that_stain(here: Path) -> None:
    """What is unmixed is the stain of the style's picture: a stain that is changed twice is none that slides have."""
    own = mixed(haematoxylin=1.3, eosin=0.7, gains=(1.2, 0.9, 1.1))
    cv2.imwrite("own.png", picture(own)[..., ::-1])
    card = load_model("safron-tissue").card
    for wanted, target in (("pink", LOOKS["pink"]), ("random:3", random_stain(3))):
        drawn = picture(own)
        change = choose_stain(card, RenderOptions(stain=wanted, style="own.png"))
        assert change is not None
        change.apply(drawn, 0, 0)
        away = np.abs(drawn.mean(axis=(0, 1)) - picture(target).mean(axis=(0, 1)))
        assert away.max() < 6
    assert choose_stain(card, RenderOptions(style="own.png")) is None
    for style in (None, "default"):
        change = choose_stain(card, RenderOptions(stain="pink", style=style))
        assert change is not None
        assert change.source == DRAWN["safron-tissue"]


def test_a_generator_with_a_stain_of_its_own_gives_a_warning(here: Path) -> None:
    model = write_onnx(here / "own.onnx", card={**CARD, "name": "own"})
    known = rendered("a.tiff", stain="pink")
    own = [
        render(MASK, f"{stain}.tiff", model=model, workers=1, stain=stain) for stain in ("reference", "pink")
    ]
    assert [any("--stain" in note for note in report.warnings) for report in (known, *own)] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stain": "purple"}, "must be reference, pale, .*there is no such look or file"),
        ({"stain": "x.txt"}, "cannot read it as a slide or image"),
        ({"stain_field": 0.7}, "must be 0 to 0.5"),
        ({"stain_field": float("nan")}, "must be 0 to 0.5"),
    ],
)
def test_bad_stains_are_refused_in_one_line(here: Path, options: dict[str, Any], message: str) -> None:
    Path("x.txt").write_text("no picture")
    with pytest.raises(BadInput, match=message) as caught:
        rendered("s.tiff", **options)
    assert "\n" not in str(caught.value)
    assert not Path("s.tiff").exists()
