"""How near is a render to the least that it could cost?

    python benchmarks/limit.py                                    the generator that ships, 4096 x 4096
    python benchmarks/limit.py --model identity --side 8192       the engine alone
    python benchmarks/limit.py --model paper.onnx --rewrite       and with its graph rewritten by safron-optimize
    python benchmarks/limit.py --model diffusion --side 2048      a sampler of 8 steps with random weights, all its passes

The floor is the sum of three things done bare, each as fast as this machine does it, one after the other on all cores:
the generator's calls through ONNX Runtime, for as many patches as the render runs, with the number of threads and
the batch that a short trial found best; JPEG encoding of exactly the tiles that the slide holds, those that share one
place in the file once; reading the mask once. Half of the generator's calls are made before the render and half after.
The render is a ``safron-render`` process as a user runs it, start-up and loading included.

For the identity generator also the **chain**: blocks read, filled with colour, halved, encoded and written one after the other on all cores by
the same compiled code, with no patch, overlap, digest, journal or start-up. No engine that makes the same file can be faster.

A table, then one line of JSON. On a shared machine read the ratios, not the times; best that of CPU seconds, start-up and loading
included, which has the generator's calls alone as its floor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from common import gland_labels, parser_of, render_apart, timed, write_mask

STAGES = ("read", "noise", "xt", "model", "blend", "step", "downsample", "encode", "scratch", "write")


@contextmanager
def cpu_counted(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds of what runs inside, with all processes that it starts and waits for."""
    before = cpu_seconds()
    yield
    spent[name] += cpu_seconds() - before


