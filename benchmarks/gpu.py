"""What does a GPU do with these generators, and how much of that does the engine bring to the slide?

    python benchmarks/gpu.py --lines rows.jsonl      everything, on the first CUDA device, the most important rows first
    python benchmarks/gpu.py --device cpu --tiny     the same on a CPU in seconds: a test of this file

One file that needs little: numpy and onnxruntime-gpu for the bare generators; torch too for one made like the
paper's, onnx too for float16; the safron package for parity and for whole slides. What is missing is said and left out.
It prints, per generator: patches a second at batch 1 to 256 in float32, TF32 and float16 through CUDA, plain, two calls side by
side as the engine makes them, with I/O binding (label windows stay on the host; outputs into memory that is kept on the device,
or on the host), with channels last, and in float16 through TensorRT where it loads; memory; how far CUDA's pixels are from the CPU's; ``safron-render`` at 8000 x 8000 and 32000 x 32000 beside
the bare rate, and beside the paper's headline: 8000 x 8000 in under 120 s on a TITAN X. The last line is JSON.

A rented machine may end at any time. So every row is appended to ``--lines`` when it is there, and rows of that file are not measured again. The order is:
the network like the paper's at a batch of 32 in every precision; its slide of 8000 x 8000; parity; the same for the shipped
generators; training steps; then all other batches and sizes. No row is begun after ``--minutes``, and none takes more than two and
a half. ``benchmarks/carry.py`` brings packages to a machine that has no network.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import parser_of

PAPER_SECONDS = 120.0
ROW_SECONDS = 150
"""A slide or a training that takes longer is ended, so that the rows after it are measured."""
CONTEXT, TILE, STRIDE = 20, 256, 236
SIDE = TILE + 2 * CONTEXT


@dataclass(frozen=True)
class Way:
    """One way to run a generator.

    Attributes
    ----------
    file : the graph.
    provider : of ONNX Runtime: "cpu", "cuda" or "tensorrt".
    precision : "float32", "tf32" or "float16".
    bound : where I/O binding keeps memory for outputs: "device" or "host"; "" without binding.
    calls : side by side.
    nhwc : whether CUDA's convolutions have channels last.
    """

    file: Path
    provider: str
    precision: str = "float32"
    bound: str = ""
    calls: int = 1
    nhwc: bool = False

    def __str__(self) -> str:
        bound = f" bound to {self.bound}" if self.bound else ""
        layout = " channels last" if self.nhwc else ""
        return f"{self.provider} {self.precision}{layout}{bound}{' x 2' if self.calls == 2 else ''}"


def missing(*modules: str) -> list[str]:
    """Modules that are not installed."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def windows(count: int, *, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Label windows of glands-like blobs: uint8 [count, SIDE, SIDE]."""
    cells = np.random.default_rng(seed).integers(0, 3, (count, 10, 10), np.uint8)
    return np.repeat(np.repeat(cells, 30, axis=1), 30, axis=2)[:, :SIDE, :SIDE].copy()


def feeds_of(session: Any, count: int) -> dict[str, npt.NDArray[Any]]:
    """Inputs for a batch."""
    feeds: dict[str, npt.NDArray[Any]] = {"labels": windows(count)}
    for entry in session.get_inputs():
        if entry.name == "noise":
            shape = (count, entry.shape[1], SIDE, SIDE)
            feeds["noise"] = np.random.default_rng(1).standard_normal(shape, np.float32)
        if entry.name == "edges":
            feeds["edges"] = np.zeros((count, 1, *feeds["labels"].shape[1:]), np.uint8)
    return feeds


def open_session(way: Way, cache: Path) -> Any:
    """A session of ONNX Runtime that runs where asked, or nowhere.

    Raises
    ------
    RuntimeError
        It fell back to another provider.
    """
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls") and way.provider != "cpu":
        ort.preload_dlls()
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    # Without TF32 ONNX Runtime deselects the tensor cores also for float16.
    tensor_cores = way.precision in ("tf32", "float16")
    cuda = ("CUDAExecutionProvider", {"use_tf32": int(tensor_cores), "prefer_nhwc": int(way.nhwc)})
    tensorrt = {
        "trt_fp16_enable": way.precision == "float16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
    }
    chosen: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [cuda],
        "tensorrt": [("TensorrtExecutionProvider", tensorrt), cuda],
    }
    wanted = [*chosen[way.provider], "CPUExecutionProvider"]
    session = ort.InferenceSession(str(way.file), settings, providers=wanted)
    first = wanted[0] if isinstance(wanted[0], str) else wanted[0][0]
    if session.get_providers()[0] != first:
        raise RuntimeError(f"{first} did not load")
    return session


