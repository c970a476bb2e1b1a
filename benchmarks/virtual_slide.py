"""How much more than the generator's own calls does a region of a virtual slide cost, and how soon is it there again?

    python benchmarks/virtual_slide.py                     the generator that ships, on all cores
    python benchmarks/virtual_slide.py --threads 1 --regions 40

Reads regions of 256 x 256 pixels of level 0 at random places of the gland mask. Before each, the generator is called on as
many patches as the region needs, labels and noise at hand, as many calls at a time as the engine makes; both take turns, so
that a busy machine slows both. Then each region is read again, and tiles of level 2. Ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from common import GLANDS, timed
from safron.engine import VirtualSlide
from safron.engine.generator.inputs import read_labels
from safron.engine.generator.planes import Inputs, call_with, one_patch
from safron.engine.preparation.options import DEFAULT_MODEL
from safron.engine.virtual.tiles import TILE


def needed(slide: VirtualSlide, x: int, y: int) -> list[Inputs]:
    """Inputs of all patches that write into a region, without those that are background alone."""
    plan, card = slide.plan, slide.job.model.card
    rows = plan.grid.rows.touching(y, y + TILE)
    columns = plan.grid.columns.touching(x, x + TILE)
    inputs = []
    for read in (plan.grid[row, column].read for row in rows for column in columns):
        labels = read_labels(slide.mask, read, outside=card.outside)
        if not card.is_fill[labels].all():
            inputs.append(one_patch(slide.job.sources, labels, read))
    return inputs


def main() -> None:
    """Measure, print a line a region, then all as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--regions", type=int, default=20)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    with VirtualSlide(GLANDS, model=args.model, threads=args.threads, device="cpu") as slide:
        model = slide.model

        def call(one: Inputs) -> Any:
            return call_with(model, one)

        calls = ThreadPoolExecutor(slide.job.model.calls or 1)
        width, height = slide.dimensions
        rows: list[dict[str, float]] = []
        while len(rows) < args.regions:
            x, y = int(random.integers(0, width - TILE)), int(random.integers(0, height - TILE))
            inputs = needed(slide, x, y)
            if not inputs:
                continue
            slide.forget(slide.plan.canvas)
            bare = timed(lambda given=inputs: list(calls.map(call, given)))
            read = partial(slide.read_region, (x, y), 0, (TILE, TILE))
            first, again = timed(read), min(timed(read) for _ in range(3))
            rows.append({"patches": len(inputs), "bare_s": bare, "first_s": first, "again_s": again})
            print(
                f"{x:5} {y:5}  {len(inputs)} patches  bare {bare * 1e3:7.1f} ms  "
                f"read {first * 1e3:7.1f} ms  {first / bare:5.2f}  again {again * 1e3:5.2f} ms"
            )
        tile = partial(slide.read_region, (x >> 10 << 10, y >> 10 << 10), 2, (TILE, TILE))
        made, kept = timed(tile), min(timed(tile) for _ in range(5))
    found = {
        "ratio": median(row["first_s"] / row["bare_s"] for row in rows),
        "ratio_of_sums": sum(row["first_s"] for row in rows) / sum(row["bare_s"] for row in rows),
        "again_ms": 1e3 * median(row["again_s"] for row in rows),
        "again_worst_ms": 1e3 * max(row["again_s"] for row in rows),
        "level_2_s": made,
        "level_2_again_ms": 1e3 * kept,
        "threads": args.threads,
        "rows": rows,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
