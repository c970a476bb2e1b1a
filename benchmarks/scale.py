"""Does it hold at any size: memory and speed against the canvas, and efficiency against the number of workers?

    python benchmarks/scale.py canvas               whole renders of 4096 to 100,000 pixels a side, identity generator or --model F
    python benchmarks/scale.py schedule             1 to 256 workers that sleep as a fast GPU would take; no arithmetic
    python benchmarks/scale.py workers --model F    two worker processes against one, one thread each

A table, then one line of JSON. `schedule` measures what schedules (this machine's Dask, one process for scheduler, driver
and workers) and says nothing of networks and disks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from common import parser_of, render_apart, write_mask
from safron.engine.execution.call_timer import CallTimer
from safron.engine.execution.dask_pool import DaskThreads
from safron.engine.execution.scheduling import Task, run_tasks
from safron.engine.plan.blocks import AxisBlocks
from safron.engine.plan.grid import AxisGrid

TILE, OVERLAP = 256, 20
# A generator of some GFLOP a patch in large batches on a data-centre GPU of 2024.
SECONDS_A_PATCH = 0.0002


class DiskWatch:
    """Watches how large a folder gets."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stop, self.peak = folder, threading.Event(), 0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            size = 0
            for file in self._folder.rglob("*"):
                try:
                    size += file.stat().st_size
                except OSError:  # gone meanwhile
                    continue
            self.peak = max(self.peak, size)

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def bench_canvas(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory, largest scratch and speed against canvas size, with the same options."""
    rows = []
    for side in args.sides:
        mask, work = folder / f"{side}.zarr", folder / "work"
        write_mask(mask, side)
        work.mkdir()
        free = psutil.disk_usage(str(folder)).free
        assert free > side * side * 0.6, f"{side} px need about {side * side * 0.6 / 1e9:.0f} GB of free disk"
        with DiskWatch(work / "slide.tiff.safron") as scratch:
            made = render_apart(
                work, mask, model=args.model, block=args.block, workers=args.workers, memory=args.memory
            )
        rows.append({
            "side": side,
            "peak_mib": round(made["peak_bytes"] / 2**20),
            "projected_mib": round(made["projected_bytes"] / 2**20),
            "seconds": round(made["seconds"], 1),
            "mpx_per_s": float(f"{made['megapixels_per_second']:.3g}"),
            "scratch_bytes_per_px": round(scratch.peak / side / side, 3),
            "slide_gb": round(made["output_bytes"] / 1e9, 2),
        })  # fmt: skip
        print(rows[-1], flush=True)
        shutil.rmtree(mask)
        shutil.rmtree(work)
    base = next((row for row in rows if row["side"] == 16384), rows[0])
    return {
        "benchmark": "canvas",
        "rows": rows,
        "memory_last_to_16k": round(rows[-1]["peak_mib"] / base["peak_mib"], 3),
        "time_per_pixel_last_to_16k": round(base["mpx_per_s"] / rows[-1]["mpx_per_s"], 3),
    }


def patches_of_block(block: int) -> tuple[int, int]:
    """Seam patches and inner patches of a block in the middle of a large canvas."""
    length = 64 * block
    blocks = AxisBlocks(AxisGrid(length, TILE, OVERLAP), start=0, stop=length, extent=length, block=block)
    owned, crossing = len(blocks.owned(30)), len(blocks.crossing(30))
    inner = (owned - crossing) ** 2
    return owned**2 - inner, inner


def sleep(job: None, seconds: float) -> None:
    """Take as long as a GPU would."""
    time.sleep(seconds)


def stream(rows: int, columns: int, block: int, seconds: float) -> Iterator[Task]:
    """The tasks of a render in their order, with what they wait for."""
    seams, inner = patches_of_block(block)
    for row in range(rows):
        for column in range(columns):
            yield Task(f"boundary-{row}-{column}", sleep, None, seams * seconds)
            around = [(row - 1, column - 1), (row - 1, column), (row, column - 1), (row, column)]
            after = tuple(f"boundary-{i}-{j}" for i, j in around if i >= 0 and j >= 0)
            yield Task(f"block-{row}-{column}", sleep, None, inner * seconds, after)


def bench_schedule(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Busy share of workers that only sleep, for block sizes and numbers of workers."""
    import dask
    from distributed import Client, LocalCluster
    from safron.engine.execution.dask_pool import DASK_SETTINGS

    rows = []
    for workers in args.counts:
        with (
            dask.config.set(DASK_SETTINGS),
            LocalCluster(
                n_workers=1, threads_per_worker=workers, processes=False, dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False}, worker_dashboard_address="127.0.0.1:0", memory_limit=None,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):  # fmt: skip
            for block in args.blocks:
                seams, inner = patches_of_block(block)
                each = (seams + inner) * args.seconds
                # Enough rounds that the last one, where workers run out of work, weighs little.
                count = max(args.rounds, round(1.0 / each)) * workers
                columns = max(1, round(count**0.5))
                rows_of_blocks = -(-count // columns)
                begun = time.perf_counter()
                for _ in run_tasks(
                    stream(rows_of_blocks, columns, block, args.seconds),
                    DaskThreads(client, 2 * workers + 2, CallTimer()),
                ):
                    pass
                wall = time.perf_counter() - begun
                blocks = rows_of_blocks * columns
                rows.append({
                    "workers": workers,
                    "block": block,
                    "patches_a_block": seams + inner,
                    "block_s": round(each, 3),
                    "efficiency": round(blocks * each / (workers * wall), 3),
                    "tasks_per_s": round(2 * blocks / wall),
                })  # fmt: skip
                print(rows[-1], flush=True)
    return {"benchmark": "schedule", "seconds_a_patch": args.seconds, "rows": rows}


def bench_workers(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One worker process against two, each with a one-thread generator, taken in turn."""
    mask = folder / "mask.zarr"
    write_mask(mask, args.side)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    digests = set()
    for _ in range(args.repeats):
        for workers, found in seconds.items():
            made = render_apart(
                folder, mask, model=args.model, block=args.block or 512, workers=workers, threads=1, device="cpu",
                executor="processes",
            )  # fmt: skip
            found.append(round(made["seconds"], 2))
            digests.add(made["digest"])
            print(f"{workers} workers: {made['seconds']:.1f} s, {made['generated']} patches", flush=True)
    assert len(digests) == 1, "the same slide"
    bare = _bare_speed_up(args.model)
    print(f"bare calls in two processes against one: {bare:.3f}")
    return {
        "benchmark": "workers",
        "model": str(args.model),
        "side": args.side,
        "seconds": seconds,
        "speed_up": round(min(seconds[1]) / min(seconds[2]), 3),
        "bare_speed_up": round(bare, 3),
    }


BARE = """
import sys, time
import numpy as np
from safron.engine import load_model
model = load_model(sys.argv[1], device="cpu", threads=1)
side, scales = model.card.tile + 2 * model.card.context, model.card.noise_scales
labels = np.full((1, side, side), model.card.labels[-1].value, np.uint8)
noise = np.zeros((1, len(scales), side, side), np.float32) if scales else None
model(labels, noise)
print("loaded", flush=True)
for _ in sys.stdin:
    begun = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        model(labels, noise)
    print(time.perf_counter() - begun, flush=True)
"""


def _bare_speed_up(model: str, calls: int = 24) -> float:
    """Calls a second of two processes that do nothing else, against one: what the machine has to give."""
    command = [sys.executable, "-c", BARE, model, str(calls)]
    with ExitStack() as ending:
        running = [
            ending.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            for _ in range(2)
        ]

        def line(process: subprocess.Popen[str]) -> str:
            assert process.stdout is not None
            return process.stdout.readline()

        def seconds(count: int) -> float:
            for process in running[:count]:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            return max(float(line(process)) for process in running[:count])

        assert [line(process) for process in running] == ["loaded\n"] * 2
        return 2 * seconds(1) / seconds(2)


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("what", choices=["canvas", "schedule", "workers"])
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16384, 65536, 100_000])
    parser.add_argument("--block", type=int, default=None, help="pixels a side of a task; else the usual one")
    parser.add_argument("--workers", type=int, default=2, help="of `canvas`")
    parser.add_argument("--memory", default="4GiB", help="of `canvas`")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1, 4, 16, 64, 128, 256], help="of `schedule`"
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", default=[2048, 4096, 8192, 16384], help="of `schedule`"
    )
    parser.add_argument("--rounds", type=int, default=12, help="blocks a worker at least, of `schedule`")
    parser.add_argument("--seconds", type=float, default=SECONDS_A_PATCH, help="a patch, of `schedule`")
    parser.add_argument("--model", help="of `canvas`: identity; of `workers`: safron-seamless")
    parser.add_argument("--side", type=int, default=2048, help="pixels a side, of `workers`")
    parser.add_argument("--repeats", type=int, default=1, help="of `workers`")
    parser.add_argument("--folder", type=Path, default=None, help="where the files go while it runs")
    args = parser.parse_args()
    args.model = args.model or ("identity" if args.what == "canvas" else "safron-seamless")
    bench: Callable[[argparse.Namespace, Path], dict[str, Any]] = {
        "canvas": bench_canvas,
        "schedule": bench_schedule,
        "workers": bench_workers,
    }[args.what]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(bench(args, Path(folder))))


if __name__ == "__main__":
    main()
