"""The page of ``safron-view`` in a real browser: it opens, zooms, shows labels, paints, saves, and fits a phone."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from masks import blobs
from models import RampModel
from PIL import Image

pytest.importorskip("playwright.sync_api")
pytest.importorskip("uvicorn")
from safron.engine.viewing.scene import open_scene
from view_pages import serving

LABELS = blobs(1200, 1600, seed=5)


def pixel(page: Any, x: int, y: int) -> list[int]:
    """A pixel of what is drawn, RGBA."""
    found: list[int] = page.evaluate(
        "([x, y]) => [...document.querySelector('#viewer .openseadragon-canvas canvas').getContext('2d').getImageData(x, y, 1, 1).data]",
        [x, y],
    )
    return found


def until(condition: Callable[[], bool]) -> None:
    """Wait; the page's own policy forbids what `wait_for_function` does."""
    for _ in range(400):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(inspect.getsource(condition))


def test_a_mask_is_looked_at_painted_and_saved(browser: Any, here: Path) -> None:
    zarr.save_array(here / "mask.zarr", LABELS)
    scene = open_scene("mask.zarr", None, model=RampModel(), tile=64, mpp=0.5)
    with serving(scene) as served:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(40_000)
        troubles: list[str] = []
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("body[data-open][data-done=true]")
        assert page.inner_text("#name") == "mask.zarr"
        assert "1,600 \u00d7 1,200 px" in page.inner_text("#facts")
        until(lambda: len(page.query_selector_all("#legend tr")) == 3 and not page.inner_text("#counting"))
        assert page.inner_text("#scale span") == "100 \u00b5m"
        assert page.inner_text("#view-progress") == "This view is rendered"

        # Closer: another scale, and more tiles.
        for _ in range(3):
            page.keyboard.press("+")
        until(lambda: page.inner_text("#scale span") == "20 \u00b5m")
        page.wait_for_selector("body[data-done=true]")

        # Labels over it change what is drawn.
        tissue = pixel(page, 496, 300)
        page.keyboard.press("l")
        until(lambda: page.is_checked("#labels-on"))
        page.click("#legend tr:first-child .chip")  # background is hidden at first
        until(lambda: pixel(page, 496, 300) != tissue)

        # Brush, and save.
        page.keyboard.press("b")
        page.select_option("#brush-label", "2")
        page.mouse.move(400, 330)
        page.mouse.down()
        page.mouse.move(560, 330, steps=6)
        page.mouse.up()
        page.wait_for_selector("#undo:not([disabled])")
        assert "px" in page.inner_text("#legend tr:first-child .name")
        page.keyboard.press("p")
        for x, y in ((600, 400), (680, 400), (640, 470)):
            page.mouse.click(x, y)
            page.wait_for_timeout(350)
        page.keyboard.press("Enter")
        until(lambda: scene.labels is not None and scene.labels.mask.strokes == 2)
        page.keyboard.press("s")
        page.fill("#save-name", "painted.zarr")
        page.click("#save-go")
        page.wait_for_selector("#note:has-text('Saved as')")
        saved = np.asarray(zarr.open_array(here / "painted.zarr")[:])
        assert 2000 < (saved != LABELS).sum() < 40_000
        assert set(np.unique(saved[saved != LABELS])) == {2}
        np.testing.assert_array_equal(np.asarray(zarr.open_array(here / "mask.zarr")[:]), LABELS)
        page.keyboard.press("s")
        page.click("#save-go")
        page.wait_for_selector("#save-trouble:has-text('exists')")
        page.keyboard.press("Escape")

        # Picture of the view, seam, another seed.
        page.keyboard.press("v")
        with page.expect_download() as download:
            page.keyboard.press("d")
        assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")
        assert download.value.suggested_filename.startswith("mask-x")
        page.wait_for_selector("body[data-done=true]")
        page.keyboard.press("w")
        page.wait_for_selector("#note:has-text('grey levels')")
        page.keyboard.press("n")
        until(lambda: page.input_value("#seed") == "1")
        page.select_option("#stain", "violet")
        until(lambda: scene.picture.slide.options.stain == "violet")  # type: ignore[union-attr]
        until(lambda: page.input_value("#stain") == "violet" and page.input_value("#seed") == "1")
        assert not [text for text in troubles if "400" not in text]
        page.close()


def test_labels_are_painted_by_keys_alone(browser: Any, here: Path) -> None:
    zarr.save_array(here / "mask.zarr", np.zeros((1200, 1600), np.uint8))
    scene = open_scene("mask.zarr", None, model=RampModel(), tile=64)
    with serving(scene) as served:
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(40_000)
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("body[data-open]")
        for key in ("1", "b", " ", "ArrowRight", "ArrowRight", " "):
            page.keyboard.press(key)
        assert scene.labels is not None
        until(lambda: scene.labels.mask.strokes == 1)  # type: ignore[union-attr]
        labels = scene.labels.mask[0:1200, 0:1600]
        rows, cols = (np.flatnonzero((labels == 2).any(axis=axis)) for axis in (1, 0))
        # From the middle of the mask, 160 pixels on, as wide as the brush.
        assert abs(cols[0] + rows[-1] - rows[0] + 160 - cols[-1]) <= 2
        assert abs(rows.mean() - 600) < 2
        assert abs(cols.mean() - 880) < 2
        for key in ("p", " ", "ArrowDown", " ", "ArrowRight", " ", "Enter"):
            page.keyboard.press(key)
        until(lambda: scene.labels.mask.strokes == 2)  # type: ignore[union-attr]
        # Strokes are drawn over the picture until it shows them itself.
        page.keyboard.press("v")
        pen = "document.getElementById('overlay').getContext('2d')"
        until(lambda: not page.evaluate(f"{pen}.getImageData(0, 0, 992, 674).data.some(Boolean)"))
        page.close()