def cpu_seconds() -> float:
    """CPU seconds of this process and of those that it has waited for; `os.times` counts in hundredths."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


@dataclass(frozen=True)
class Bare:
    """A generator without an engine: calls of a fixed batch, some side by side.

    Attributes
    ----------
    calls : that run at a time.
    threads, batch : of one call.
    run : makes one call.
    """

    calls: int
    threads: int
    batch: int
    run: Callable[[], Any]

    def seconds(self, patches: int) -> float:
        """Wall time of this many patches."""
        rounds = -(-patches // self.batch)
        with ThreadPoolExecutor(self.calls) as pool:
            spent = timed(lambda: list(pool.map(lambda _: self.run(), range(rounds))))
        return spent * patches / (rounds * self.batch)

    def __str__(self) -> str:
        return f"{self.calls} calls of {self.batch} on {self.threads} threads"


def bare_session(path: Path, card: Any, *, calls: int, threads: int, batch: int, device: str) -> Bare:
    """ONNX Runtime with nothing around it, on windows of the gland mask."""
    import onnxruntime
    from safron.engine.generator.devices import providers

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    chosen = providers(device, "float32", "")
    session = onnxruntime.InferenceSession(str(path), settings, providers=chosen)
    side = card.tile + 2 * card.context
    labels = gland_labels(side, side * batch).reshape(side, batch, side).transpose(1, 0, 2)
    feeds: dict[str, Any] = {"labels": np.ascontiguousarray(labels)}
    if card.noise_scales:
        shape = (batch, len(card.noise_scales), side, side)
        feeds["noise"] = np.random.default_rng(0).standard_normal(shape, np.float32)
    if card.sampler:
        shape = (batch, card.sampler.channels, side, side)
        feeds["xt"] = np.random.default_rng(1).standard_normal(shape, np.float32)
        feeds["t"] = np.full(batch, card.sampler.times[0], np.float32)
    return Bare(calls, threads, batch, lambda: session.run([card.output], feeds))


def best_bare(path: Path, card: Any, device: str, batches: list[int]) -> Bare:
    """The fastest of some ways to call ONNX Runtime, by a trial of each."""
    cores = len(os.sched_getaffinity(0))
    ways = {(1, cores, batch) for batch in batches}
    if device == "cpu":
        ways |= {(cores, 1, batch) for batch in batches[:2]}
    rates = {}
    for calls, threads, batch in sorted(ways):
        bare = bare_session(path, card, calls=calls, threads=threads, batch=batch, device=device)
        bare.run()
        count = max(4, 2 * batch)
        rates[bare] = min(bare.seconds(count) for _ in range(2)) / count
        print(f"  bare {bare}: {rates[bare] * 1e3:.1f} ms a patch", flush=True)
    return min(rates, key=lambda bare: rates[bare])


def stored_tiles(slide: Path) -> Iterator[npt.NDArray[np.uint8]]:
    """Pixels of every tile that has a place of its own in the file."""
    import imagecodecs
    import tifffile

    with tifffile.TiffFile(slide) as file, slide.open("rb") as stream:
        seen = set()
        for page in (page for level in file.series[0].levels for page in level.pages):
            tables = page.jpegtables
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                if offset not in seen:
                    seen.add(offset)
                    stream.seek(offset)
                    yield imagecodecs.jpeg8_decode(stream.read(count), tables=tables)


def encode_seconds(slide: Path, workers: int) -> tuple[float, int]:
    """Wall time of encoding the tiles of a slide again, and how many there are; decoding is not counted."""
    from safron.io.slides.codecs import encode_jpeg

    spent, count = 0.0, 0
    tiles: list[npt.NDArray[np.uint8]] = []

    def encode() -> None:
        list(pool.map(lambda tile: encode_jpeg(tile, 90, "420"), tiles, chunksize=8))

    with ThreadPoolExecutor(workers) as pool:
        for tile in stored_tiles(slide):
            tiles.append(tile)
            if len(tiles) == 256:
                spent, count = spent + timed(encode), count + len(tiles)
                tiles.clear()
        return spent + timed(encode), count + len(tiles)


def read_seconds(mask: Path, workers: int) -> float:
    """Wall time of reading every chunk once."""
    array = zarr.open_array(mask, mode="r")
    rows = range(0, array.shape[0], array.chunks[0])
    with ThreadPoolExecutor(workers) as pool:
        return timed(lambda: list(pool.map(lambda y: np.asarray(array[y : y + array.chunks[0]]).shape, rows)))


def chain_seconds(mask: Path, out: Path, workers: int, block: int = 2048) -> float:
    """Wall time of a mask's colours as tiles of the first three levels, in a file without directories."""
    from safron.engine.generator.model import IdentityModel
    from safron.io.masks.open import open_mask
    from safron.io.slides.codecs import encode_region
    from safron.io.slides.pyramid import reduce_region
    from safron.io.slides.spec import SlideSpec

    labels, model = open_mask(str(mask)), IdentityModel(context=0)
    spec = SlideSpec(height=labels.shape[0], width=labels.shape[1], mpp=None, level_count=3)

    def make(corner: tuple[int, int]) -> None:
        y, x = corner
        image = model(labels[y : min(y + block, spec.height), x : min(x + block, spec.width)][None])[0]
        for level, top, left, part in reduce_region(image, y, x, spec.pyramid, spec.level_count - 1):
            for tile in encode_region(part, level, top, left, spec):
                file.write(tile.data)

    with out.open("wb") as file, ThreadPoolExecutor(workers) as pool:
        corners = product(range(0, spec.height, block), range(0, spec.width, block))
        return timed(lambda: list(pool.map(make, corners)))


