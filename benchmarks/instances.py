"""What does it cost to read numbers of nuclei beside labels? Bound of the task: 1.3 times the labels' cost.

    python benchmarks/instances.py MASK --side 8192

MASK is an OME-Zarr with labels/class and labels/instance. Reads a square of it from its upper left corner as a render does: row
of patches after row of patches, 2184 pixels wide, block after block, through the cache of chunks. Prints the CPU time of
labels, of numbers and of edges from both, in turns; labels and numbers with an empty cache, edges with what it kept. Files come
from memory, not from the disk. A thread reads, as in a render: in the main thread Blosc would take others to help.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

from common import parser_of
from safron.engine.system.memory import keep_one_heap
from safron.io.masks.edges import find_edges
from safron.io.masks.mask import LabelMask
from safron.io.masks.open import open_mask

BLOCK, STRIDE, PATCH, MARGIN = 2048, 236, 256, 20
NUCLEI = (2, 3, 4, 5)


def windows(side: int) -> Iterator[tuple[slice, slice]]:
    """What edges of the patches that begin in each block need: a pixel more than they see, without the rows that the row above read."""
    for top, left in product(range(0, side, BLOCK), repeat=2):
        first, last = (-(-at // STRIDE) * STRIDE for at in (left, min(left + BLOCK, side)))
        around = MARGIN + 1
        cols = slice(max(0, first - around), min(side, last - STRIDE + PATCH + around))
        seen = -1
        for y in range(-(-top // STRIDE) * STRIDE, min(top + BLOCK, side), STRIDE):
            stop = min(side, y + PATCH + around)
            yield slice(max(0, y - around, seen - 2), stop), cols
            seen = stop


def cpu(read: Callable[[tuple[slice, slice]], object], side: int) -> float:
    """CPU seconds to read all windows."""
    began = time.process_time()
    for place in windows(side):
        read(place)
    return time.process_time() - began


def edges(mask: LabelMask, numbers: LabelMask, place: tuple[slice, slice]) -> object:
    """Find the edges of a window."""
    return find_edges(mask[place], NUCLEI, numbers[place])


def main() -> None:
    """Measure and print."""
    parser = parser_of(__doc__)
    parser.add_argument("mask", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    keep_one_heap()
    found: dict[str, list[float]] = {"labels": [], "numbers": [], "edges": []}
    thread = ThreadPoolExecutor(1)
    for _ in range(1 + chosen.repeats):
        mask = open_mask(chosen.mask)
        side = min(chosen.side, *mask.shape)
        numbers = mask.beside["instances"]
        mask.keep_chunks(block=BLOCK, workers=1)
        reads = {
            "labels": mask.__getitem__,
            "numbers": numbers.__getitem__,
            "edges": partial(edges, mask, numbers),
        }
        for name, read in reads.items():
            found[name].append(thread.submit(cpu, read, side).result())
    each = {name: median(times[1:]) for name, times in found.items()}
    print(f"{side} x {side} pixels: " + ", ".join(f"{name} {1e3 * each[name]:.0f} ms" for name in each))
    print(json.dumps({"side": side, "ratio": each["numbers"] / each["labels"], **each}))


if __name__ == "__main__":
    main()
