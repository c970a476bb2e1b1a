"""The page shows slide, labels and numbers without anything from elsewhere, and its command makes the same slide."""

from __future__ import annotations

import base64
import json
import re
import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from masks import blobs
from safron.engine import render
from safron.engine.cli import main
from safron.engine.seam_plot import steps_by_place
from safron.io.errors import BadInput

pytestmark = pytest.mark.usefixtures("here")
MASK = blobs(500, 700)


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    zarr.save_array("m & <b>.zarr", MASK)
    report = render(
        "m & <b>.zarr", "s.tiff", model="identity", mpp=0.5, workers=1, seed=4, stain="pink", compression="deflate",
        html="r.html", region=(10, 20, 600, 400),
    )  # fmt: skip
    text = Path("r.html").read_text()
    page = Page(text)
    assert len(page.links) == 2
    assert all(link.startswith("data:image/") for link in page.links)
    assert "http" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "b" not in page.tags
    slide, labels = (
        cv2.imdecode(np.frombuffer(base64.b64decode(link.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        for link in page.links
    )
    assert slide.shape == labels.shape == (400, 600, 3)
    colours = np.array([[255, 0, 0], [0, 0, 255], [0, 255, 0]])
    shown = MASK[20:420, 10:610]
    np.testing.assert_array_equal(labels, colours[shown])
    for part in (
        report.digest,
        "identity",
        "pink",
        "4",
        "peak of this process",
        "stain",
        "Patches meet at 0 and 20",
    ):
        assert part in page.text
    said = json.loads(re.search(r"<script type='application/json' id=report>(.*?)</script>", text, re.S)[1])  # type: ignore[index]
    assert said["digest"] == report.digest
    share = 100 * (shown == 2).mean()
    assert f"{share:.1f} %" in page.text
    command = shlex.split(unescape(re.search(r"<pre>(.*?)</pre>", text, re.S)[1]))  # type: ignore[index]
    command[2] = "again.tiff"
    command[command.index("--html") + 1] = "again.html"
    with pytest.raises(SystemExit) as caught:
        main([*command[1:], "--quiet"])
    assert caught.value.code == 0
    again = Path("again.html").read_text()
    assert report.digest in again


def test_what_cannot_be_is_refused() -> None:
    Path("r.html").write_text("mine")
    for name, message in (
        ("r.html", "exists already"),
        ("r.txt", "must end in .html"),
        ("no/r.html", "does not exist"),
    ):
        with pytest.raises(BadInput, match=message):
            render(MASK, "s.tiff", model="identity", mpp=0.5, html=name)
    assert Path("r.html").read_text() == "mine"


@pytest.mark.parametrize("shape", [(70, 9000), (2500, 1300)])
def test_the_picture_of_a_large_mask_shows_its_middles(shape: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 3, shape, dtype=np.uint8)
    report = render(labels, "s.tiff", model="identity", mpp=0.5, workers=1, html="r.html")
    assert report.width == shape[1]
    link = Page(Path("r.html").read_text()).links[1]
    picture = cv2.imdecode(
        np.frombuffer(base64.b64decode(link.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR
    )
    step = -(-max(shape) // 1200)
    shown = labels[step // 2 :: step, step // 2 :: step]
    assert picture.shape[:2] == shown.shape
    colours = {
        tuple(color): value
        for value, color in zip(shown.ravel().tolist(), picture.reshape(-1, 3).tolist(), strict=True)
    }
    found = np.array([colours[tuple(color)] for color in picture.reshape(-1, 3).tolist()])
    np.testing.assert_array_equal(found, shown.ravel())


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_a_seam_is_a_peak_where_patches_meet(ratio: float) -> None:
    """Patches of a stride of 40 drawn pixels, each of a brightness of its own, begin 13 drawn pixels before the first column."""
    rng = np.random.default_rng(0)
    image = rng.integers(100, 110, (60, 800, 3), np.uint8)
    drawn = (np.arange(800) * ratio + 13).astype(int)
    image += (10 * (drawn // 40 % 2)).astype(np.uint8)[None, :, None]
    steps = steps_by_place(image, 40, 13, ratio)
    assert int(np.nanargmax(steps)) == 0
    assert steps[0] > 1.5 * np.nanmedian(steps)


def test_it_fits_a_phone(browser: Any, here: Path) -> None:
    """Nothing is cut, no word of a name is broken, and charts keep their numbers on the screen."""
    render(MASK, "s.tiff", model="identity", mpp=0.5, workers=1, html="r.html")
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((here / "r.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for cell in page.locator(".bars td, .facts td:first-child, .chart span, .chart svg").all():
        box = cell.bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390, cell.inner_text()
    for row in page.locator(".bars tr").all():
        assert row.bounding_box()["height"] < 40, row.inner_text()
    for name in page.locator(".facts td:first-child").all():
        longest = max(name.inner_text().split(), key=len)
        assert name.bounding_box()["width"] > 6 * len(longest), longest
    page.close()
