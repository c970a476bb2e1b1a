"""What do a slide, labels for QuPath, a data set and a report look like? Takes pictures of README.md, docs/masks.md, data-sets.md and render.md.

    python docs/draw_shared.py

renders the shipped mask as `make demo` does, exports its regions, cuts tiles, and writes docs/images/preview.png, full-zoom.jpg,
regions.jpg, tiles.jpg and report.jpg. Needs playwright and Chromium.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np
import openslide
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images"
MASK = ROOT / "examples" / "glands.zarr"
X, Y, WIDTH, HEIGHT = 1300, 700, 1000, 420
FULL_ZOOM = 1548, 900, 1000, 700
"""A block ends in its middle."""


def main() -> None:
    """Make the pictures in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("glands.zarr").symlink_to(MASK)
        run("safron-render", "glands.zarr", "slide.tiff", "--html", "report.html", "--preview", "preview.png")
        run("safron-mask", "to-geojson", "glands.zarr", "regions.geojson")
        run("safron-tiles", "slide.tiff", "glands.zarr", "tiles", "--size", "512", "--by", "region")
        shutil.copy("preview.png", OUT)
        keep("full-zoom", part_of_slide(*FULL_ZOOM))
        keep("regions", regions())
        keep("tiles", tiles())
        keep("report", report())


def run(*words: str) -> None:
    """Run a program."""
    subprocess.run(words, check=True)


def keep(name: str, picture: Image.Image) -> None:
    """Write a picture."""
    picture.convert("RGB").save(OUT / f"{name}.jpg", quality=82, optimize=True)


def part_of_slide(x: int, y: int, width: int, height: int) -> Image.Image:
    """Part of the slide at full zoom."""
    with openslide.OpenSlide("slide.tiff") as slide:
        return slide.read_region((x, y), 0, (width, height)).convert("RGB")


def regions() -> Image.Image:
    """Part of the slide with the outlines of the exported regions."""
    picture = np.array(part_of_slide(X, Y, WIDTH, HEIGHT))
    for feature in json.loads(Path("regions.geojson").read_text())["features"]:
        rings = [np.array(ring, np.int32) - (X, Y) for ring in feature["geometry"]["coordinates"]]
        color = feature["properties"]["classification"]["color"]
        cv2.polylines(picture, rings, isClosed=True, color=color, thickness=2, lineType=cv2.LINE_AA)
    return Image.fromarray(picture)


def tiles() -> Image.Image:
    """Two tiles of each split above their masks, with a frame in the colour of the split."""
    with Path("tiles/tiles.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: -float(row["tissue"]))
    columns = []
    for split, frame in (("train", (47, 127, 134)), ("val", (194, 112, 61)), ("test", (122, 77, 155))):
        for row in [row for row in rows if row["split"] == split][:2]:
            pair = [Path("tiles", split, kind, f"{row['name']}.png") for kind in ("images", "masks")]
            image, labels = (np.asarray(Image.open(path)) for path in pair)
            colors = np.array([(255, 255, 255), (255, 0, 0), (0, 255, 0)], np.uint8)
            parts = [
                cv2.resize(part, (160, 160), interpolation=cv2.INTER_AREA) for part in (image, colors[labels])
            ]
            parts = [cv2.copyMakeBorder(part, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=frame) for part in parts]
            columns.append(np.concatenate(parts))
    return Image.fromarray(np.concatenate(columns, axis=1))


def report() -> Image.Image:
    """Take the upper part of the page of `--html`, labels half over the slide."""
    with sync_playwright() as started:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 900, "height": 1900})
        page.goto(Path("report.html").absolute().as_uri())
        page.fill("input[type=range]", "0.4")
        shot = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    return shot.resize((630, 1330), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
