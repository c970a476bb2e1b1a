"""A style is the look of a stain in nine numbers: measured on an image, named on a card, followed by a generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from cases import ExpectFail, check_fail, run_cli
from masks import blobs
from models import RampModel
from onnx_models import CARD
from safron.engine import render
from safron.engine.generator.card import Style, parse_card
from safron.engine.preparation.styles import choose_style
from safron.io.errors import BadInput
from safron.io.measures.style import STAINS, STYLE_NAMES, measure_style
from tiles import tissue

DEFAULT = (250.0, 240.0, 230.0, 0.6, 0.3, 0.1, 0.3, 0.2, 0.1)
DARK = (200.0, 201.0, 202.0, 1.2, 0.3, 0.1, 0.3, 0.2, 0.1)


def stained_image(background: tuple[int, int, int], haematoxylin: float, eosin: float) -> Any:
    """Half glass, half tissue of one stain and half as much of it in every second row."""
    unit = STAINS / np.linalg.norm(STAINS, axis=1, keepdims=True)
    density = haematoxylin * unit[0] + eosin * unit[1]
    image = np.empty((64, 80, 3))
    image[:] = background
    for rows, share in ((slice(32, None, 2), 1.0), (slice(33, None, 2), 0.5)):
        image[rows] = (np.array(background) + 1) * np.exp(-share * density) - 1
    return np.rint(image).astype(np.uint8)


def test_a_style_is_what_the_image_was_made_of() -> None:
    found = measure_style(stained_image((240, 235, 230), 1.0, 0.4))
    assert found.dtype == np.float32
    assert found.shape == (len(STYLE_NAMES),)
    assert found[:3].tolist() == [240, 235, 230]
    np.testing.assert_allclose(found[3:], [0.75, 0.3, 0, 0.25, 0.1, 0], atol=0.01)


def test_an_image_without_tissue_has_no_stain() -> None:
    found = measure_style(np.full((8, 8, 3), 240, np.uint8))
    assert found.tolist() == [240, 240, 240, 0, 0, 0, 0, 0, 0]


class StyledModel(RampModel):
    """Draws each pixel as dark as its style's haematoxylin says, and background as its style's."""

    def __init__(self) -> None:
        super().__init__()
        self.card = replace(self.card, style=Style(STYLE_NAMES, DEFAULT, {"dark": DARK}))

    def __call__(self, labels: Any, noise: Any = None, **planes: Any) -> Any:
        c, style = self.card.context, planes["style"]
        assert style.shape == (len(labels), 9)
        image = np.empty((*labels[:, c:-c, c:-c].shape, 3), np.float32)
        image[:] = 100 * style[:, None, None, 3:4]
        return np.where((labels == 0)[:, c:-c, c:-c, None], style[:, None, None, :3], image).astype(
            np.float32
        )


def draw(tmp_path: Path, style: str | None) -> Any:
    mask = np.zeros((200, 200), np.uint8)
    mask[:60] = blobs(60, 200, cell=9)
    report = render(
        mask, tmp_path / f"{Path(style or 'none').stem}.tiff", model=StyledModel(), style=style,
        compression="none", tiff_tile=64, overlap=20,
    )  # fmt: skip
    return report, np.asarray(tifffile.imread(report.out, level=0)), mask


def test_a_slide_has_the_style_asked_for_and_its_background_everywhere(tmp_path: Path) -> None:
    image = tissue(200)
    cv2.imwrite(str(tmp_path / "image.png"), image[..., ::-1])
    measured = measure_style(image)
    digests = set()
    for style, vector in (
        (None, DEFAULT),
        ("default", DEFAULT),
        ("dark", DARK),
        (str(tmp_path / "image.png"), measured),
    ):
        report, slide, mask = draw(tmp_path, style)
        assert np.array_equal(slide[mask > 0], np.full(((mask > 0).sum(), 3), round(float(100 * vector[3]))))
        assert (slide[mask == 0] == np.rint(vector[:3])).all()
        digests.add(report.digest)
    assert len(digests) == 4, "the slide says which style was asked for"


FLAT = np.zeros((256, 256, 3), np.uint8)
NOISE = np.random.default_rng(0).normal(128, 30, (256, 256, 1)).clip(0, 255).astype(np.uint8)
PAIR = np.array([[255, 255, 255], [230, 130, 180], [110, 80, 150]], np.uint8)
BLUE = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0]], np.uint8)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (FLAT + np.uint8(255), "has 0 pixels of stained tissue"),
        (FLAT + np.uint8(128), "shows one stain alone"),
        (FLAT + np.array([255, 0, 0], np.uint8), "shows one stain alone"),
        (NOISE.repeat(3, axis=2), "shows one stain alone"),
        (tissue(20), "has 400 pixels of stained tissue; 1000 are needed"),
        (PAIR[blobs(256, 256)], "has 3 colours, as a mask or a drawing; give a picture of tissue"),
        (
            np.abs(BLUE[blobs(256, 256)].astype(np.int16) - NOISE % 12).astype(np.uint8),
            "has colours that no stain has, as a mask or a drawing",
        ),
    ],
)
def test_a_style_is_not_measured_where_there_is_no_tissue(picture: Any, says: str, tmp_path: Path) -> None:
    """Whatever the picture is, its nine numbers exist, and the slide would be a pale ghost or green."""
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), picture[..., ::-1])
    with pytest.raises(BadInput) as caught:
        choose_style(StyledModel().card, str(path))
    assert str(caught.value).startswith(f"--style {path}: {says}")


def test_what_is_wrong_with_a_style_is_said() -> None:
    card = StyledModel().card
    with pytest.raises(
        BadInput, match=r"--style blue: neither a style of generator .* \(default, dark\) nor an image file"
    ):
        choose_style(card, "blue")
    with pytest.raises(BadInput, match="takes no style; leave it out"):
        choose_style(replace(card, style=None), "dark")
    foreign = replace(card, style=Style(("a", "b"), (1.0, 2.0)))
    with pytest.raises(BadInput, match="cannot be measured on an image"):
        choose_style(foreign, __file__)
    assert choose_style(foreign, None).labels == card.labels


@pytest.mark.parametrize(
    ("style", "says"),
    [
        ({"numbers": ["a"], "default": [1, 2]}, "default has 2 values; its numbers are 1"),
        ({"numbers": ["a"], "default": [1], "named": {"x": []}}, "x has 0 values; its numbers are 1"),
        ({"numbers": ["a"], "default": ["b"]}, "style.default"),
        ({"default": [1]}, "style.numbers"),
    ],
)
def test_a_card_says_what_is_wrong_with_its_style(style: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        parse_card(json.dumps(CARD | {"style": style}), source="g.onnx")


def test_the_command_refuses_a_style_that_the_generator_does_not_take(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mask = tmp_path / "mask.png"
    cv2.imwrite(str(mask), blobs(64, 64, cell=9))
    check_fail(
        run_cli(capfd, "--model safron-seamless --style pale", mask, tmp_path / "s.tiff"),
        ExpectFail("a style", "", ("generator 'safron-seamless' takes no style; leave it out",)),
    )
