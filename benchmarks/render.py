"""What does the engine cost beside the generator's own arithmetic, and does its memory stay flat?

    python benchmarks/render.py memory                      peak memory at 4096, 16384 and 65536 pixels a side
    python benchmarks/render.py share --model paper.onnx    bare generator calls against the whole render
    python benchmarks/render.py encode                      bare JPEG encoding against the whole render

Each render is a ``safron-render`` process, as a user runs it. A table, then one line of JSON. Times on a shared
machine are noisy: read the ratios, of floor and render taken in turn in one run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

GLANDS = Path(__file__).parent.parent / "examples" / "glands.zarr"


def gland_labels(height: int, width: int, y: int = 0) -> npt.NDArray[np.uint8]:
    """Rows from `y` of the shipped gland mask, repeated to any size: uint8 [height, width]."""
    labels = np.asarray(zarr.open_array(GLANDS, mode="r")[:], np.uint8)
    rows, columns = np.arange(y, y + height) % labels.shape[0], np.arange(width) % labels.shape[1]
    return np.take(labels[rows], columns, axis=1)


def write_mask(path: Path, side: int) -> None:
    """Write the repeated gland mask as Zarr, a row of chunks at a time."""
    mask = zarr.create_array(path, shape=(side, side), chunks=(1024, 1024), dtype="uint8")
    for y in range(0, side, 1024):
        mask[y : y + 1024] = gland_labels(min(1024, side - y), side, y)


def timed(call: Callable[[], Any]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def render_apart(folder: Path, mask: Path, **options: Any) -> dict[str, Any]:
    """Run ``safron-render`` as a user does; return its report, and the wall seconds of the whole process."""
    report = folder / "report.json"
    command = ["safron-render", str(mask), str(folder / "slide.tiff"), "--report", str(report)]
    command += ["--overwrite", "--quiet"]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name}", str(value)]
    wall = timed(partial(subprocess.run, command, check=True))
    result: dict[str, Any] = json.loads(report.read_text()) | {"wall": wall}
    return result


def bench_memory(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Peak memory against canvas size, with the same options."""
    rows = []
    for side in args.sides:
        mask = folder / f"{side}.zarr"
        write_mask(mask, side)
        made = render_apart(folder, mask, model="identity", block=args.block, workers=args.workers)
        peak, projected = made["peak_bytes"] / 2**20, made["projected_bytes"] / 2**20
        speed = made["megapixels_per_second"]
        print(
            f"{side:>7} px  peak {peak:5.0f} MiB  projected {projected:5.0f} MiB  {speed:6.1f} Mpx/s",
            flush=True,
        )
        rows.append(
            {
                "side": side,
                "peak_mib": round(peak),
                "projected_mib": round(projected),
                "mpx_per_s": round(speed, 1),
            }
        )
        shutil.rmtree(mask)
    peaks = [row["peak_mib"] for row in rows]
    return {"benchmark": "memory", "rows": rows, "spread": round(max(peaks) / min(peaks) - 1, 4)}


def bench_share(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bare generator calls for as many patches as the render runs, against the render, in turn."""
    from safron.engine import load_model

    mask = folder / "mask.zarr"
    write_mask(mask, args.side)
    model = load_model(args.model, device=args.device, threads=args.threads)
    batch = 32 if model.device.startswith("cuda") else 1
    read, scales = model.card.tile + 2 * model.card.context, model.card.noise_scales
    labels = gland_labels(read, read, y=1000)[None].repeat(batch, axis=0)
    noise = np.zeros((batch, len(scales), read, read), np.float32) if scales else None
    model(labels, noise)

    def calls(count: int) -> None:
        for _ in range(count):
            model(labels, noise)

    rows = []
    for _ in range(args.repeats):
        made = render_apart(
            folder, mask, model=args.model, device=args.device, block=args.block, workers=args.workers,
            threads=args.threads,
        )  # fmt: skip
        bare = timed(partial(calls, -(-made["run"] // batch)))
        rows.append({"bare_s": bare, "render_s": made["wall"], "share": bare / made["wall"]})
        print(
            f"bare {bare:7.2f} s  render {made['wall']:7.2f} s  share {rows[-1]['share']:.3f}  {made['stages']}"
        )
    counts = {"side": args.side, "run": made["run"], "painted": made["painted"]}
    return {"benchmark": "share", "model": model.card.name, **counts, **_summary(rows)}


def bench_encode(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bare JPEG encoding of the tiles that the render writes, against the render with the identity generator."""
    from safron.engine import IdentityModel

    mask = folder / "mask.zarr"
    write_mask(mask, args.side)
    pixels = IdentityModel(context=0)(gland_labels(args.side, args.side)[None])[0]
    rows = []
    for _ in range(args.repeats):
        made = render_apart(folder, mask, model="identity", block=args.block, workers=args.workers)
        # The engine encodes a colour that fills a tile once, so such tiles are no work here either.
        tiles = [tile for tile in _tiles(pixels, made["levels"]) if (tile != tile[0, 0]).any()]
        with ThreadPoolExecutor(args.workers) as pool:
            bare = timed(partial(_encode_all, pool, tiles))
        # Without start-up, which is the same for any canvas.
        rows.append({"bare_s": bare, "render_s": made["seconds"], "share": bare / made["seconds"]})
        print(
            f"bare {bare:6.2f} s  render {made['seconds']:6.2f} s  share {rows[-1]['share']:.3f}  {made['stages']}"
        )
    return {"benchmark": "encode", "side": args.side, **_summary(rows)}


def _tiles(pixels: npt.NDArray[np.uint8], levels: int, tile: int = 512) -> Iterator[npt.NDArray[np.uint8]]:
    from safron.io.pyramid import halve

    for _ in range(levels):
        for y in range(0, pixels.shape[0], tile):
            for x in range(0, pixels.shape[1], tile):
                yield np.ascontiguousarray(pixels[y : y + tile, x : x + tile])
        pixels = halve(pixels)


def _encode_all(pool: ThreadPoolExecutor, tiles: list[npt.NDArray[np.uint8]]) -> int:
    from safron.io.codecs import encode_jpeg

    return sum(pool.map(lambda tile: len(encode_jpeg(tile, 90, "420")), tiles, chunksize=8))


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """All rows, rounded, and the median share."""
    rounded = [{name: round(value, 3) for name, value in row.items()} for row in rows]
    return {"rows": rounded, "share": round(median(row["share"] for row in rows), 3)}


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["memory", "share", "encode"])
    parser.add_argument("--model", default="safron-seamless", help="generator of `share`")
    parser.add_argument("--device", default="cpu", help="of `share`")
    parser.add_argument("--side", type=int, default=4096, help="pixels a side of `share` and `encode`")
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 16384, 65536], help="of `memory`")
    parser.add_argument(
        "--block", type=int, default=None, help="pixels a side of a task; else safron-render's own"
    )
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