def test_labels_are_painted_by_touch(browser: Any, here: Path) -> None:
    """On a phone: a double tap closes a polygon, and a finger draws with the brush."""
    zarr.save_array(here / "mask.zarr", np.zeros((1200, 1600), np.uint8))
    scene = open_scene("mask.zarr", None, model=RampModel(), tile=64)
    with serving(scene) as served:
        phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
        page = phone.new_page()
        page.set_default_timeout(40_000)
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("body[data-open]")
        page.tap("[data-tool=polygon]")
        for x, y in ((150, 380), (250, 380), (200, 460)):
            page.touchscreen.tap(x, y)
            page.wait_for_timeout(700)
        assert scene.labels is not None
        assert scene.labels.mask.strokes == 0
        page.touchscreen.tap(170, 440)
        page.touchscreen.tap(170, 440)
        until(lambda: scene.labels.mask.strokes == 1)  # type: ignore[union-attr]
        page.tap("[data-tool=brush]")
        touch = phone.new_cdp_session(page)
        for kind, points in [
            ("touchStart", [{"x": 120, "y": 500}]),
            *(("touchMove", [{"x": 120 + 15 * step, "y": 500}]) for step in range(8)),
            ("touchEnd", []),
        ]:
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            page.wait_for_timeout(30)
        until(lambda: scene.labels.mask.strokes == 2)  # type: ignore[union-attr]
        cols = np.flatnonzero((scene.labels.mask[0:1200, 0:1600] == 2).any(axis=0))
        assert np.ptp(cols) > 400  # a hundred pixels of the screen are 410 of the mask
        phone.close()


def test_it_fits_a_phone(browser: Any, here: Path) -> None:
    zarr.save_array(here / "mask.zarr", LABELS[:300, :400])
    with serving(open_scene("mask.zarr", None, model="identity")) as served:
        page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("body[data-open]")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert not page.is_visible("#panel")
        page.click("#panel-button")
        page.wait_for_selector("#panel.open")
        assert page.is_visible("#legend")

        def box(name: str) -> dict[str, float]:
            found: dict[str, float] = page.locator(name).bounding_box()
            return found

        page.wait_for_timeout(400)
        assert box("#panel")["y"] >= box("#tools")["y"] + box("#tools")["height"]
        page.click("#panel-button")
        page.keyboard.press("w")
        page.keyboard.press("p")
        page.wait_for_selector("#note:not([hidden])")
        page.mouse.move(200, 400)
        page.wait_for_selector("#where:not(:empty)")
        for one, other in (("#note", "#brush-options"), ("#brush-options", "#where"), ("#where", "#scale")):
            assert box(one)["y"] + box(one)["height"] <= box(other)["y"], (one, other)
        page.close()


def test_a_slide_alone_offers_what_it_has(browser: Any, here: Path) -> None:
    """On a phone and on a wide screen: name and size are read, no control is cut, and no key is named that does nothing."""
    Image.fromarray(np.full((300, 400, 3), 200, np.uint8)).save("slide.tiff")
    with serving(open_scene("slide.tiff", None)) as served:
        for width, height in ((390, 844), (1280, 720)):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="dark")
            page.goto(f"http://127.0.0.1:{served.port}/")
            page.wait_for_selector("body[data-open]")
            assert page.inner_text("#name") == "slide.tiff"
            assert page.inner_text("#facts") == "400 \u00d7 300 px"
            if width == 390:
                page.click("#panel-button")
                page.wait_for_timeout(400)
            for name in (
                "#facts",
                "#panel-button",
                "#tools",
                "#scale",
                "#tissue-on",
                "#download",
                "#help-button",
            ):
                for box in [found for one in page.locator(name).all() if (found := one.bounding_box())]:
                    assert 0 <= box["x"] <= box["x"] + box["width"] <= width, name
                    assert 0 <= box["y"] <= box["y"] + box["height"] <= height, name
            assert not page.is_visible("[data-tool=pan]")
            page.keyboard.press("?")
            keys = page.inner_text("#help dl")
            assert "whole slide" in keys
            assert not [word for word in ("brush", "labels", "seam", "seed", "blocks") if word in keys]
            assert contrast(page, "#help dt", "#help") > 4.5
            assert contrast(page, "#facts", "header") > 4.5
            page.close()


def contrast(page: Any, front: str, behind: str) -> float:
    """Ratio of the luminances of a text and its ground, as WCAG has it."""
    said = page.evaluate(
        "([a, b]) => [getComputedStyle(document.querySelector(a)).color, getComputedStyle(document.querySelector(b)).backgroundColor]",
        [front, behind],
    )
    light = []
    for text in said:
        parts = np.array([int(part) for part in re.findall(r"\d+", text)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ (0.2126, 0.7152, 0.0722)))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_what_cannot_be_opened_is_said_in_the_page(browser: Any, here: Path) -> None:
    zarr.save_array(here / "mask.zarr", np.full((300, 300), 9, np.uint8))
    with serving(open_scene("mask.zarr", None, model=RampModel(), tile=64)) as served:
        page = browser.new_page(viewport={"width": 800, "height": 600})
        page.goto(f"http://127.0.0.1:{served.port}/")
        page.wait_for_selector("#note.bad:has-text('is unknown to generator')")
        page.close()