def measure(args: argparse.Namespace, folder: Path, mask: Path, model: str) -> dict[str, Any]:
    """Floor and render of one generator."""
    from safron.engine import load_model

    generator = load_model(model, device=args.device)
    path = getattr(generator, "path", None)
    print(f"{generator.card.name}, {args.side} x {args.side}", flush=True)
    bare = None if path is None else best_bare(path, generator.card, generator.device, args.batches)
    # Half of the bare calls now, half after; the gland mask is a fifth glass.
    passes = len(generator.card.sampler.times) if generator.card.sampler else 1
    half = min(args.bare or 1 << 30, round(0.8 * (args.side / 236) ** 2 * passes)) // 2 + 1
    cpu = {"model": 0.0, "render": 0.0}
    with cpu_counted(cpu, "model"):
        before = 0.0 if bare is None else bare.seconds(half)
    with cpu_counted(cpu, "render"):
        made = render_apart(
            folder, mask, model=model, device=args.device, block=args.block, workers=args.workers
        )
    floor = {"model": 0.0}
    if bare is not None:
        with cpu_counted(cpu, "model"):
            after = bare.seconds(half)
        # What a batch needs to be full is run, too.
        ran = 2 * bare.batch * -(-half // bare.batch)
        floor["model"] = (before + after) / (2 * half) * made["generated"]
        cpu["model"] *= made["generated"] / ran
    floor["encode"], tiles = encode_seconds(folder / "slide.tiff", os.cpu_count() or 1)
    floor["read"] = read_seconds(mask, args.workers)
    chain = chain_seconds(mask, folder / "chain", args.workers) if path is None else None
    stages = {name: made["stages"].get(name, 0.0) for name in STAGES}
    # Of the workers' time; what the driver writes is not theirs.
    stages["wait"] = args.workers * made["seconds"] - sum(stages.values()) + stages["write"]
    total = sum(floor.values())
    return {
        "model": generator.card.name,
        "way": str(bare),
        "generated": made["generated"],
        "filled": made["filled"],
        "tiles": tiles,
        "floor_s": floor | {"sum": total},
        "cpu_s": cpu,
        "share_of_cpu": cpu["model"] / cpu["render"],
        "chain_s": chain,
        "wall_s": made["wall"],
        "inside_s": made["seconds"],
        "share": total / made["wall"],
        "share_of_model_alone": floor["model"] / made["wall"],
        "share_without_startup": total / made["seconds"],
        "stages_s": stages,
        "peak_mib": made["peak_bytes"] / 2**20,
        "mpx_per_s": made["megapixels_per_second"],
    }


def write_diffusion(path: Path) -> Path:
    """Write a sampler of 8 steps with random weights."""
    from safron.training.diffusion.export import export_fresh
    from safron.training.diffusion.settings import DiffusionConfig

    export_fresh(DiffusionConfig(), path, steps=8)
    return path


def show(row: dict[str, Any]) -> None:
    """Print one measurement."""
    floor = ", ".join(f"{name} {value:.2f}" for name, value in row["floor_s"].items())
    stages = ", ".join(f"{name} {value:.2f}" for name, value in row["stages_s"].items())
    print(
        f"  {row['generated']} patches generated, {row['filled']} filled, {row['tiles']} tiles; {row['way']}"
    )
    print(f"  floor   {floor} s")
    print(
        f"  render  {row['wall_s']:.2f} s, {row['inside_s']:.2f} s of it after start-up; peak {row['peak_mib']:.0f} MiB"
    )
    print(f"  share   {row['share']:.3f}, without start-up {row['share_without_startup']:.3f}")
    cpu = row["cpu_s"]
    print(
        f"  CPU     {cpu['model']:.2f} s of the generator's bare calls, {cpu['render']:.2f} s of the render: {row['share_of_cpu']:.3f}"
    )
    if row["chain_s"] is not None:
        encode, chain = row["floor_s"]["encode"], row["chain_s"]
        print(
            f"  encoding is {encode / row['wall_s']:.3f} of the render, {encode / chain:.3f} of the chain ({chain:.2f} s); "
            f"the chain is {chain / row['wall_s']:.3f} of the render"
        )
    print(f"  stages, summed over workers: {stages}", flush=True)


def rounded(value: Any) -> Any:
    """The same with floats of four digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 4) if isinstance(value, float) else value


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="safron-seamless", help="name or ONNX file")
    parser.add_argument(
        "--rewrite", action="store_true", help="measure it rewritten too, against both floors"
    )
    parser.add_argument("--side", type=int, default=4096, help="pixels a side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--block", type=int, default=None, help="of safron-render; else its own")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="bare batches to try")
    parser.add_argument(
        "--bare", type=int, default=0, help="bare patches to time at most; 0 is as many as run"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where the files go while it runs")
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder, mask = Path(name), Path(name) / "mask.zarr"
        write_mask(mask, args.side)
        if args.model == "diffusion":
            args.model = str(write_diffusion(folder / "diffusion.onnx"))
        rows = [measure(args, folder, mask, args.model)]
        show(rows[0])
        if args.rewrite:
            from safron.engine.optimization.optimize import optimize

            done = optimize(Path(args.model), folder / "rewritten.onnx")
            rows.append(measure(args, folder, mask, str(folder / "rewritten.onnx")))
            rows[1]["levels"] = done.levels
            rows[1]["times_faster_than_first_floor"] = rows[0]["floor_s"]["sum"] / rows[1]["wall_s"]
            show(rows[1])
            print(f"  {rows[1]['times_faster_than_first_floor']:.2f} times faster than the first floor")
    seconds = time.perf_counter() - start
    print(
        json.dumps({"benchmark": "limit", "side": args.side, "took_s": round(seconds), "rows": rounded(rows)})
    )


if __name__ == "__main__":
    main()
