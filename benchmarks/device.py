"""How much of a device's time does the engine use, whatever the device?

    python benchmarks/device.py                                   16,384 x 16,384, a device of 600 patches a second
    python benchmarks/device.py --rate 3000 --workers 4 16
    python benchmarks/device.py --memory fresh kept                and what memory that is kept and pinned saves

The device is played by a wait: it takes the shipped generator's windows and noise in batches, one batch after the other, waits as long
as it would compute, and gives back the same image each time. So everything is the engine's that is not the wait, and what
this machine's cores bound shows as well. With "kept" memory (`safron.engine.generator.host_memory`) the device takes and gives all by
itself; with "fresh" memory a core copies every batch once more, as the driver does with memory that is not pinned, and the image lies in new pages.
"Core s" is the CPU time of all threads, "Mpx/core s" the canvas over it. "Useful" is patches over what the device could have run in the wall time of
the render; "copies" are patches that fill up batches. Rows with "apart" keep each task's patches in batches of its own.

A table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import parser_of, write_mask
from safron.engine import load_model, render, rendering
from safron.engine.generator.contract import check_output
from safron.engine.system.memory import keep_one_heap


class Device:
    """A generator that takes a fixed time a patch and none of the cores.

    Parameters
    ----------
    rate : patches a second.
    batch : patches a call.
    kept : whether memory is kept and pinned.
    """

    device, sha256 = "cuda:0", "0" * 64

    def __init__(self, rate: float, batch: int, *, kept: bool) -> None:
        self.card = load_model("safron-seamless", device="cpu").card
        tissue = np.random.default_rng(0).normal(180, 30, (1, self.card.tile, self.card.tile, 3))
        self._image = np.repeat(np.clip(tissue, 0, 255).astype(np.float32), batch, axis=0)
        self._rate, self._turn, self._kept = rate, threading.Lock(), kept
        self._staging = np.empty(1 << 22, np.uint8)
        self.patches = 0

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        """Wait, and return an image."""
        image = self._image[: len(labels)]
        with self._turn:
            if not self._kept:
                for given in (labels, noise):
                    self._stage(given)
                image = image.copy()
            time.sleep(len(labels) / self._rate)
            self.patches += len(labels)
        return check_output(image, labels, self.card)

    def _stage(self, given: npt.NDArray[Any] | None) -> None:
        """Copy a batch piece by piece into memory from which the device would take it."""
        flat = np.empty(0, np.uint8) if given is None else given.reshape(-1).view(np.uint8)
        for start in range(0, flat.size, self._staging.size):
            part = flat[start : start + self._staging.size]
            self._staging[: part.size] = part


def measure(
    args: argparse.Namespace, mask: Path, workers: int | None, memory: str, *, shared: bool
) -> dict[str, Any]:
    """Render once; the five batches of the warm-up are not counted."""
    device = Device(args.rate, args.batch, kept=memory == "kept")
    decide = rendering.open_pool
    if not shared:
        rendering.open_pool = lambda model, info, plan: decide(model, replace(info, same_places=False), plan)
    try:
        start, before = time.perf_counter(), time.process_time()
        report = render(
            mask,
            mask.with_name("slide.tiff"),
            model=device,
            workers=workers,
            batch=args.batch,
            overwrite=True,
            memory=16 << 30,
        )
        seconds, cores = time.perf_counter() - start, time.process_time() - before
    finally:
        rendering.open_pool = decide
    copies = device.patches - 5 * args.batch - report.generated
    row = {
        "workers": workers, "memory": memory, "core_s": round(cores, 2), "mpx_per_core_s": round(args.side**2 / 1e6 / cores, 1), "batches": "shared" if shared else "apart", "seconds": round(seconds, 2), "patches": report.generated,
        "copies": copies, "useful": round(report.generated / args.rate / seconds, 3),
    }  # fmt: skip
    print(
        f"{workers or 'usual':>7} {memory:>6} {row['batches']:>8} {cores:>7.2f} {row['mpx_per_core_s']:>10.1f} {seconds:>8.2f} {report.generated:>8} {copies:>7} {row['useful']:>7.3f}",
        flush=True,
    )
    return row


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--side", type=int, default=16384, help="pixels of the canvas")
    parser.add_argument("--rate", type=float, default=600, help="patches a second of the device")
    parser.add_argument("--batch", type=int, default=32, help="patches a call")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[None],
        help="blocks in flight; unless given, as a render chooses",
    )
    parser.add_argument("--memory", choices=["fresh", "kept"], nargs="+", default=["kept"])
    parser.add_argument("--batches", choices=["apart", "shared"], nargs="+", default=["shared"])
    args = parser.parse_args()
    keep_one_heap()  # as the command does
    print("workers memory  batches  core s Mpx/core s  seconds  patches  copies  useful")
    with tempfile.TemporaryDirectory() as name:
        mask = Path(name) / "mask.zarr"
        write_mask(mask, args.side)
        rows = [
            measure(args, mask, workers, memory, shared=batches == "shared")
            for workers in args.workers
            for memory in args.memory
            for batches in args.batches
        ]
    print(json.dumps({"benchmark": "device", "side": args.side, "rate": args.rate, "rows": rows}))


if __name__ == "__main__":
    main()
