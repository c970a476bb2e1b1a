"""What does the page of safron-view look like? Takes the picture of docs/view.md, in Chromium.

    python docs/draw_view.py

opens the shipped mask, paints a gland, and writes docs/images/view.png. Needs the extra `view`, playwright and Chromium.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "images" / "view.png"
SIZE = {"width": 1180, "height": 660}


def main() -> None:
    """Start the program, look, and write the picture with few colours, which keeps it small."""
    command = [
        sys.executable,
        "-m",
        "safron.engine.viewing.cli",
        str(ROOT / "examples" / "glands.zarr"),
        "--no-browser",
    ]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program,
        sync_playwright() as started,
    ):
        try:
            assert program.stdout is not None
            url = program.stdout.readline().split()[1]
            browser = started.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"] if os.geteuid() == 0 else []
            )
            page = browser.new_page(viewport=SIZE)
            page.goto(url)
            page.wait_for_selector("body[data-open]", timeout=120_000)
            page.mouse.move(480, 180)
            for _ in range(5):
                page.mouse.wheel(0, -300)
                page.wait_for_timeout(500)
            page.click("[data-tool=brush]")
            page.mouse.move(360, 560)
            page.mouse.down()
            page.mouse.move(440, 575, steps=5)
            page.mouse.move(520, 545, steps=5)
            page.mouse.up()
            page.keyboard.press("v")
            page.click("#outline")
            page.wait_for_timeout(2000)
            page.wait_for_selector("body[data-done=true]", timeout=300_000)
            page.mouse.move(430, 560)
            page.mouse.move(440, 560)
            page.wait_for_timeout(2500)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            shot.quantize(160, dither=Image.Dither.NONE).save(OUT, optimize=True)
            browser.close()
        finally:
            program.terminate()


if __name__ == "__main__":
    main()