def caller(session: Any, feeds: dict[str, npt.NDArray[Any]], *, bound: str) -> Any:
    """A function that runs the batch once and gives the image on the host."""
    if not bound:
        return lambda: session.run(["image"], feeds)[0]
    binding = session.io_binding()
    half = "float16" in next(entry.type for entry in session.get_outputs() if entry.name == "image")
    kept = np.empty((len(feeds["labels"]), TILE, TILE, 3), np.float16 if half else np.float32)
    if bound == "device":
        binding.bind_output("image", "cuda")
    else:
        binding.bind_output("image", "cpu", 0, kept.dtype.type, kept.shape, kept.ctypes.data)

    def run() -> Any:
        for name, values in feeds.items():
            binding.bind_cpu_input(name, values)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0] if bound == "device" else kept

    return run


def rate(way: Way, batch: int, seconds: float, cache: Path, *, calls: int = 3) -> dict[str, Any]:
    """Patches a second of at least `calls` bare calls, results on the host; the error in one line where it cannot run."""
    try:
        session = open_session(way, cache)
        runs = [caller(session, feeds_of(session, batch), bound=way.bound) for _ in range(way.calls)]
        for run in runs:
            run()
        start = time.perf_counter()

        def repeat(run: Any) -> int:
            made = 0
            while made < calls or time.perf_counter() - start < seconds:
                run()
                made += 1
            return made

        with ThreadPoolExecutor(way.calls) as threads:
            made = sum(threads.map(repeat, runs))
        return {
            "patches_per_s": round(made * batch / (time.perf_counter() - start), 2),
            "device_mib": device_mib(),
        }
    except Exception as error:  # ONNX Runtime's own, of many kinds: out of memory is the usual one
        return {"error": " ".join(str(error).split())[:160]}


def device_mib() -> int | None:
    """Memory in use on the first GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.stdout.strip().isdigit() else None


def device_name(device: str) -> str:
    """What the figures were taken on."""
    if device == "cpu" or shutil.which("nvidia-smi") is None:
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader", "--id=0"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()


def paper_like(path: Path, *, width: int) -> Path:
    """Write a network of the paper's shape with random weights, 56.4 GFLOP a patch at width 64, and a card beside it.

    It is made where it is needed: the file has 219 MB.
    """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            down = [width * factor for factor in (1, 1, 2, 4, 8, 8, 8, 8, 8)]
            up = [width * factor for factor in (8, 8, 8, 8, 4, 2, 1)]
            skips = [0, *down[7:0:-1]]
            self.stem = nn.Conv2d(3, width, 2 * CONTEXT + 1, bias=False)
            self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(down))
            self.up = nn.ModuleList(
                nn.ConvTranspose2d(a + skip, b, 4, 2, 1)
                for a, b, skip in zip([down[-1], *up], [*up, 3], skips, strict=True)
            )

        def forward(self, labels: Any) -> Any:
            values = torch.arange(3, dtype=torch.int32, device=labels.device).view(1, 3, 1, 1)
            x = self.stem(torch.eq(labels[:, None].int(), values).float())
            kept = []
            for layer in self.down:
                x = layer(nn.functional.leaky_relu(x, 0.2))
                kept.append(x)
            kept.pop()
            for index, layer in enumerate(self.up):
                x = layer(nn.functional.relu(x if not index else torch.cat([x, kept.pop()], 1)))
            return (torch.tanh(x).permute(0, 2, 3, 1) + 1) * 127.5

    torch.manual_seed(0)
    axes = {"labels": {0: "n"}, "image": {0: "n"}}
    example = torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    torch.onnx.export(
        Net().eval(), (example,), str(path), input_names=["labels"], output_names=["image"],
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    labels = [{"value": value, "name": f"label {value}", "color": [80 * value] * 3} for value in range(3)]
    card = {"name": path.stem, "tile": TILE, "context": CONTEXT, "labels": labels, "mpp": 1.0}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def half(path: Path, folder: Path) -> Path:
    """Write a float16 copy of a graph into a folder; inputs and the output keep their types."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    out = folder / f"{path.stem}-float16.onnx"
    if not out.exists():
        onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(out))
        if path.with_suffix(".json").is_file():
            shutil.copy(path.with_suffix(".json"), out.with_suffix(".json"))
    return out


