"""How long does a synthetic picture of nuclei take on one core, against the paper's one second for 200 x 200 pixels?

    python benchmarks/synthesis.py tiles/              real H&E tiles; without any, made-up ones

CPU seconds of one thread, for taking tiles apart (once for each tile) and for drawing windows of several sizes, each
`--repeats` times; the least counts. The paper: Hou et al., Unsupervised Histopathology Image Synthesis (2017), section 2,
"one second by a single thread on a desktop CPU". A table, then one line of JSON.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from common import parser_of
from safron.io.synthesis.draw import Synthesizer
from safron.io.synthesis.layout import Layout
from safron.io.synthesis.textures import make_texture, make_textures
from safron.io.synthesis.tiles import read_tiles

PAPER_SECONDS_PER_PIXEL = 1 / 200**2


def made_up(side: int) -> npt.NDArray[np.uint8]:
    """An H&E-like tile: pink with grain, and dark discs."""
    rng = np.random.default_rng(0)
    eosin = 0.5 + 0.1 * cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 1.5)
    nuclei = np.zeros((side, side))
    for y, x in rng.integers(0, side, (side * side // 1500, 2)).tolist():
        cv2.circle(nuclei, (x, y), 8, 1.2, -1)
    density = eosin[..., None] * [0.07, 0.99, 0.11] + nuclei[..., None] * [0.65, 0.70, 0.29]
    return np.rint(255 * np.exp(-density)).astype(np.uint8)


def cpu_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Least CPU seconds of a call."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("tiles", nargs="*", type=Path)
    parser.add_argument("--sides", nargs="*", type=int, default=[200, 512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    tiles = read_tiles(chosen.tiles) if chosen.tiles else [("made up", made_up(512))]
    textures, _ = make_textures(tiles[:4])
    largest = max((rgb for _, rgb in tiles[:4]), key=np.size)
    rows = [
        (
            "take a tile apart",
            largest[..., 0].size,
            cpu_seconds(lambda: make_texture(largest), chosen.repeats),
        )
    ]
    for side in chosen.sides:
        synthesizer = Synthesizer(textures, Layout(0, side))

        def draw(side: int = side, synthesizer: Synthesizer = synthesizer) -> None:
            synthesizer.draw(0, 0, side, side)

        rows.append((f"draw {side} x {side}", side * side, cpu_seconds(draw, chosen.repeats)))
    results = []
    for name, pixels, seconds in rows:
        times = PAPER_SECONDS_PER_PIXEL * pixels / seconds
        results.append(
            {"step": name, "seconds": seconds, "s_per_mpx": seconds / pixels * 1e6, "times": times}
        )
        print(
            f"{name:20s} {seconds:8.3f} s  {seconds / pixels * 1e6:6.3f} s/Mpx  {times:6.1f} times the paper's pace"
        )
    print(json.dumps({"rows": results}))


if __name__ == "__main__":
    main()
