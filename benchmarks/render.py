"""What does the engine cost beside the generator's own arithmetic, and does its memory stay flat?

    python benchmarks/render.py memory                      peak memory at 4096, 16384 and 65536 pixels a side
    python benchmarks/render.py share --model paper.onnx    bare generator calls against the whole render
    python benchmarks/render.py encode                      bare JPEG encoding against the whole render

Each render runs in a process of its own, through the same call as ``safron-render``. A table, then one line of
JSON. Times on a shared machine are noisy: read the ratios, which come from one run, floor and render in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

GLANDS = Path(__file__).parent.parent / "examples" / "glands.zarr"


class Repeated:
    """A mask of any size: the shipped gland mask, repeated. Nothing is held but one copy."""

    dtype = np.dtype(np.uint8)

    def __init__(self, side: int) -> None:
        self.shape = (side, side)
        self._labels = np.asarray(zarr.open_array(GLANDS, mode="r")[:], np.uint8)

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        height, width = self._labels.shape
        rows = np.arange(key[0].start, key[0].stop) % height
        columns = np.arange(key[1].start, key[1].stop) % width
        return self._labels[rows[:, None], columns[None, :]]


def write_mask(path: Path, side: int) -> None:
    """Write the repeated mask as Zarr, row of chunks by row of chunks."""
    source = Repeated(side)
    mask = zarr.create_array(path, shape=source.shape, chunks=(1024, 1024), dtype="uint8")
    for y in range(0, side, 1024):
        mask[y : y + 1024] = source[y : min(y + 1024, side), 0:side]


CHILD = """
import json, sys, time
from safron.engine import render
options = json.loads(sys.argv[1])
start = time.perf_counter()
report = render(options.pop("mask"), options.pop("out"), **options)
print(json.dumps({"seconds": time.perf_counter() - start, "report": json.loads(report.json())}))
"""


def render_apart(**options: Any) -> dict[str, Any]:
    """Render in a process of its own; return wall seconds of the call, and the report."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(options)], check=True, capture_output=True, text=True
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def bench_memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory against canvas size."""
    rows = []
    for side in args.sides:
        mask, out = folder / f"{side}.zarr", folder / f"{side}.tiff"
        write_mask(mask, side)
        report = render_apart(
            mask=str(mask), out=str(out), model="identity", block=args.block, workers=args.workers
        )["report"]
        peak, projected = report["peak_bytes"] / 2**20, report["projected_bytes"] / 2**20
        rows.append({"side": side, "peak_mib": round(peak), "projected_mib": round(projected)})
        rows[-1]["mpx_per_s"] = round(report["megapixels_per_second"], 1)
        print(
            f"{side:>7} px  peak {peak:7.0f} MiB  projected {projected:7.0f} MiB  {rows[-1]['mpx_per_s']:7.1f} Mpx/s"
        )
        out.unlink()
    peaks = [row["peak_mib"] for row in rows]
    return {"benchmark": "memory", "rows": rows, "spread": round(max(peaks) / min(peaks) - 1, 4)}


def timed(call: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench_share(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bare generator calls for all patches, against the render, in turn."""
    from safron.engine import load_model
    from safron.engine.model import OnnxModel

    mask = folder / "mask.zarr"
    write_mask(mask, args.side)
    model = load_model(args.model, device=args.device, threads=args.threads)
    assert isinstance(model, OnnxModel)
    batch = 32 if model.device.startswith("cuda") else 1
    read = model.card.tile + 2 * model.card.context
    labels = Repeated(read)[0:read, 0:read][None].repeat(batch, axis=0)
    noise = (
        np.zeros((batch, len(model.card.noise_scales), read, read), np.float32)
        if model.card.noise_scales
        else None
    )
    model(labels, noise)
    ratios, rows = [], []
    for _ in range(args.repeats):
        made = render_apart(
            mask=str(mask), out=str(folder / "s.tiff"), model=args.model, device=args.device, overwrite=True,
            workers=args.workers, threads=args.threads,
        )  # fmt: skip
        calls = -(-made["report"]["run"] // batch)
        bare = timed(lambda calls=calls: [model(labels, noise) for _ in range(calls)])  # type: ignore[misc]
        ratios.append(bare / made["seconds"])
        rows.append(
            {"bare_s": round(bare, 2), "render_s": round(made["seconds"], 2), "share": round(ratios[-1], 3)}
        )
        print(
            f"bare {bare:8.2f} s  render {made['seconds']:8.2f} s  share {ratios[-1]:.3f}  {made['report']['stages']}"
        )
    return {
        "benchmark": "share", "model": model.card.name, "side": args.side, "run": made["report"]["run"],
        "painted": made["report"]["painted"], "rows": rows, "share": round(median(ratios), 3),
    }  # fmt: skip


def _tiles(pixels: npt.NDArray[np.uint8], levels: int, tile: int) -> Iterator[npt.NDArray[np.uint8]]:
    from safron.io.pyramid import halve

    for _ in range(levels):
        for y in range(0, pixels.shape[0], tile):
            for x in range(0, pixels.shape[1], tile):
                yield np.ascontiguousarray(pixels[y : y + tile, x : x + tile])
        pixels = halve(pixels)


def bench_encode(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bare JPEG encoding of the very tiles that the render writes, against the render with the identity generator."""
    from safron.engine import IdentityModel

    mask = folder / "mask.zarr"
    write_mask(mask, args.side)
    colors = np.zeros((256, 3), np.uint8)
    for value, color in IdentityModel().card.palette.items():
        colors[value] = color
    pixels = colors[Repeated(args.side)[0 : args.side, 0 : args.side]]
    rows: list[dict[str, float]] = []
    for _ in range(args.repeats):
        made = render_apart(
            mask=str(mask), out=str(folder / "s.tiff"), model="identity", overwrite=True, workers=args.workers
        )
        report = made["report"]
        # Tiles of one colour are encoded once by the engine and not counted as work here either.
        tiles = [tile for tile in _tiles(pixels, report["levels"], 512) if (tile != tile[0, 0]).any()]
        with ThreadPoolExecutor(args.workers) as pool:
            bare = timed(lambda pool=pool, tiles=tiles: list(pool.map(_encode, tiles, chunksize=8)))  # type: ignore[misc]
        rows.append({"bare_s": bare, "render_s": report["seconds"], "share": bare / report["seconds"]})
        print(
            f"bare {bare:6.2f} s  render {report['seconds']:6.2f} s  share {rows[-1]['share']:.3f}  {report['stages']}"
        )
    return {
        "benchmark": "encode",
        "side": args.side,
        "rows": rows,
        "share": round(median(r["share"] for r in rows), 3),
    }


def _encode(tile: npt.NDArray[np.uint8]) -> int:
    from safron.io.codecs import encode_jpeg

    return len(encode_jpeg(tile, 90, "420"))


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "share", "encode"])
    parser.add_argument("--model", default="safron-seamless", help="generator of `share`")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=4096, help="pixels a side of the canvas")
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16384, 65536], help="of `memory`")
    parser.add_argument("--block", type=int, default=None, help="pixels a side of a task")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the files go while it runs")
    args = parser.parse_args()
    bench = {"memory": bench_memory, "share": bench_share, "encode": bench_encode}[args.what]
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        print(json.dumps(bench(args, Path(folder))))


if __name__ == "__main__":
    main()