def generators(args: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The graphs to run, by name: the heaviest first, since its rows matter most."""
    found = {path.stem: path for path in args.models}
    if missing("torch", "onnx"):
        print(f"left out, a network like the paper's: {', '.join(missing('torch', 'onnx'))} not installed")
    elif not args.models:
        found["paper-like"] = paper_like(folder / "paper-like.onnx", width=1 if args.tiny else 64)
    package = None if missing("safron") or missing("safron.engine") else Path(_shipped_folder())
    if package is not None:
        found |= {path.stem: path for path in sorted(package.glob("*.onnx"))}
    return found


def _shipped_folder() -> str:
    from safron.engine.generator.shipped import MODELS

    return str(MODELS)


def ways(args: argparse.Namespace, file: Path, folder: Path) -> tuple[list[Way], list[Way]]:
    """Ways to run a graph on this device: those that matter most, and the others."""
    plain = Way(file, "cpu" if args.device == "cpu" else "cuda")
    kept = replace(plain, bound="host")
    if args.device == "cpu":
        return [plain], [replace(plain, calls=2), kept]
    first = [plain, replace(plain, precision="tf32"), replace(plain, precision="tf32", nhwc=True)]
    others = [replace(plain, calls=2), kept, replace(plain, bound="device"), replace(plain, nhwc=True)]
    if not missing("onnx"):
        halves = Way(half(file, folder), "cuda", "float16")
        first += [halves, replace(halves, nhwc=True)]
        others += [replace(halves, calls=2), replace(halves, bound="host")]
    return first, [*others, Way(file, "tensorrt"), Way(file, "tensorrt", "float16")]


def parity(file: Path, others: list[Way], cache: Path) -> dict[str, dict[str, float]]:
    """Largest and mean difference of pixels from the CPU's float32, in grey levels before rounding."""
    session = open_session(Way(file, "cpu"), cache)
    feeds = feeds_of(session, 4)
    expected = session.run(["image"], feeds)[0].astype(np.float64)
    found = {}
    for way in others:
        try:
            image = caller(open_session(way, cache), feeds, bound=way.bound)().astype(np.float64)
        except Exception as error:  # as in `rate`
            print(f"  {way}: no parity, {' '.join(str(error).split())[:160]}")
            continue
        difference = np.abs(image - expected)
        found[str(way)] = {"max": float(difference.max()), "mean": float(difference.mean())}
        print(
            f"  {way!s:28} differs from the CPU by {difference.max():.2e} at most, {difference.mean():.2e} on average"
        )
    return found


def write_mask(path: Path, side: int) -> int:
    """Write a Zarr mask of blobs without glass; return how many patches a render of it runs."""
    import zarr

    mask = zarr.create_array(path, shape=(side, side), chunks=(1024, 1024), dtype="uint8")
    for y in range(0, side, 1024):
        cells = np.random.default_rng(y).integers(1, 3, (16, -(-side // 64)), np.uint8)
        mask[y : y + 1024] = np.repeat(np.repeat(cells, 64, 0), 64, 1)[: min(1024, side - y), :side]
    return (-(-(side - (TILE - STRIDE)) // STRIDE)) ** 2


def whole(
    args: argparse.Namespace, model: Path, side: int, precision: str, best: float, folder: Path
) -> dict[str, Any]:
    """Render a slide as a user does, and compare it with the bare rate."""
    mask, report = folder / f"{side}.zarr", folder / "report.json"
    if not mask.exists():
        write_mask(mask, side)
    # As a module: the command may lie elsewhere than the interpreter.
    command = [sys.executable, "-m", "safron.engine", str(mask), str(folder / "slide.tiff")]
    command += [
        "--model",
        str(model),
        "--device",
        args.device,
        "--overwrite",
        "--quiet",
        "--report",
        str(report),
    ]
    command += ["--memory", args.memory] + (["--workers", str(args.workers)] if args.workers else [])
    command += [
        "--precision",
        precision if precision == "tf32" else "float32",
    ]  # a float16 graph needs no option
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ROW_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"  {side} x {side}: took more than {ROW_SECONDS} s", flush=True)
        return {"error": f"took more than {ROW_SECONDS} s"}
    wall = time.perf_counter() - start
    if done.returncode:
        print(f"  {side} x {side}: failed, {done.stderr.strip().splitlines()[-1:]}")
        return {"error": done.stderr.strip()[-160:]}
    made = json.loads(report.read_text())
    floor = made["generated"] / best if best else 0.0
    print(
        f"  {side} x {side} in {precision}: {wall:.1f} s, {made['seconds']:.1f} s without start-up; {made['generated']} patches; bare {floor:.1f} s, "
        f"share {floor / wall:.2f}, {floor / made['seconds']:.2f} without start-up; peak {made['peak_bytes'] / 2**20:.0f} MiB"
    )
    stages = made["stages"]
    return {
        "wall_s": round(wall, 2), "inside_s": round(made["seconds"], 2), "patches": made["generated"],
        "share": round(floor / wall, 3), "peak_mib": made["peak_bytes"] >> 20, "stages_s": stages,
    }  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One row.

    Attributes
    ----------
    key : generator, kind of row, and its place in the result.
    rank : the lowest is measured first.
    call : measures it, given the rows so far.
    """

    key: tuple[str, ...]
    rank: int
    call: Callable[[dict[tuple[str, ...], Any]], Any]


def steps(args: argparse.Namespace, name: str, file: Path, folder: Path) -> list[Step]:
    """All rows of a generator."""
    first, others = ways(args, file, folder)
    usual = 32 if 32 in args.batches else args.batches[0]
    listed = [
        Step(
            (name, "rates", str(way), str(batch)),
            0 if way in first and batch == usual else 4,
            partial(one_rate, args, way, batch, folder),
        )
        for way in [*first, *others]
        for batch in args.batches
    ]
    alone = [way for way in [*first, *others] if way.calls == 1]
    listed.append(Step((name, "parity"), 2, lambda rows: parity(file, alone, folder)))
    if absent := missing("safron") or missing("safron.engine", "zarr", "dask"):
        print(f"left out, whole slides: {', '.join(absent)} not installed")
        return listed
    for way in first:
        for number, side in enumerate(args.sides):
            if not way.nhwc:
                made = partial(
                    one_slide,
                    args,
                    way,
                    side,
                    [str(other) for other in [*first, *others] if other.precision == way.precision],
                    name,
                    folder,
                )
                listed.append(Step((name, "whole", way.precision, str(side)), 3 if number else 1, made))
    return listed


def one_rate(
    args: argparse.Namespace, way: Way, batch: int, cache: Path, rows: dict[tuple[str, ...], Any]
) -> Any:
    """Measure a way at a batch."""
    made = rate(way, batch, args.seconds, cache, calls=1 if args.tiny else 3)
    what = (
        made.get("error")
        or f"{made['patches_per_s']:10.1f} patches/s, {made['device_mib']} MiB on the device"
    )
    print(f"  {way!s:32} batch {batch:4}: {what}", flush=True)
    return made


def training(args: argparse.Namespace) -> list[Step]:
    """Rows of training steps on random tiles, eager: a compiler takes minutes."""
    bench = Path(__file__).with_name("training.py")
    if absent := missing("torch", "safron") or missing("safron.training"):
        print(f"left out, training: {', '.join(absent)} not installed")
        return []
    if not bench.is_file():
        print(f"left out, training: no {bench.name} beside this file")
        return []
    words = ["--device", args.device, "--only", "train", "--eager"]
    words += ["--size", "tiny", "--steps", "2"] if args.tiny else ["--steps", "10"]
    command = [sys.executable, str(bench), *words]
    return [
        Step(
            ("training", preset, str(batch)),
            3,
            partial(one_training, [*command, "--preset", preset, "--batch", str(batch)]),
        )
        for preset in ("safron-seamless", "safron")[: 1 if args.tiny else 2]
        for batch in ([1] if args.tiny else [3, 64])
    ]


def one_training(command: list[str], rows: dict[tuple[str, ...], Any]) -> Any:
    """Train some steps in a process of its own."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ROW_SECONDS)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {ROW_SECONDS} s"}
    if done.returncode:
        return {"error": done.stderr.strip()[-160:]}
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {command[-3]}, {command[-1]} tiles a step: {made['tiles_per_s']} tiles/s, {made['peak_mib']} MiB",
        flush=True,
    )
    return made


def one_slide(
    args: argparse.Namespace,
    way: Way,
    side: int,
    alike: list[str],
    name: str,
    folder: Path,
    rows: dict[tuple[str, ...], Any],
) -> Any:
    """Render a slide, beside the best bare rate in its precision that is known by now."""
    known = [
        row.get("patches_per_s", 0.0)
        for key, row in rows.items()
        if key[:2] == (name, "rates") and key[2] in alike
    ]
    return whole(args, way.file, side, way.precision, max(known, default=0.0), folder)


def measure(
    todo: list[Step], lines: Path | None, seconds: float
) -> tuple[dict[tuple[str, ...], Any], list[Step]]:
    """Measure the rows, the most important first, and write each down at once.

    Returns
    -------
    tuple[dict[tuple[str, ...], Any], list[Step]]
        All rows, those of an earlier run too, and what there was no time for.
    """
    rows: dict[tuple[str, ...], Any] = {}
    if lines is not None and lines.exists():
        for line in lines.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # the last may be cut
                key, value = json.loads(line)
                rows[tuple(key)] = value
    end, left, named = time.monotonic() + seconds, [], ""
    for step in sorted(todo, key=lambda step: step.rank):
        if step.key in rows:
            continue
        if time.monotonic() > end:
            left.append(step)
            continue
        if step.key[0] != named:
            named = step.key[0]
            print(f"\n{named}", flush=True)
        rows[step.key] = step.call(rows)
        if lines is not None:
            with lines.open("a", encoding="utf-8") as file:
                # The last line may have been cut when an earlier run was ended.
                file.write(f"\n{json.dumps([step.key, rows[step.key]])}\n")
                file.flush()
                os.fsync(file.fileno())
    return rows, left


def nested(rows: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Rows by generator, kind and place."""
    made: dict[str, Any] = {}
    for key, value in rows.items():
        part = made
        for name in key[:-1]:
            part = part.setdefault(name, {})
        part[key[-1]] = value
    return made


def main() -> None:
    """Parse, run, print."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument(
        "--models", type=Path, nargs="*", default=[], help="ONNX files besides those that ship"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument(
        "--sides", type=int, nargs="*", default=[8000, 32000], help="canvases of whole slides"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each bare measurement")
    parser.add_argument("--workers", type=int, help="of safron-render; unless given, as it chooses by cores")
    parser.add_argument("--memory", default="64GiB", help="of safron-render")
    parser.add_argument(
        "--lines", type=Path, help="a row is appended here as JSON when it is measured; rows in it are kept"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="no row is begun after so many")
    parser.add_argument(
        "--tiny", action="store_true", help="seconds in all: small batches, canvas and network"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where files go while it runs")
    args = parser.parse_args()
    if args.tiny:
        args.batches, args.sides, args.seconds, args.workers = [1, 2], [600], 0.0, 2
    if missing("onnxruntime"):
        sys.exit("gpu.py: onnxruntime is not installed; run: pip install onnxruntime-gpu")
    print(f"{device_name(args.device)}; the paper: 8000 x 8000 in under {PAPER_SECONDS:.0f} s on a TITAN X")
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        todo = [
            step
            for model, file in generators(args, folder).items()
            for step in steps(args, model, file, folder)
        ]
        todo += training(args)
        rows, left = measure(todo, args.lines, 60 * args.minutes)
    if left:
        print(f"no time left for {len(left)} rows; run it again with --lines, from {' '.join(left[0].key)}")
    print(json.dumps({"benchmark": "gpu", "device": device_name(args.device), "generators": nested(rows)}))


if __name__ == "__main__":
    main()
