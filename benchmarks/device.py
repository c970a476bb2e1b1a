"""How much of a device's time does the engine use, whatever the device?

    python benchmarks/device.py                                   16,384 x 16,384, a device of 600 patches a second
    python benchmarks/device.py --rate 3000 --workers 4 16

The device is played by a wait: it takes the shipped generator's windows and noise in batches, one batch after the other, waits as long
as it would compute, and gives back the same image each time. So everything is the engine's that is not the wait, and what
this machine's cores bound shows as well. "Useful" is patches over what the device could have run in the wall time of
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
from common import write_mask
from safron.engine import load_model, render, rendering
from safron.engine.generator.onnx_model import check_output


class Device:
    """A generator that takes a fixed time a patch and none of the cores.

    Parameters
    ----------
    rate : patches a second.
    """

    device, sha256 = "cuda:0", "0" * 64

    def __init__(self, rate: float, batch: int) -> None:
        self.card = load_model("safron-seamless", device="cpu").card
        tissue = np.random.default_rng(0).normal(180, 30, (1, self.card.tile, self.card.tile, 3))
        self._image = np.repeat(np.clip(tissue, 0, 255).astype(np.float32), batch, axis=0)
        self._rate, self._turn = rate, threading.Lock()
        self.patches = 0

    def __call__(
        self, labels: npt.NDArray[np.uint8], noise: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[Any]:
        """Wait, and return an image."""
        with self._turn:
            time.sleep(len(labels) / self._rate)
            self.patches += len(labels)
        return check_output(self._image[: len(labels)], labels, self.card)


def measure(args: argparse.Namespace, mask: Path, workers: int, *, shared: bool) -> dict[str, Any]:
    """Render once; the five batches of the warm-up are not counted."""
    device = Device(args.rate, args.batch)
    decide = rendering.open_pool
    if not shared:
        rendering.open_pool = lambda model, info, plan: decide(model, replace(info, same_places=False), plan)
    try:
        start = time.perf_counter()
        report = render(
            mask,
            mask.with_name("slide.tiff"),
            model=device,
            workers=workers,
            batch=args.batch,
            overwrite=True,
        )
        seconds = time.perf_counter() - start
    finally:
        rendering.open_pool = decide
    copies = device.patches - 5 * args.batch - report.generated
    row = {
        "workers": workers, "batches": "shared" if shared else "apart", "seconds": round(seconds, 2), "patches": report.generated,
        "copies": copies, "useful": round(report.generated / args.rate / seconds, 3),
    }  # fmt: skip
    print(
        f"{workers:>7} {row['batches']:>8} {seconds:>8.2f} {report.generated:>8} {copies:>7} {row['useful']:>7.3f}",
        flush=True,
    )
    return row


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=16384, help="pixels of the canvas")
    parser.add_argument("--rate", type=float, default=600, help="patches a second of the device")
    parser.add_argument("--batch", type=int, default=32, help="patches a call")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4, 8])
    args = parser.parse_args()
    print("workers  batches  seconds  patches  copies  useful")
    with tempfile.TemporaryDirectory() as name:
        mask = Path(name) / "mask.zarr"
        write_mask(mask, args.side)
        rows = [
            measure(args, mask, workers, shared=shared)
            for workers in args.workers
            for shared in (False, True)
        ]
    print(json.dumps({"benchmark": "device", "side": args.side, "rate": args.rate, "rows": rows}))


if __name__ == "__main__":
    main()
